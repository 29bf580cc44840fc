"""All pairs of near bit strings, without comparing all pairs.

Each string is cut into bands of 16 bits. If two strings of B bands differ in fewer than 2 B bits, then
in some band they differ in at most one bit; so it is enough to compare strings that fall into one
bucket of a band, or into two buckets whose names differ in one bit. No near pair is missed.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BAND_BITS = 16
PAIRS_AT_ONCE = 2_000_000
"""Candidates compared together; bounds memory to about 200 MB."""

Pairs = NDArray[np.int64]


def near_pairs(codes: NDArray[np.uint64], max_distance: int) -> Pairs:
    """Find all pairs of rows that differ in at most `max_distance` bits.

    Args:
        codes: `n words`.
        max_distance: less than twice the number of bands (words times 4).

    Returns:
        `m 2`, first index < second index, sorted, none twice.

    Raises:
        ValueError: `max_distance` is beyond what the bands guarantee.
    """
    bands = np.ascontiguousarray(codes).view(np.uint16)
    if not 0 <= max_distance < 2 * bands.shape[1]:
        raise ValueError(
            f"max_distance {max_distance}: allowed are 0 to {2 * bands.shape[1] - 1} bits for codes "
            f"of {16 * bands.shape[1]} bits"
        )
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(bands.shape[1]):
        for left, right in _candidates(bands[:, band]):
            distance = np.bitwise_count(codes[left] ^ codes[right]).sum(axis=1)
            near = distance <= max_distance
            pairs = np.stack([left[near], right[near]], axis=1)
            found.append(np.unique(np.sort(pairs, axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)


def _candidates(values: NDArray[np.uint16]) -> Iterator[tuple[Pairs, Pairs]]:
    """Pairs of indices whose values are equal or differ in one bit; each pair once."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    places = np.arange(len(values))
    stops = np.searchsorted(ranked, ranked, side="right")
    yield from _expand(order, places, places + 1, stops)
    for bit in range(BAND_BITS):
        flip = np.uint16(1 << bit)
        rows = np.flatnonzero((ranked & flip) == 0)
        other = ranked[rows] | flip
        starts = np.searchsorted(ranked, other, side="left")
        yield from _expand(order, rows, starts, np.searchsorted(ranked, other, side="right"))


def _expand(
    order: NDArray[np.int64], rows: NDArray[np.int64], starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> Iterator[tuple[Pairs, Pairs]]:  # fmt: skip
    """Pair each of `rows` with the places `starts` to `stops`, in parts of bounded size."""
    counts = stops - starts
    some = counts > 0
    rows, starts, counts = rows[some], starts[some], counts[some]
    ends = np.cumsum(counts)
    first = 0
    while first < len(rows):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        part = counts[first:last]
        offsets = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        left = np.repeat(rows[first:last], part)
        right = np.repeat(starts[first:last], part) + offsets
        yield order[left], order[right]
        first = last
