"""Named random generators: every random number is a pure function of (seed, purpose, keys).

Nothing in the project draws from a global generator, so resuming a run, or doing fast and slow
steps in another order, changes no number.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = int | str


def seed_of(seed: int, purpose: str, *keys: Key) -> int:
    """Hash (seed, purpose, keys) to 63 bits; equal arguments give equal seeds on every platform.

    Raises:
        TypeError: a key is no plain `int` or `str`: a NumPy 3, say, would be hashed unlike a 3.
    """
    for key in (seed, *keys):
        if type(key) not in (int, str):
            raise TypeError(
                f"{key!r} ({type(key).__name__}) cannot name a stream of {purpose!r}; "
                "convert it with int() or str()"
            )
    digest = hashlib.blake2b(repr((seed, purpose, *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, purpose: str, *keys: Key) -> torch.Generator:
    """Return a CPU generator for one purpose.

    Args:
        seed: the run's seed.
        purpose: what is drawn, e.g. `"slow-noise"`.
        keys: what tells two draws of one purpose apart: step, rank, episode, chunk.
    """
    import torch

    return torch.Generator().manual_seed(seed_of(seed, purpose, *keys))
