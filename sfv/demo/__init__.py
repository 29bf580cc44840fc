"""`sfv demo`: the whole path, from a 3D engine to a report, on a small world."""
