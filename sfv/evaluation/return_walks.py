"""Going back after a true way out: what the ablation's table and the benchmark share.

Of each walk the true way out is learned, chunk by chunk, and nothing is generated meanwhile. Then the
way back is generated, with the walk's own memory or, as a control, with that of another walk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from sfv import rng
from sfv.data.schema import EpisodeMeta
from sfv.fast.protocol import EpisodeMemory, MemoryLearner
from sfv.generation.episodes import TrueEpisode, num_outbound
from sfv.generation.rollout import Request

Whose = Literal["own", "other_walk", "other_scene"]
"""Whose memory a walk goes back with: its own, that of another walk in its scene, or in another scene."""
Order = Literal["walked", "shuffled"]
"""In which order a way out is learned: as it was walked, or its chunk pairs in a random one."""


@dataclass(frozen=True)
class Trip:
    """A walk and the part of it that is its way out.

    Args:
        episode: the walk.
        num_out: chunks of the way out behind the given first one.
    """

    episode: TrueEpisode
    num_out: int

    @property
    def turn(self) -> int:
        """The frame at which the way back begins."""
        return self.episode.meta.actions[self.num_out].stop

    @property
    def actions_back(self) -> list[str]:
        """One action a chunk of the way back."""
        return self.episode.actions[self.num_out :]

    def pair(self, chunk: int, num_context: int) -> Tensor:
        """A true pair of the way out, `1 c t h w`."""
        action = self.episode.meta.actions[chunk + 1]
        return self.episode.latents[:, :, action.start - num_context : action.stop]

    def first_context(self, num_context: int) -> Tensor:
        """The newest true frames before the first chunk to make, `1 c t h w`."""
        first = self.episode.meta.actions[0].stop
        return self.episode.latents[:, :, first - num_context : first]

    def poses(self, chunk: int) -> Float64[Tensor, "n 4"] | None:
        """Recorded poses of a chunk, counted as `pair` does, with that of the frame before."""
        action = self.episode.meta.actions[chunk + 1]
        found = self.episode.poses_after(action.start)
        return None if found is None else found[: action.stop - action.start + 1]


def trip_of(episode: TrueEpisode) -> Trip:
    """A walk with revisits, whose way back begins where a place comes again for the first time."""
    num = num_outbound(episode.meta)
    assert num is not None  # only walks with revisits are taken
    return Trip(episode, num)


def learn_ways_out(
    learner: MemoryLearner, trips: Sequence[Trip], at_once: int, order: Order = "walked"
) -> tuple[list[EpisodeMemory], list[int]]:
    """Learn every way out from its true chunks.

    Args:
        learner: trains the memories.
        trips: the walks.
        at_once: walks in one batch.
        order: `shuffled` takes as many fast steps on the same pairs, and breaks what hangs on order.

    Returns:
        a memory a walk, and how many of its chunks the guard took back.
    """
    num = learner.num_context
    memories = [learner.fresh(trip.episode.meta.id, trip.first_context(num)) for trip in trips]
    undone = [0] * len(trips)
    orders = [_order(trip, order, learner.seed) for trip in trips]
    for first in range(0, len(trips), at_once):
        batch = range(first, min(first + at_once, len(trips)))
        for place in range(max(trips[i].num_out for i in batch)):
            going = [i for i in batch if place < trips[i].num_out]
            chunks = [orders[i][place] for i in going]
            places = list(zip(going, chunks, strict=True))
            reports = learner.learn(
                [memories[i] for i in going],
                torch.cat([trips[i].pair(chunk, num) for i, chunk in places]),
                [trips[i].episode.actions[chunk] for i, chunk in places],
                num,
                [trips[i].poses(chunk) for i, chunk in places],
            )
            for i, report in zip(going, reports, strict=True):
                undone[i] += report.undone
    return memories, undone


def _order(trip: Trip, order: Order, seed: int) -> list[int]:
    """Places of the pairs; a shuffled order is never the walked one, where there are two pairs."""
    walked = list(range(trip.num_out))
    if order == "walked" or trip.num_out < 2:
        return walked
    generator = rng.stream(seed, "shuffled-way-out", trip.episode.meta.id)
    shuffled = walked
    while shuffled == walked:
        shuffled = [int(i) for i in torch.randperm(trip.num_out, generator=generator)]
    return shuffled


def request_back(
    trip: Trip, num_context: int, memory: EpisodeMemory | None = None, num_back: int | None = None
) -> Request:
    """The way back of a walk, behind its true way out.

    Args:
        trip: the walk.
        num_context: f_p.
        memory: to go back with; None goes without.
        num_back: how many chunks; None takes the whole way.
    """
    last = None if num_back is None else trip.num_out + num_back
    start = trip.episode.latents[:, :, trip.turn - num_context : trip.turn]
    actions = trip.episode.actions[trip.num_out : last]
    poses = trip.episode.poses_after(trip.turn)
    end = trip.episode.meta.actions[trip.num_out + len(actions)].stop
    return Request(
        trip.episode.meta.id,
        start,
        actions,
        memory=memory,
        first_chunk=trip.num_out,
        poses=None if poses is None else poses[: end - trip.turn + 1],
    )


def lent(
    learner: MemoryLearner, walks: Sequence[EpisodeMeta], memories: Sequence[Any], whose: Whose
) -> list[EpisodeMemory]:
    """A copy of a memory for each walk to go back with; the memories themselves stay as they are.

    A copy stands at the end of its walk's own way out: noise and pose are those of that place.

    Args:
        learner: made the memories.
        walks: all of them.
        memories: what each walk has learned on its way out.
        whose: which of these it goes back with.

    Raises:
        ValueError: a walk finds none.
    """
    return [
        learner.lend(memories[partner(walks, i, whose)], memory)
        for i, memory in enumerate(memories)
    ]


def partner(walks: Sequence[EpisodeMeta], i: int, whose: Whose) -> int:
    """The walk whose memory walk `i` is given: the next one that fits, round and round.

    Raises:
        ValueError: no other walk fits.
    """
    if whose == "own":
        return i
    scene = walks[i].scene
    for step in range(1, len(walks)):
        other = (i + step) % len(walks)
        if (walks[other].scene == scene) == (whose == "other_walk"):
            return other
    raise ValueError(
        f"memory: {whose} needs another walk {'in' if whose == 'other_walk' else 'outside'} scene "
        f"{scene!r} of {walks[i].id}; give more episodes, or leave this row out"
    )
