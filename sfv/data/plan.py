"""Which window goes where: an epoch's order and its share for every rank and worker.

Everything here is arithmetic on the index, a pure function of the seed. So a stream's place in an epoch
is a few numbers (`StreamState`), every rank can compute what all others have had, and the rest of an
epoch can be dealt out anew to another number of ranks and workers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import DOMAINS
from sfv.data.table import EpisodeTable, Ints
from sfv.data.windows import WindowTable
from sfv.rng import seed_of

LastBatch = Literal["short", "pad", "drop"]


@dataclass(frozen=True)
class Topology:
    """Who shares an epoch.

    Args:
        ranks: training processes.
        workers: loader processes of each rank; 1 where a rank loads for itself.
        batch_size: windows a batch, on each rank.
    """

    ranks: int
    workers: int
    batch_size: int

    def __post_init__(self) -> None:
        if min(self.ranks, self.workers, self.batch_size) < 1:
            raise ValueError(f"{self}: all have to be at least 1")

    @property
    def slots(self) -> int:
        return self.ranks * self.workers


@dataclass(frozen=True)
class Leg:
    """A stretch of an epoch under one topology: `steps` batches for each rank."""

    topology: Topology
    steps: int

    def batches_of(self, worker: int) -> int:
        """How many of a rank's batches came from one of its workers: they deliver in turns."""
        return len(range(worker, self.steps, self.topology.workers))


@dataclass(frozen=True, eq=False)
class Share:
    """The batches of one slot.

    Args:
        items: places in the epoch's order, batch after batch.
        sizes: of the batches.
        repeated: how many items are there a second time.
    """

    items: Ints
    sizes: Ints
    repeated: int

    def first(self, count: int) -> Ints:
        """The items of the first `count` batches."""
        return self.items[: int(self.sizes[:count].sum())]

    def batches(self) -> Iterator[Ints]:
        """The items of each batch in turn."""
        stop = 0
        for size in self.sizes.tolist():
            yield self.items[stop : stop + size]
            stop += size


