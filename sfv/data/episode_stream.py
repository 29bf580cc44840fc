"""Whole episodes of latents, for the fast phase of the slow-fast loop."""

from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset, get_worker_info

from sfv import rng
from sfv.data.shards import ShardIndex, read_shard
from sfv.data.stages import decode, windows
from sfv.types import EpisodeBatch


class EpisodeStream(IterableDataset[EpisodeBatch]):
    """Episodes in a seeded order: the shards shuffled, and the episodes inside each.

    Every pass deals each episode to exactly one (rank, worker).

    Args:
        index: shards of latents.
        num_context: f_p.
        num_generated: f_g.
        seed: of the order.
        repeat: start the next pass at once, in a new order.
        rank: of this process among `world`.
        world: number of training processes.
    """

    def __init__(
        self,
        index: ShardIndex,
        num_context: int,
        num_generated: int,
        seed: int = 0,
        repeat: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.index, self.seed, self.repeat = index, seed, repeat
        self.num_context, self.num_generated = num_context, num_generated
        self.rank, self.world = rank, world
        self._passes = 0

    def __iter__(self) -> Iterator[EpisodeBatch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        slot, slots = self.rank * workers + worker, self.world * workers
        while True:
            number = self._passes
            self._passes += 1
            for place, episode in enumerate(self._one_pass(number)):
                if place % slots == slot:
                    yield episode
            if not self.repeat:
                return

    def _one_pass(self, number: int) -> Iterator[EpisodeBatch]:
        for shard_idx in self._order("episode-shards", len(self.index.shards), number):
            shard = self.index.shards[shard_idx]
            path = self.index.folder / shard.name
            samples = list(read_shard(path, shard))
            for i in self._order("episodes", len(samples), number, shard_idx):
                meta = samples[i].meta
                frames = decode(samples[i], str(path))
                pairs = windows(meta, frames, self.num_context, self.num_generated)
                yield EpisodeBatch(
                    key=meta.id,
                    pairs=torch.stack([pair.frames for pair in pairs]).float(),
                    actions=[pair.action for pair in pairs],
                )

    def _order(self, purpose: str, num: int, *keys: int) -> list[int]:
        generator = rng.stream(self.seed, purpose, *keys)
        order: list[int] = torch.randperm(num, generator=generator).tolist()
        return order
