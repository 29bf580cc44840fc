"""A visit in words and numbers for its page, and as a video."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sfv.generation.settings import Row
from sfv.play.player import from_strip
from sfv.play.session import Node, Visit
from sfv.play.starts import Start
from sfv.report.video import encode_mp4, side_by_side

LABELS: dict[Row, str] = {
    "none": "without memory",
    "fast": "with memory",
    "temp_lora": "with temporal LoRA",
}
PANEL_PIXELS = 256
"""Small frames are enlarged by a whole factor up to about this width."""


def describe_nodes(visit: Visit) -> list[dict[str, Any]]:
    """What the page knows of each chunk, in the order they were made; unmeasured numbers are null."""
    return [_describe(node) for node in visit.nodes.values()]


def describe_starts(starts: Sequence[Start]) -> list[dict[str, Any]]:
    """What the page knows of each start; `shown` counts the chunks of its way out."""
    return [
        {"name": s.name, "fps": s.fps, "shown": len(s.shown), "back": list(s.way_back)}
        for s in starts
    ]


def _describe(node: Node) -> dict[str, Any]:
    learned = node.made.learned
    known: dict[str, Any] = {
        "number": node.number,
        "parent": node.parent,
        "depth": node.depth,
        "action": node.made.action,
        "shown": node.made.shown,
        "seconds": {row: round(value, 2) for row, value in node.made.seconds.items()},
    }
    if learned is not None:
        for name in ("loss", "gain", "drift"):
            value = getattr(learned, name)
            known[name] = value if math.isfinite(value) else None
        known["undone"] = learned.undone
    return known


def frames_of(path: Sequence[Node], row: Row, height: int) -> UInt8[np.ndarray, "t height width 3"]:
    """All frames of one future.

    Args:
        path: its chunks, the start first.
        row: one of the visit's.
        height: of a frame, in pixels.
    """
    return np.concatenate([from_strip(node.made.strips[row], height) for node in path])


def video_of(path: Sequence[Node], height: int, fps: int | float) -> bytes:
    """One future as an mp4, all rows side by side; arguments as of `frames_of`."""
    rows = list(path[0].made.latents)
    videos = [frames_of(path, row, height) for row in rows]
    upscale = max(1, round(PANEL_PIXELS / videos[0].shape[2]))
    return encode_mp4(side_by_side(videos, [LABELS[row] for row in rows], upscale=upscale), fps)
