"""Inference-time (fast) learning and chunk-by-chunk rollouts."""
