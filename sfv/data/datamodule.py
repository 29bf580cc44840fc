"""Latents shards as training batches, in an order that is a pure function of the seed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sfv import rng
from sfv.data.episode_stream import EpisodeStream
from sfv.data.schema import EpisodeMeta
from sfv.data.shards import Shard, ShardError, ShardIndex, find_shards, read_shard
from sfv.data.stages import Window, collate, decode, windows
from sfv.types import WindowBatch

T = TypeVar("T")


class EpisodeDataModule(pl.LightningDataModule):
    """Windows (context, action, target) from shards of latents.

    Args:
        train: folder of training shards (with `index.json`), or a brace pattern inside it such as
            `data/train/train-{000000..000007}.tar`.
        val: the same for validation; None leaves validation out.
        batch_size: windows a batch, on each rank.
        num_context: f_p, clean frames before the action.
        num_generated: f_g, frames under the action; equals the actions' length.
        num_workers: loader processes a rank; 0 loads in the main process. The order of windows
            depends on it when it is above 1.
        shuffle_buffer: windows held in memory that are shuffled together; the order of shards is
            shuffled too. 1 keeps the stored order inside a shard.
        seed: of the order.
        repeat: go through the training data for ever, in a new order each time, so that `max_steps`
            decides; False ends each pass.
        codec_fingerprint: of the frame codec in use; shards made by another one are an error.
            None takes any.
        cache: keep decoded shards in memory (their size on disk, each worker its own copy).
        mode: what training sees: single `windows` in batches (slow learning), or whole `episodes`
            one by one (the slow-fast loop). Validation always sees windows.

    Raises:
        ShardError: missing or truncated shards, video instead of latents, another codec.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        batch_size: int = 4,
        num_context: int = 8,
        num_generated: int = 8,
        num_workers: int = 0,
        shuffle_buffer: int = 4096,
        seed: int = 0,
        repeat: bool = True,
        codec_fingerprint: str | None = None,
        cache: bool = True,
        mode: Literal["windows", "episodes"] = "windows",
    ) -> None:
        super().__init__()
        self.mode = mode
        for name, value in (("batch_size", batch_size), ("shuffle_buffer", shuffle_buffer)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it has to be at least 1")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.num_context, self.num_generated = num_context, num_generated
        self.shuffle_buffer, self.seed, self.repeat, self.cache = (
            shuffle_buffer,
            seed,
            repeat,
            cache,
        )
        self.train_index = latents_index(train, codec_fingerprint)
        self.val_index = latents_index(val, codec_fingerprint) if val is not None else None

    @property
    def codec_fingerprint(self) -> str:
        """Of the codec that made the training latents."""
        return self.train_index.codec

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled windows or episodes; endless when `repeat`."""
        if self.mode == "episodes":
            return self._episode_loader()
        return self._loader(self.train_index, self.shuffle_buffer, self.repeat)

    def val_dataloader(self) -> DataLoader[Window] | list[WindowBatch]:
        """Every window once, in stored order; nothing without `val`."""
        if self.val_index is None:
            return []
        return self._loader(self.val_index, 1, False)

    def _loader(self, index: ShardIndex, shuffle_buffer: int, repeat: bool) -> DataLoader[Window]:
        rank, world = self._rank_and_world()
        stream = WindowStream(
            index,
            self.num_context,
            self.num_generated,
            shuffle_buffer=shuffle_buffer,
            seed=self.seed,
            repeat=repeat,
            rank=rank,
            world=world,
            cache=self.cache,
        )
        return DataLoader(
            stream,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            generator=rng.stream(self.seed, "loader", rank),
            persistent_workers=self.num_workers > 0,
        )

    def _episode_loader(self) -> DataLoader[Any]:
        rank, world = self._rank_and_world()
        stream = EpisodeStream(
            self.train_index,
            self.num_context,
            self.num_generated,
            self.seed,
            self.repeat,
            rank,
            world,
        )
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            generator=rng.stream(self.seed, "loader", rank),
        )

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class WindowStream(IterableDataset[Window]):
    """Windows in an order that depends on nothing but the arguments and the pass.

    Every pass deals each window to exactly one (rank, worker): by shard where there are enough of
    them, else window by window, for which each worker reads every shard.

    Args:
        index: shards of latents.
        num_context: f_p.
        num_generated: f_g.
        shuffle_buffer: windows shuffled together; 1 also keeps the order of the shards.
        seed: of the order.
        repeat: start the next pass at once.
        rank: of this process among `world`.
        world: number of training processes.
        cache: keep decoded shards in memory.
    """

    def __init__(
        self,
        index: ShardIndex,
        num_context: int,
        num_generated: int,
        shuffle_buffer: int = 1,
        seed: int = 0,
        repeat: bool = False,
        rank: int = 0,
        world: int = 1,
        cache: bool = True,
    ) -> None:
        self.index, self.seed = index, seed
        self.num_context, self.num_generated = num_context, num_generated
        self.shuffle_buffer, self.repeat = shuffle_buffer, repeat
        self.rank, self.world = rank, world
        self._cache: dict[str, list[Window]] | None = {} if cache else None
        self._passes = 0

    def __iter__(self) -> Iterator[Window]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        slot, slots = self.rank * workers + worker, self.world * workers
        while True:
            number, count = self._passes, 0
            self._passes += 1
            for window in self.one_pass(number, slot, slots):
                yield window
                count += 1
            if not self.repeat:
                return
            if not count:
                raise ShardError(
                    f"{self.index.folder}: fewer windows than {slots} ranks x workers, so some get "
                    "none; lower num_workers or add episodes"
                )

    def one_pass(self, number: int, slot: int, slots: int) -> Iterator[Window]:
        """One slot's share of pass `number`."""
        order = self._shuffled(list(self.index.shards), "shards", number)
        by_shard = len(order) >= slots
        mine = order[slot::slots] if by_shard else order
        every, offset = (1, 0) if by_shard else (slots, slot)
        stream = (window for shard in mine for window in self._windows(shard))
        chosen = (window for i, window in enumerate(stream) if i % every == offset)
        block: list[Window] = []
        blocks = 0
        for window in chosen:
            block.append(window)
            if len(block) == self.shuffle_buffer:
                yield from self._shuffled(block, "windows", number, slot, blocks)
                block, blocks = [], blocks + 1
        yield from self._shuffled(block, "windows", number, slot, blocks)

    def _shuffled(self, items: Sequence[T], purpose: str, *keys: int) -> Sequence[T]:
        if self.shuffle_buffer == 1:
            return items
        generator = rng.stream(self.seed, f"order of {purpose}", *keys)
        return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]

    def _windows(self, shard: Shard) -> list[Window]:
        if self._cache is not None and shard.name in self._cache:
            return self._cache[shard.name]
        path = self.index.folder / shard.name
        found = [
            window
            for sample in read_shard(path, shard)
            for window in windows(
                sample.meta, decode(sample, str(path)), self.num_context, self.num_generated
            )
        ]
        if self._cache is not None:
            self._cache[shard.name] = found
        return found


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


def episodes(where: str | Path, limit: int | None = None) -> Iterator[tuple[EpisodeMeta, Tensor]]:
    """Go through whole episodes in stored order.

    Args:
        where: a split's folder or a brace pattern, of video or latents.
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
