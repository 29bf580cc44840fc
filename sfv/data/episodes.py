"""Whole episodes from shards, one after the other, and the checks of what a folder of shards holds."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from sfv.data.index import ShardError, ShardIndex, find_shards
from sfv.data.schema import EpisodeMeta
from sfv.data.shards import read_shard
from sfv.data.stages import decode


def latents_index(where: str | Path, codec_fingerprint: str | None = None) -> ShardIndex:
    """Find shards of latents and check which codec made them.

    Raises:
        ShardError: missing, truncated, video, or made by another codec than `codec_fingerprint`.
    """
    index = find_shards(where)
    if index.kind != "latents":
        raise ShardError(
            f"{where}: the shards hold {index.kind}; training reads latents: run "
            "python -m data_tools.encode_latents first"
        )
    if codec_fingerprint is not None and index.codec != codec_fingerprint:
        raise ShardError(
            f"{where}: the latents were made by codec {index.codec!r}, in use is codec "
            f"{codec_fingerprint!r}; give the codec file of then, or encode the shards again"
        )
    return index


def video_index(where: str | Path) -> ShardIndex:
    """Find shards of video or frames.

    Raises:
        ShardError: missing, truncated, or latents.
    """
    index = find_shards(where)
    if index.kind == "latents":
        raise ShardError(
            f"{where}: the shards hold latents, but data.read is video: set data.read to latents, or "
            "give the shards that they were encoded from"
        )
    return index


def episodes(where: str | Path, limit: int | None = None) -> Iterator[tuple[EpisodeMeta, Tensor]]:
    """Go through whole episodes in stored order.

    Args:
        where: a split's folder or a brace pattern, of video, frames or latents.
        limit: at most this many; None for all.

    Yields:
        metadata and float32 latents `c t h w`, or video `t 3 height width` in [0, 1].
    """
    index, left = find_shards(where), limit
    for shard in index.shards:
        path = index.folder / shard.name
        for sample in read_shard(path, shard):
            if left is not None and left <= 0:
                return
            frames = decode(sample, str(path)).float()
            yield sample.meta, frames if index.kind == "latents" else frames / 255
            left = None if left is None else left - 1
