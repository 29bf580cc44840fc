"""Reading actions back from frames."""
