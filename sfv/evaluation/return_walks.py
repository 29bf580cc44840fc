"""Going back after a true way out: what the ablation's table and the benchmark share.

Of each walk the true way out is learned, chunk by chunk, and nothing is generated meanwhile. Then the
way back is generated, with the walk's own memory or, as a control, with that of another walk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sfv import rng
from sfv.data.schema import EpisodeMeta
from sfv.fast.learner import FastLearner
from sfv.fast.memory import Memory
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


def trip_of(episode: TrueEpisode) -> Trip:
    """A walk with revisits, whose way back begins where a place comes again for the first time."""
    num = num_outbound(episode.meta)
    assert num is not None  # only walks with revisits are taken
    return Trip(episode, num)


def learn_ways_out(
    learner: FastLearner, trips: Sequence[Trip], at_once: int, order: Order = "walked"
) -> tuple[list[Memory], list[int]]:
    """Learn every way out from its true chunks.

    Args:
        learner: trains the memories.
        trips: the walks.
        at_once: walks in one batch.
        order: `shuffled` takes as many fast steps on the same pairs, and breaks what hangs on order.

    Returns:
        a memory a walk, and how many of its chunks the guard took back.
    """
    memories = [learner.fresh(trip.episode.meta.id) for trip in trips]
    undone = [0] * len(trips)
    orders = [_order(trip, order, learner.seed) for trip in trips]
    for first in range(0, len(trips), at_once):
        batch = range(first, min(first + at_once, len(trips)))
        for place in range(max(trips[i].num_out for i in batch)):
            going = [i for i in batch if place < trips[i].num_out]
            chunks = [orders[i][place] for i in going]
            pairs = [
                trips[i].pair(c, learner.num_context) for i, c in zip(going, chunks, strict=True)
            ]
            actions = [trips[i].episode.actions[c] for i, c in zip(going, chunks, strict=True)]
            reports = learner.learn(
                [memories[i] for i in going], torch.cat(pairs), actions, learner.num_context
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
    trip: Trip, num_context: int, memory: Memory | None = None, num_back: int | None = None
) -> Request:
    """The way back of a walk, behind its true way out.

    Args:
        trip: the walk.
        num_context: f_p.
        memory: Θ to go back with; None goes without.
        num_back: how many chunks; None takes the whole way.
    """
    last = None if num_back is None else trip.num_out + num_back
    start = trip.episode.latents[:, :, trip.turn - num_context : trip.turn]
    actions = trip.episode.actions[trip.num_out : last]
    return Request(trip.episode.meta.id, start, actions, memory=memory, first_chunk=trip.num_out)


def lent(learner: FastLearner, trip: Trip, memory: Memory) -> Memory:
    """A copy of a memory for a walk to go back with; the memory itself stays as it is."""
    copy = learner.fresh(trip.episode.meta.id)
    copy.theta.data.copy_(memory.theta)
    copy.restore(memory.extras())
    copy.num_chunks = trip.num_out  # the noise of a chunk is that of its place in this walk
    return copy


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
