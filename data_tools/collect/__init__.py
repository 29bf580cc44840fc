"""Simulators that produce action-annotated episodes."""
