"""Converters from public data sets to folders of episodes; one module a format."""
