"""Shards as training batches: windows for slow learning, whole episodes for the slow-fast loop."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from sfv.data.episodes import latents_index, video_index
from sfv.data.index import ShardError, ShardIndex
from sfv.data.library import Library
from sfv.data.plan import EpochPlan, LastBatch, Topology
from sfv.data.schema import EpisodeMeta
from sfv.data.sources import ShardSource
from sfv.data.stages import collate
from sfv.data.stream import BatchStream, Episode
from sfv.data.windows import Bucket, WindowError, WindowTable, cut_table, window_at, windows
from sfv.types import EpisodeBatch, WindowBatch

Read = Literal["latents", "video"]
Sources = str | ShardSource | list[str | ShardSource]
logger = logging.getLogger("sfv.data")


class EpisodeDataModule(pl.LightningDataModule):
    """Windows (context, action, target) or whole episodes, from shards of latents.

    An epoch holds every window, whatever the number of ranks and workers, and with batches of more than one
    window as a rule once; what comes twice is counted and logged (docs/streaming.md). A run goes on in the
    middle of an epoch with the very next batch, also with another number of ranks or workers.

    Args:
        train: folder of training shards (with `index.json`), its URL, a brace pattern inside it such
            as `data/train/train-{000000..000007}.tar`, or a list of these. A list's entry may also be
            `{index: FOLDER, read: "pipe:COMMAND {shard}"}`.
        val: the same for validation; None leaves validation out.
        batch_size: windows a batch, on each rank.
        num_context: f_p, clean frames before the action.
        num_generated: f_g, frames under the action.
        buckets: windows of several lengths: pairs [f_p, f_g]; a batch holds one of them. None: the one
            pair of `num_context` and `num_generated`. [[8, 8], [1, 7]] also learns first chunks
            from a single image.
        num_workers: loader processes a rank; 0 loads in the main process. The order of windows
            depends on it when it is above 1.
        shuffle_buffer: how many windows may wait in memory to be mixed; the order of shards is
            shuffled too. 1 keeps the stored order.
        last_batch: of windows that fill no batch: `short` gives them as smaller batches, so that every
            window comes once unless a rank has fewer windows than batches; `pad` fills up with windows
            that were there; `drop` leaves them out.
        weights: passes over a domain in one epoch, 1 where not named: {robot: 2, driving: 0.5}.
        max_skipped_share: of an epoch's windows that may be unreadable (each is logged and counted)
            before the run stops; 0 to 1.
        cache_mb: room for decoded episodes between two epochs, 10^6 bytes; used with num_workers 0.
        seed: of the order.
        codec_fingerprint: of the frame codec in use; shards made by another one are an error.
            None takes any.
        mode: what training sees: single `windows` in batches (slow learning), or whole `episodes`
            one by one (the slow-fast loop). Validation sees the same.
        with_poses: give each window the poses of its frames, NaN where its episode has none; the inverse
            dynamics model learns from them. For `windows`.
        read: what the shards hold. `video` needs the callback `sfv.training.encode.EncodeVideo`, which
            encodes each batch, and mode `windows`.

    Raises:
        ShardError: missing or truncated shards, video instead of latents or the other way round, another
            codec.
        ValueError: a number is out of its range, or episodes are asked for as video.
        WindowError: not one window fits.
    """

    def __init__(
        self,
        train: Sources,
        val: Sources | None = None,
        batch_size: int = 4,
        num_context: int = 8,
        num_generated: int = 8,
        buckets: list[tuple[int, int]] | None = None,
        num_workers: int = 0,
        shuffle_buffer: int = 4096,
        last_batch: LastBatch = "short",
        weights: dict[str, float] | None = None,
        max_skipped_share: float | int = 0.01,
        cache_mb: float | int = 1000,
        seed: int = 0,
        codec_fingerprint: str | None = None,
        mode: Literal["windows", "episodes"] = "windows",
        read: Read = "latents",
        with_poses: bool = False,
    ) -> None:
        super().__init__()
        _check_reading(mode, read)
        for name, value in (("batch_size", batch_size), ("shuffle_buffer", shuffle_buffer)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it has to be at least 1")
        self.mode, self.read = mode, read
        self.batch_size, self.num_workers = batch_size, num_workers
        self.num_context, self.num_generated = num_context, num_generated
        self.buckets: list[Bucket] = buckets or [(num_context, num_generated)]
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        self.last_batch, self.weights, self.with_poses = last_batch, weights, with_poses
        self.max_skipped_share, self.cache_mb = max_skipped_share, cache_mb
        self.train_shards = Shards.find(train, codec_fingerprint, read)
        self.val_shards = None if val is None else Shards.find(val, codec_fingerprint, read)

        self._train = self._cut(self.train_shards, "train")
        self._val = None if self.val_shards is None else self._cut(self.val_shards, "val")

    @property
    def codec_fingerprint(self) -> str:
        """Of the codec that made the training latents."""
        return self.train_shards.indexes[0].codec

    def train_dataloader(self) -> BatchStream[Any]:
        """Shuffled windows or episodes; see `last_batch` on those that come twice."""
        library, table, make = self._train
        plan = EpochPlan(
            library.table, table, self.seed, self.shuffle_buffer, self.last_batch, self.weights
        )
        return self._stream(library, plan, make, 1 if self.mode == "episodes" else self.batch_size)

    def val_dataloader(self) -> BatchStream[Any] | list[WindowBatch]:
        """Every window or episode, in stored order, as in training; nothing without `val`."""
        if self._val is None:
            return []
        library, table, make = self._val
        plan = EpochPlan(library.table, table, self.seed)
        batch_size = 1 if self.mode == "episodes" else self.batch_size
        return self._stream(library, plan, make, batch_size, restart=True)

    def _cut(self, shards: "Shards", split: str) -> tuple[Library, WindowTable, Any]:
        """Shards, what is cut from them, and what makes it."""
        library = shards.library(self.cache_mb)
        make: Any
        if self.mode == "episodes":
            make = EpisodeMaker(self.num_context, self.num_generated)
            table = whole_episodes(cut_table(library.table, [make.bucket]))
        else:
            table = cut_table(library.table, self.buckets)
            make = WindowMaker(table, tuple(self.buckets), self.with_poses)
        self._check(table, split)
        return library, table, make

    def _check(self, table: WindowTable, split: str) -> None:
        if not len(table):
            raise WindowError(
                f"{split}: no window of {self.buckets} [num_context, num_generated] frames under one "
                "action is in any episode; lower them, or collect longer episodes (--chunks)"
            )
        logger.info(
            "%s: %d windows from %d episodes; %d frames lie in no window",
            split,
            len(table),
            len(np.unique(table.episode)),
            table.unused_frames,
        )

    def _stream(
        self, library: Library, plan: EpochPlan, make: Any, batch_size: int, restart: bool = False
    ) -> BatchStream[Any]:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        return BatchStream(
            library,
            plan,
            make,
            Topology(world, max(1, self.num_workers), batch_size),
            rank,
            self.num_workers,
            self.max_skipped_share,
            pin_memory=torch.cuda.is_available(),
            restart=restart,
        )


def _check_reading(mode: str, read: Read) -> None:
    if mode == "episodes" and read == "video":
        raise ValueError(
            "data.read is video, but the slow-fast loop learns from latents: encode the shards with "
            "data_tools.encode_latents, and set data.read to latents"
        )


@dataclass(frozen=True)
class Shards:
    """Folders of shards that are read as one, with the commands that read them."""

    indexes: tuple[ShardIndex, ...]
    commands: tuple[str | None, ...]

    @classmethod
    def find(
        cls, where: Sources, codec_fingerprint: str | None = None, read: Read = "latents"
    ) -> "Shards":
        """Find them; see `latents_index`."""
        sources = where if isinstance(where, list) else [where]
        pairs = [(s.index, s.read) if isinstance(s, ShardSource) else (s, None) for s in sources]
        if read == "video":
            indexes = [video_index(root) for root, _ in pairs]
        else:
            indexes = [latents_index(root, codec_fingerprint) for root, _ in pairs]
        for index in indexes[1:]:
            if (index.codec, index.split) != (indexes[0].codec, indexes[0].split):
                raise ShardError(
                    f"{index.root} holds split {index.split!r} by codec {index.codec!r}, "
                    f"{indexes[0].root} split {indexes[0].split!r} by {indexes[0].codec!r}; one stream "
                    "needs one split and one codec"
                )
        return cls(tuple(indexes), tuple(command for _, command in pairs))

    def library(self, cache_mb: float | int) -> Library:
        return Library(self.indexes, self.commands, cache_mb)


@dataclass(frozen=True)
class WindowMaker:
    """Puts windows of one bucket together to a batch."""

    table: WindowTable
    buckets: tuple[Bucket, ...]
    with_poses: bool = False

    def __call__(self, found: Sequence[tuple[int, Episode]]) -> WindowBatch:
        table = self.table
        batch = collate(
            [
                window_at(
                    meta,
                    frames,
                    int(table.action[i]),
                    int(table.start[i]),
                    self.buckets[table.bucket[i]],
                )
                for i, (meta, frames) in found
            ]
        )
        if self.with_poses:
            places = ((meta, int(table.start[i]), int(table.bucket[i])) for i, (meta, _) in found)
            batch["poses"] = torch.stack([self._poses(*place) for place in places])
        return batch

    def _poses(self, meta: EpisodeMeta, start: int, bucket: int) -> Tensor:
        context, new = self.buckets[bucket]
        if meta.poses is None:
            return torch.full((context + new, 4), float("nan"))
        return torch.tensor(meta.poses[start - context : start + new], dtype=torch.float32)


@dataclass(frozen=True)
class EpisodeMaker:
    """Turns one episode into its chunk pairs."""

    num_context: int
    num_generated: int

    @property
    def bucket(self) -> Bucket:
        return (self.num_context, self.num_generated)

    def __call__(self, found: Sequence[tuple[int, Episode]]) -> EpisodeBatch:
        ((_, (meta, frames)),) = found
        pairs = windows(meta, frames, self.num_context, self.num_generated)
        batch = EpisodeBatch(
            key=meta.id,
            scene=meta.scene,
            pairs=torch.stack([pair.frames for pair in pairs]).float(),
            actions=[pair.action for pair in pairs],
        )
        if meta.poses is not None:
            poses = torch.tensor(meta.poses, dtype=torch.float64)
            starts = [int(pair.key.rsplit("/", 1)[1]) for pair in pairs]
            batch["poses"] = torch.stack([poses[s - 1 : s + self.num_generated] for s in starts])
        return batch


def whole_episodes(table: WindowTable) -> WindowTable:
    """One entry an episode in place of its windows."""
    _, first = np.unique(table.episode, return_index=True)
    return WindowTable(
        table.episode[first],
        table.action[first],
        table.start[first],
        table.bucket[first],
        table.unused_frames,
    )