class EpochPlan:
    """The order of every epoch.

    Args:
        episodes: of all sources together.
        windows: cut from them.
        seed: of the order.
        shuffle_buffer: a window moves at most this many places, so that no more than so many windows
            wait in memory; shards come in a new order each epoch too. 1 keeps the stored order.
        last_batch: what becomes of windows that fill no batch. `short`: batches at the end are
            smaller, and every window comes once; a slot with fewer windows than batches (where
            `batch_size` is 1, each that got one window less) gives some again. `pad`: they are filled
            with windows that have been there. `drop`: they are left out.
        weights: passes over a domain's windows in one epoch; 1 where not named. 0.5 takes another half
            each epoch, 0 leaves the domain out.

    Raises:
        ValueError: an unknown domain, a negative weight, or nothing left to give.
    """

    def __init__(
        self,
        episodes: EpisodeTable,
        windows: WindowTable,
        seed: int = 0,
        shuffle_buffer: int = 1,
        last_batch: LastBatch = "short",
        weights: Mapping[str, int | float] | None = None,
    ) -> None:
        self.episodes, self.windows, self.seed = episodes, windows, seed
        self.shuffle_buffer, self.last_batch = shuffle_buffer, last_batch
        self.weights = dict(weights or {})
        for domain, weight in self.weights.items():
            if domain not in DOMAINS or not weight >= 0:
                raise ValueError(
                    f"weights: {domain}: {weight}; allowed are domains {DOMAINS} with a number >= 0"
                )
        self._order: tuple[int, Ints] | None = None
        if not len(self.order(0)):
            raise ValueError(
                "the data give no window: every domain has weight 0, or no episode is long enough"
            )

    def order(self, epoch: int) -> Ints:
        """The windows of an epoch in the order in which they are dealt out."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._make_order(epoch))
        return self._order[1]

    def _make_order(self, epoch: int) -> Ints:
        if self.shuffle_buffer == 1 and not self.weights:
            return np.arange(len(self.windows))
        shard = self.episodes.shard[self.windows.episode]
        rng = self._rng("order of shards", epoch)
        key = rng.permutation(int(shard.max(initial=0)) + 1) if self.shuffle_buffer > 1 else None
        domain = self.episodes.domain[self.windows.episode]
        parts: list[Ints] = []
        for number, name in enumerate(DOMAINS):
            mine = np.flatnonzero(domain == number)
            if key is not None:
                mine = mine[np.argsort(key[shard[mine]], kind="stable")]
            weight = self.weights.get(name, 1)
            whole, rest = int(weight), round((weight - int(weight)) * len(mine))
            again = np.sort(rng.permutation(len(mine))[:rest])
            parts.append(np.concatenate([np.tile(mine, whole), mine[again]]))
        places = np.concatenate(
            [(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts]
        )
        return np.concatenate(parts)[np.argsort(places, kind="stable")]

    def steps(self, epoch: int, legs: Sequence[Leg], topology: Topology) -> int:
        """Batches that each rank gets in the rest of an epoch, after `legs`."""
        return self._batches_a_slot(self._left(epoch, legs), epoch, topology) * topology.workers

    def repeats(self, epoch: int, legs: Sequence[Leg], topology: Topology) -> int:
        """Windows that all slots together give a second time, so that each has equally many batches."""
        left = self._left(epoch, legs)
        wanted = self._batches_a_slot(left, epoch, topology)
        held = np.diff(self._bounds(len(left), topology.slots))
        if self.last_batch == "drop":
            return 0
        if self.last_batch == "pad":
            given = np.where(held > 0, wanted * topology.batch_size, wanted)
        else:
            given = np.maximum(held, wanted)
        return int(given.sum()) - len(left)

    def share(self, epoch: int, legs: Sequence[Leg], topology: Topology, slot: int) -> Share:
        """The batches of slot `rank * workers + worker` in the rest of an epoch, in order."""
        left = self._left(epoch, legs)
        wanted = self._batches_a_slot(left, epoch, topology)
        return self._share(left, epoch, len(legs), topology, slot, wanted)

    def _left(self, epoch: int, legs: Sequence[Leg]) -> Ints:
        """Places in the epoch's order that no leg has had."""
        had = np.zeros(len(self.order(epoch)), dtype=bool)
        for number, leg in enumerate(legs):
            left, topology = np.flatnonzero(~had), leg.topology
            wanted = self._batches_a_slot(left, epoch, topology)
            for slot in range(topology.slots):
                share = self._share(left, epoch, number, topology, slot, wanted)
                worker = slot % topology.workers
                had[share.first(leg.batches_of(worker))] = True
        return np.flatnonzero(~had)

    def _bounds(self, num: int, slots: int) -> Ints:
        return np.arange(slots + 1) * num // slots

    def _batches_a_slot(self, left: Ints, epoch: int, topology: Topology) -> int:
        bounds = self._bounds(len(left), topology.slots)
        bucket = self.windows.bucket[self.order(epoch)[left]].astype(np.int64)
        slot = np.repeat(np.arange(topology.slots), np.diff(bounds))
        num = int(self.windows.bucket.max(initial=0)) + 1
        counts = np.bincount(slot * num + bucket, minlength=topology.slots * num)
        counts = counts.reshape(topology.slots, num)
        if self.last_batch == "drop":
            return int((counts // topology.batch_size).sum(axis=1).min())
        return int((-(-counts // topology.batch_size)).sum(axis=1).max())

    def _share(
        self, left: Ints, epoch: int, leg: int, topology: Topology, slot: int, wanted: int
    ) -> Share:
        low, high = self._bounds(len(left), topology.slots)[slot : slot + 2]
        mine = left[low:high]
        if self.shuffle_buffer > 1:
            jitter = self._rng("order of windows", epoch, leg, slot).random(len(mine))
            mine = mine[np.argsort(np.arange(len(mine)) + jitter * self.shuffle_buffer)]
        if not len(mine) and len(left):
            mine = left[slot % len(left)][None]  # fewer windows than slots: this one is repeated
            return Share(np.repeat(mine, wanted), np.ones(wanted, dtype=np.int64), wanted)
        bucket = self.windows.bucket[self.order(epoch)[mine]]
        share = _fill(mine, bucket, topology.batch_size, self.last_batch)
        return _equalise(share, wanted, self.last_batch)

    def _rng(self, purpose: str, *keys: int) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, purpose, *keys))


def _fill(items: Ints, bucket: NDArray[np.uint8], size: int, rule: LastBatch) -> Share:
    """Put items into batches of one bucket each, in the order in which the batches become full."""
    full: list[Ints] = [np.empty((0, size), dtype=np.int64)]
    rests: list[Ints] = []
    repeated = 0
    for number in np.unique(bucket):
        places = np.flatnonzero(bucket == number)
        whole = len(places) // size * size
        full.append(places[:whole].reshape(-1, size))
        rest = places[whole:]
        if len(rest) and rule == "pad":
            repeated += size - len(rest)
            rest = np.concatenate([rest, np.resize(places, size - len(rest))])
        if len(rest) and rule != "drop":
            rests.append(rest)
    rows = np.concatenate(full)
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    sizes = np.array([size] * len(rows) + [len(rest) for rest in rests], dtype=np.int64)
    return Share(items[np.concatenate([rows.ravel(), *rests])], sizes, repeated)


def _equalise(share: Share, wanted: int, rule: LastBatch) -> Share:
    """Bring a slot to the number of batches that all slots have.

    `drop` leaves out what is too much, `pad` gives first batches again. `short` halves its largest
    batches, so that no window comes twice; only a slot with fewer windows than batches repeats some.
    `EpochPlan.repeats` counts them.
    """
    items, sizes, repeated = share.items, share.sizes, share.repeated
    if rule == "drop":
        return Share(share.first(wanted), sizes[:wanted], repeated)
    while len(sizes) < wanted:
        largest = len(sizes) - 1 - int(np.argmax(sizes[::-1]))  # short ones come at the end
        half = sizes[largest] // 2
        if rule == "pad" or not half:
            again = share.first(1)
            items, sizes = np.concatenate([items, again]), np.append(sizes, len(again))
            repeated += len(again)
        else:
            sizes = np.insert(sizes, largest, half)
            sizes[largest + 1] -= half
    return Share(items, sizes, repeated)
