"""Small episodes with frames that tell their own number."""

import dataclasses
from typing import Any

import numpy as np
import torch

from data_tools.files import VIDEO_CODEC, encode_mp4
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance
from sfv.data.shards import Sample
from sfv.data.stages import encode_latents
from sfv.rng import seed_of

CHUNK = 3
HEIGHT, WIDTH = 16, 24
CHANNELS, LATENT_HEIGHT, LATENT_WIDTH = 5, 2, 4
TEXTS = ("walk forward", "turn left", "walk backward", "turn right")


def make_meta(key: str = "a-000", num_chunks: int = 4, **changes: Any) -> EpisodeMeta:
    actions = tuple(Action(TEXTS[i % 4], i * CHUNK, (i + 1) * CHUNK) for i in range(num_chunks))
    meta = EpisodeMeta(
        id=key,
        split="train",
        scene="yard",
        domain="navigation",
        source="test",
        licence="CC0-1.0",
        fps=8.0,
        num_frames=num_chunks * CHUNK,
        height=HEIGHT,
        width=WIDTH,
        actions=actions,
        poses=None,
        revisits=(),
        provenance=Provenance("make", "1", "00"),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )
    return dataclasses.replace(meta, **changes)


def make_video(key: str, num_frames: int) -> np.ndarray:
    rng = np.random.default_rng(seed_of(0, "test-video", key))
    return rng.integers(0, 256, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


def video_sample(key: str = "a-000", num_chunks: int = 4, **changes: Any) -> Sample:
    meta = make_meta(key, num_chunks, **changes)
    return Sample(meta, encode_mp4(make_video(key, meta.num_frames), meta.fps))


def make_latents(number: float, num_frames: int) -> torch.Tensor:
    """Latents `c t h w` whose frame j holds number + j / 16 (exact in float16)."""
    frames = number + torch.arange(num_frames) / 16
    return frames.view(1, -1, 1, 1).repeat(CHANNELS, 1, LATENT_HEIGHT, LATENT_WIDTH)


def latents_sample(
    key: str = "a-000",
    num_chunks: int = 4,
    number: float = 0.0,
    codec: str = "c0de",
    **changes: Any,
) -> Sample:
    encoding = Encoding("latents", codec, "float16")
    meta = make_meta(key, num_chunks, encoding=encoding, **changes)
    return Sample(meta, encode_latents(make_latents(number, meta.num_frames)))
