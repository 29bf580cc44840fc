"""Ratios measured side by side in one run. Each module is a command; none is timed by a test."""
