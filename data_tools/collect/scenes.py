"""Numbered scenes: the last digit of a scene's number tells its split, so none stands in two."""

LAST_DIGITS = {"train": (0, 1, 2, 3, 4, 5, 6, 7), "val": (8,), "test": (9,)}


def scene_number(split: str, place: int) -> int:
    """Number of the `place`-th scene (from 0) of a split."""
    tens, unit = divmod(place, len(LAST_DIGITS[split]))
    return 10 * tens + LAST_DIGITS[split][unit]
