"""Batches from shards: every window of an epoch, and a place that can be saved and resumed."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sfv import rng
from sfv.data.index import ShardError
from sfv.data.library import Library
from sfv.data.plan import EpochPlan, Leg, Topology
from sfv.data.schema import EpisodeMeta, SchemaError
from sfv.data.windows import WindowError
from sfv.texts import printable

Batch = TypeVar("Batch")
Episode = tuple[EpisodeMeta, Tensor]
logger = logging.getLogger("sfv.data")
REACH = 64
"""Batches before and behind an unreadable one among which another is looked for in its place."""


@dataclass(frozen=True)
class Place:
    """Where a stream stands: an epoch, the stretches of it that are done, the last one still going on."""

    epoch: int
    legs: tuple[Leg, ...]

    @property
    def done(self) -> tuple[Leg, ...]:
        return self.legs[:-1]

    @property
    def current(self) -> Leg:
        return self.legs[-1]


@dataclass
class Skipped:
    """What an epoch lost so far, on this rank.

    Args:
        windows: that no batch holds.
        repeats: windows that come again, where nothing of a batch could be read.
        samples: one message an episode: shard, place and reason.
    """

    windows: int = 0
    repeats: int = 0
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Delivery(Generic[Batch]):
    """A batch on its way from a loader process, with what could not be put into it."""

    batch: Batch
    skipped: Skipped


class SlotDataset(IterableDataset[Delivery[Batch]], Generic[Batch]):
    """What one rank's loader processes do: read, decode and put together their batches.

    Args:
        library: the episodes.
        plan: decides which windows.
        make: puts windows (their numbers in the plan) together, given the decoded episodes.
        place: where to go on.
        rank: of this training process.
    """

    def __init__(
        self,
        library: Library,
        plan: EpochPlan,
        make: Callable[[list[tuple[int, Episode]]], Batch],
        place: Place,
        rank: int,
    ) -> None:
        self.library, self.plan, self.make, self.place, self.rank = (
            library,
            plan,
            make,
            place,
            rank,
        )

    def __iter__(self) -> Iterator[Delivery[Batch]]:
        info, leg = get_worker_info(), self.place.current
        workers = leg.topology.workers
        # Loaders begin with their first process, so the one whose turn it is takes that place.
        worker = ((info.id if info else 0) + leg.steps) % workers
        had = leg.batches_of(worker)
        slot = self.rank * workers + worker
        share = self.plan.share(self.place.epoch, self.place.done, leg.topology, slot)
        order = self.plan.order(self.place.epoch)
        rows = self.plan.windows.episode
        self.library.expect(rows[order[share.items[len(share.first(had)) :]]])
        bad: set[int] = set()
        last: tuple[Batch, int] | None = None
        batches = [order[batch] for batch in share.batches()]
        for number, batch in enumerate(batches[had:], start=had):
            made, skipped = self._gather(batch, bad)
            if made is not None:
                last = made, len(batch) - skipped.windows
            else:
                last = last or self._stand_in(batches, number, set(bad))
                if last is None:
                    raise ShardError(f"nothing of {REACH} batches can be read: {skipped.samples}")
                skipped.repeats = last[1]
            yield Delivery(last[0], skipped)

    def _stand_in(
        self, batches: list[np.ndarray], number: int, bad: set[int]
    ) -> tuple[Batch, int] | None:
        """The nearest batch before an unreadable one, else behind it: what a run without a stop gives."""
        before = range(number - 1, max(number - REACH, 0) - 1, -1)
        for other in [*before, *range(number + 1, min(number + REACH, len(batches)))]:
            made, skipped = self._gather(batches[other], bad)
            if made is not None:
                return made, len(batches[other]) - skipped.windows
        return None

    def _gather(self, windows: np.ndarray, bad: set[int]) -> tuple[Batch | None, Skipped]:
        found: list[tuple[int, Episode]] = []
        skipped = Skipped()
        for window in windows.tolist():
            row = int(self.plan.windows.episode[window])
            if row in bad:
                skipped.windows += 1
                continue
            try:
                found.append((window, self.library.get(row)))
            except (ShardError, SchemaError, WindowError) as error:
                bad.add(row)
                skipped.windows += 1
                skipped.samples.append(f"{self.library.place(row)}: {error}")
        return (self.make(found) if found else None), skipped


class BatchStream(Generic[Batch]):
    """One rank's batches, epoch after epoch; an iterable with a length and a state for Lightning.

    Each `iter` goes on where the last one stopped, also in the middle of an epoch; behind an epoch's
    end the next begins. The length is that of the whole epoch.

    Args:
        library: the episodes.
        plan: the order.
        make: puts windows together to a batch.
        topology: ranks, workers and batch size of this run.
        rank: of this process.
        num_workers: loader processes; 0 loads in this one.
        max_skipped_share: of an epoch's windows that may be unreadable before it is an error.
        pin_memory: page-locked batches, for a GPU; where there are loader processes.
        restart: begin anew at each `iter`, in the same order (validation).

    Attributes:
        skipped: what this rank could not read in this epoch.
        repeats: windows of (the rest of) this epoch that come twice, on all ranks together.
    """

    def __init__(
        self,
        library: Library,
        plan: EpochPlan,
        make: Callable[[list[tuple[int, Episode]]], Batch],
        topology: Topology,
        rank: int = 0,
        num_workers: int = 0,
        max_skipped_share: float | int = 0.01,
        pin_memory: bool = False,
        restart: bool = False,
    ) -> None:
        self.library, self.plan, self.make = library, plan, make
        self.topology, self.rank, self.num_workers = topology, rank, num_workers
        self.max_skipped_share, self.pin_memory = max_skipped_share, pin_memory
        self.restart = restart
        self.skipped = Skipped()
        self._told = 0
        self.place = self._begin(0)

    def __len__(self) -> int:
        return sum(leg.steps for leg in self.place.done) + self._steps

    def __iter__(self) -> Iterator[Batch]:
        if self.restart or self.place.current.steps >= self._steps:
            self.place = self._begin(self.place.epoch + (not self.restart))
        self._tell_repeats()
        for delivery in self._loader():
            leg = self.place.current
            step = Leg(leg.topology, leg.steps + 1)
            self.place = Place(self.place.epoch, (*self.place.done, step))
            self._account(delivery.skipped)
            yield delivery.batch
        if self.skipped.samples:
            logger.warning(
                "epoch %d: %d windows of %d unreadable episodes were skipped, %d windows came again in "
                "their place",
                self.place.epoch, self.skipped.windows, len(self.skipped.samples), self.skipped.repeats,
            )  # fmt: skip

    def _tell_repeats(self) -> None:
        """Say how many windows come twice; once for each number, by one rank."""
        if self.repeats and self.repeats != self._told and self.rank == 0:
            logger.warning(
                "%d of %d windows come twice in this epoch, so that each of %d ranks x workers has "
                "equally many batches (last_batch %s, batch size %d)",
                self.repeats, len(self.plan.order(self.place.epoch)), self.topology.slots,
                self.plan.last_batch, self.topology.batch_size,
            )  # fmt: skip
        self._told = self.repeats

    def _loader(self) -> Iterable[Delivery[Batch]]:
        dataset = SlotDataset(self.library, self.plan, self.make, self.place, self.rank)
        if not self.num_workers:
            return dataset  # what a loader adds costs more than making a small batch
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.num_workers,
            generator=rng.stream(self.plan.seed, "loader", self.rank),
            pin_memory=self.pin_memory,
        )

    def state_dict(self) -> dict[str, Any]:
        """The place, in plain numbers; it costs nothing and its size does not grow."""
        return {
            "data": self.fingerprint(),
            "epoch": self.place.epoch,
            "legs": [[*asdict(leg.topology).values(), leg.steps] for leg in self.place.legs],
            "skipped_windows": self.skipped.windows,
            "repeated_windows": self.skipped.repeats,
            "skipped_samples": list(self.skipped.samples),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved place, with as many ranks and workers as there are now.

        Raises:
            ValueError: the place belongs to other data, or to another order of them.
        """
        if state["data"] != self.fingerprint():
            raise ValueError(
                "the checkpoint's place in the data means nothing here: the shards, the windows, the "
                "seed, shuffle_buffer, last_batch or the weights are not those of then. Restore them, "
                "or start a new run from the model (model.init_from)"
            )
        legs = [Leg(Topology(*map(int, leg[:3])), int(leg[3])) for leg in state["legs"]]
        if legs[-1].topology != self.topology:
            legs = [*(leg for leg in legs if leg.steps), Leg(self.topology, 0)]
        self._move(Place(int(state["epoch"]), tuple(legs)))
        repeats = state.get("repeated_windows", 0)  # a checkpoint of an older version has none
        self.skipped = Skipped(state["skipped_windows"], repeats, list(state["skipped_samples"]))
        if not self._steps:
            self.place = self._begin(self.place.epoch + 1)

    def fingerprint(self) -> str:
        """Short hash of what decides the order."""
        plan = self.plan
        parts = [
            self.library.fingerprint(), len(plan.windows), int(plan.windows.start.sum()), plan.seed,
            plan.shuffle_buffer, plan.last_batch, sorted(plan.weights.items()),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _begin(self, epoch: int) -> Place:
        place = Place(epoch, (Leg(self.topology, 0),))
        self._move(place)
        self.skipped = Skipped()
        if not self._steps:
            raise ValueError(
                f"{len(self.plan.windows)} windows are too few for {self.topology} with last_batch="
                f"{self.plan.last_batch!r}; use fewer workers, smaller batches or more data"
            )
        return place

    def _move(self, place: Place) -> None:
        self.place = place
        self._steps = self.plan.steps(place.epoch, place.done, self.topology)
        self.repeats = self.plan.repeats(place.epoch, place.done, self.topology)

    def _account(self, skipped: Skipped) -> None:
        for message in skipped.samples:
            logger.warning("skipped: %s", printable(message))
        self.skipped.windows += skipped.windows
        self.skipped.repeats += skipped.repeats
        self.skipped.samples += skipped.samples
        mine = len(self.plan.order(self.place.epoch)) / self.topology.ranks
        if self.skipped.windows > self.max_skipped_share * mine:
            shown = "; ".join(self.skipped.samples[:3])
            raise ShardError(
                f"{self.skipped.windows} of about {mine:.0f} windows of this epoch cannot be read, more "
                f"than max_skipped_share = {self.max_skipped_share}: {shown}. Repair the shards "
                "(check_shards), or raise data.max_skipped_share"
            )
