"""Fixed benchmarks of long memory: held-out walks with hashes, protocols, rows, scores of any system."""
