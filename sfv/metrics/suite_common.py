"""What both suites share: defaults, hashes of the true videos, loops that report progress."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sfv.metrics.lpips import WEIGHTS, Net
from sfv.metrics.protocol import Passport
from sfv.metrics.video import check_video

Progress = Callable[[str, int, int], None]
"""Called with (what is measured, episodes done, episodes in all)."""


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""
    del what, done, total


def videos_hash(videos: Sequence[Tensor]) -> str:
    """Short hash of the pixels, rounded to 8 bits."""
    digest = hashlib.sha256()
    for video in videos:
        frames = (check_video(video) * 255).round().to(torch.uint8).cpu().contiguous()
        digest.update(repr(tuple(frames.shape)).encode())
        digest.update(frames.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_lists(a: Sequence[object], b: Sequence[object], name_a: str, name_b: str) -> None:
    """Refuse lists of different or no length."""
    if not a or len(a) != len(b):
        raise ValueError(
            f"{len(a)} {name_a} and {len(b)} {name_b}; give one of each for every episode, "
            "at least one episode"
        )


def for_each(what: str, progress: Progress, num: int, score: Callable[[int], float]) -> list[float]:
    """Score each episode and tell how far it is."""
    values = []
    for i in range(num):
        progress(what, i, num)
        values.append(score(i))
    progress(what, num, num)
    return values


def mean(values: Tensor) -> float:
    """Mean in float64."""
    return float(values.double().mean())


def lpips_passport(base: Passport, net: Net) -> Passport:
    """Add the network of LPIPS."""
    return replace(base, network=WEIGHTS[net].name, network_sha256=WEIGHTS[net].sha256)
