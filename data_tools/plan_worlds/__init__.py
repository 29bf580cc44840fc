"""Simulators as `sfv.planning.environment.Environment`, and the tool that writes tasks for them."""
