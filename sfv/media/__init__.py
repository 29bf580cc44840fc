"""Video and pictures: one reader for all that users hand over, its limits, and fitting to a size."""
