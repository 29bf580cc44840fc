"""Memory, compute and days of a training run, without a GPU, data or weights."""
