"""Makes the videos of a row: for each protocol and part a folder, kept once it is finished."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from sfv.evaluation.benchmark.context import (
    ContextRollout,
    Pick,
    bought_frames,
    long_context,
    retrieval,
)
from sfv.evaluation.benchmark.methods import Method, Protocol
from sfv.evaluation.benchmark.walks import Walk
from sfv.evaluation.return_walks import Trip, learn_ways_out, lent, partner, request_back
from sfv.fast.learner import FastLearner
from sfv.fast.memory import Memory
from sfv.generation.kept import Kept
from sfv.generation.rollout import Request, Rollout, join
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.generation.videos import write_video
from sfv.models.world_model import WorldModel
from sfv.storage.weight_files import hash_tensors

Done = Callable[[int], None]
"""Told how many videos were made."""


@dataclass(frozen=True)
class RowTask:
    """A row to make.

    Args:
        name: of the row.
        method: how.
        world: Φ; baselines share it.
    """

    name: str
    method: Method
    world: WorldModel

    def settings(self, generation: GenerationSettings) -> dict[str, Any]:
        """What decides its videos, besides the walks."""
        shared = asdict(generation)
        for unused in ("fast", "videos_at_once"):
            del shared[unused]
        bought = bought_frames(self.world, generation.sampler, generation.fast)
        return {
            "model": self.world.fingerprint(),
            "start": None if self.world.start is None else hash_tensors(self.world.start),
            "method": asdict(self.method),
            **shared,
            **({"bought_frames": bought} if self.method.context == "long" else {}),
        }


class Maker:
    """Makes what is missing of all rows, part by part.

    Args:
        folder_of: from the name of a row to its folder.
        generation: sampler, fast learning, seed.
        done: told of every part's videos that are there.
    """

    def __init__(
        self, folder_of: Callable[[str], Path], generation: GenerationSettings, done: Done
    ) -> None:
        self.folder_of, self.generation, self.done = folder_of, generation, done

    def make_part(
        self, tasks: Sequence[RowTask], protocols: Sequence[Protocol], walks: Sequence[Walk]
    ) -> None:
        """Make the videos of one part; memories learned for one row serve its controls too."""
        trips: dict[int, list[Trip]] = {}
        learned: dict[str, tuple[list[Memory], list[int]]] = {}
        for task in tasks:
            for protocol in [p for p in protocols if p in task.method.protocols]:
                kept = Kept(
                    self.folder_of(task.name) / protocol,
                    walks[0].part,
                    task.settings(self.generation) | {"walks": [walk.meta.id for walk in walks]},
                )
                if kept.read() is None:
                    model = id(task.world)
                    if model not in trips:
                        trips[model] = [walk.trip(task.world) for walk in walks]
                    made, undone = self._make(task, protocol, trips[model], learned)
                    for walk, video in zip(walks, made, strict=True):
                        given = walk.turn if protocol == "return" else walk.first_chunk
                        whole = torch.cat([walk.video[:given], video])
                        write_video(kept.folder / f"{walk.meta.id}.mp4", whole, walk.meta.fps)
                    kept.write({"undone": undone})
                self.done(len(walks))

    def _make(
        self,
        task: RowTask,
        protocol: Protocol,
        trips: Sequence[Trip],
        learned: dict[str, tuple[list[Memory], list[int]]],
    ) -> tuple[list[UInt8[Tensor, "t 3 height width"]], int]:
        """The generated ends of the videos, and how often the guard took back what was learned."""
        method, world = task.method, task.world
        if method.fast is None:
            if method.context != "newest":
                return [self._in_context(task, protocol, trip) for trip in trips], 0
            with rollout_of(world, "none", self.generation) as rollout:
                if protocol == "open":
                    return self._run(rollout, [_open(trip) for trip in trips])
                return self._run(rollout, [request_back(t, world.num_context) for t in trips])
        with rollout_of(world, "fast", replace(self.generation, fast=method.fast)) as rollout:
            if protocol == "open":
                return self._run(rollout, [_open(trip) for trip in trips])
            learner = rollout.learner
            assert learner is not None
            memories, taken_back = self._ways_out(task, learner, trips, learned)
            if method.context != "newest":
                made = []
                for trip, memory in zip(trips, memories, strict=True):
                    with learner.acting([memory]):
                        made.append(self._in_context(task, protocol, trip))
                return made, taken_back
            cases = zip(trips, memories, strict=True)
            made, undone = self._run(
                rollout, [request_back(trip, world.num_context, memory) for trip, memory in cases]
            )
            return made, undone + taken_back

    def _ways_out(
        self,
        task: RowTask,
        learner: FastLearner,
        trips: Sequence[Trip],
        learned: dict[str, tuple[list[Memory], list[int]]],
    ) -> tuple[list[Memory], int]:
        """The memory that each walk goes back with, and how many of its chunks the guard took back."""
        fast, order = task.method.fast, task.method.order
        assert fast is not None
        # A way out is true: whether own chunks are learned decides nothing there.
        key = repr((id(task.world), replace(fast, own_chunks=True), order))
        if key not in learned:
            learned[key] = learn_ways_out(learner, trips, self.generation.videos_at_once, order)
        memories, undone = learned[key]
        metas = [trip.episode.meta for trip in trips]
        whose = [partner(metas, i, task.method.memory) for i in range(len(trips))]
        own = [lent(learner, trip, memories[i]) for trip, i in zip(trips, whose, strict=True)]
        return own, sum(undone)

    def _run(
        self, rollout: Rollout, requests: Sequence[Request]
    ) -> tuple[list[UInt8[Tensor, "t 3 height width"]], int]:
        made, undone = [], 0
        at_once = self.generation.videos_at_once
        for first in range(0, len(requests), at_once):
            batch = requests[first : first + at_once]
            for request, chunks in zip(batch, rollout.run_many(batch), strict=True):
                undone += sum(c.learned is not None and c.learned.undone for c in chunks)
                made.append(_decoded(rollout.model, join(request.start[:, :, :0], chunks)))
        return made, undone

    def _in_context(
        self, task: RowTask, protocol: Protocol, trip: Trip
    ) -> UInt8[Tensor, "t 3 height width"]:
        world, generation, episode = task.world, self.generation, trip.episode
        rollout = ContextRollout(world, generation.sampler, generation.seed, generation.precision)
        first = trip.num_out if protocol == "return" else 0
        past = episode.latents[:, :, : episode.meta.actions[first].stop]
        pick = _pick(task, generation, trip)
        made = rollout.run(episode.meta.id, past, episode.actions[first:], first, pick)
        return _decoded(world, made)


def num_undone(folders: Mapping[Protocol, Path], parts: Sequence[str]) -> int:
    """Chunks of finished videos whose learning the guard took back."""
    files = [folder / f"{part}.json" for folder in folders.values() for part in parts]
    return sum(json.loads(path.read_bytes())["result"]["undone"] for path in files)


def _pick(task: RowTask, generation: GenerationSettings, trip: Trip) -> Pick:
    world, meta = task.world, trip.episode.meta
    if task.method.context == "long":
        bought = bought_frames(world, generation.sampler, generation.fast)
        return long_context(world.num_context, bought)
    if meta.poses is None:
        raise ValueError(
            f"row {task.name}: episode {meta.id} has no poses to retrieve by; leave this row out"
        )
    return retrieval(meta.poses, world.num_context, world.num_generated)


def _open(trip: Trip) -> Request:
    episode = trip.episode
    first = episode.meta.actions[0].stop
    return Request(episode.meta.id, episode.latents[:, :, :first], episode.actions)


def _decoded(world: WorldModel, latents: Tensor) -> UInt8[Tensor, "t 3 height width"]:
    video = world.decode(latents)[0]
    return (video.float().clamp(0, 1) * 255).round().byte()


def num_videos(tasks: Mapping[str, Method], protocols: Sequence[Protocol], num_walks: int) -> int:
    """Videos of all rows, for a progress bar."""
    return num_walks * sum(
        sum(protocol in method.protocols for protocol in protocols) for method in tasks.values()
    )
