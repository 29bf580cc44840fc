"""Episodes, WebDataset shards and the Lightning data module."""
