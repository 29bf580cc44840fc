"""Data preparation: collect, convert, shard and encode action-annotated video."""
