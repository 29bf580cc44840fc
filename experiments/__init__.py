"""Runs: configs, sweeps and the cluster."""
