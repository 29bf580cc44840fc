"""What generated videos are worth: protocols, baselines, measures."""
