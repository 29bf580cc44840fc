"""Makes the videos of a row: for each protocol and part a folder, kept once it is finished."""

import json
from collections import Counter
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
from sfv.evaluation.return_walks import Trip, learn_ways_out, lent, request_back
from sfv.fast.addressed_learner import AddressedLearner
from sfv.fast.protocol import EpisodeMemory, MemoryLearner
from sfv.generation.kept import Kept
from sfv.generation.rollout import Request, Rollout, join
from sfv.generation.settings import GenerationSettings, rollout_of, row_of
from sfv.generation.videos import write_video
from sfv.models.world_model import WorldModel
from sfv.storage.weight_files import hash_tensors

Done = Callable[[int], None]
"""Told how many videos were made."""

Video = UInt8[Tensor, "t 3 height width"]
Chunks = Counter[str]
"""How many chunks were `learned`, and how many of them the guard has `undone`."""
Learned = dict[str, tuple[list[EpisodeMemory], list[int]]]
"""Memories of ways out and how many of their chunks were undone, by what decides them."""


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
        for unused in ("fast", "addressed", "videos_at_once"):
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
        learned: Learned = {}
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
                    made, chunks = self._make(task, protocol, trips[model], learned)
                    for walk, video in zip(walks, made, strict=True):
                        given = walk.turn if protocol == "return" else walk.first_chunk
                        whole = torch.cat([walk.video[:given], video])
                        write_video(kept.folder / f"{walk.meta.id}.mp4", whole, walk.meta.fps)
                    kept.write({name: chunks[name] for name in ("undone", "learned")})
                self.done(len(walks))

    def _make(
        self, task: RowTask, protocol: Protocol, trips: Sequence[Trip], learned: Learned
    ) -> tuple[list[Video], Chunks]:
        """The generated ends of the videos, and the chunks that were learned for them."""
        method, world = task.method, task.world
        if method.made == "decoded":
            return [_decoded(world, _true_end(trip, protocol)) for trip in trips], Chunks()
        if method.kind is not None:
            row = row_of(world, method.kind)
            with rollout_of(world, row, method.settings(self.generation)) as rollout:
                if protocol == "open":
                    return self._run(rollout, [_open(trip) for trip in trips])
                return self._back(task, rollout, trips, learned)
        if method.context != "newest":
            return [self._in_context(task, protocol, trip) for trip in trips], Chunks()
        with rollout_of(world, "none", self.generation) as rollout:
            if protocol == "open":
                return self._run(rollout, [_open(trip) for trip in trips])
            return self._run(rollout, [request_back(t, world.num_context) for t in trips])

    def _back(
        self, task: RowTask, rollout: Rollout, trips: Sequence[Trip], learned: Learned
    ) -> tuple[list[Video], Chunks]:
        """Ways back with a memory of the true way out."""
        method, world, learner = task.method, task.world, rollout.learner
        assert learner is not None
        memories, chunks = self._ways_out(task, learner, trips, learned)
        cases = list(zip(trips, memories, strict=True))
        if method.made == "read":
            assert isinstance(learner, AddressedLearner)
            return [_decoded(world, _said(learner, *case)) for case in cases], chunks
        if method.context == "newest":
            made, more = self._run(
                rollout, [request_back(trip, world.num_context, memory) for trip, memory in cases]
            )
            return made, chunks + more
        videos = []
        for trip, memory in cases:
            with learner.acting([memory], trip.actions_back[:1]):
                videos.append(self._in_context(task, "return", trip))
        return videos, chunks

    def _ways_out(
        self, task: RowTask, learner: MemoryLearner, trips: Sequence[Trip], learned: Learned
    ) -> tuple[list[EpisodeMemory], Chunks]:
        """The memory that each walk goes back with, and the chunks that were learned for them."""
        method = task.method
        settings: Any = method.fast or method.addressed
        # A way out is true: whether own chunks are learned decides nothing there.
        key = repr((id(task.world), replace(settings, own_chunks=True), method.order))
        if key not in learned:
            at_once = self.generation.videos_at_once
            learned[key] = learn_ways_out(learner, trips, at_once, method.order)
        memories, undone = learned[key]
        metas = [trip.episode.meta for trip in trips]
        chunks = Chunks(undone=sum(undone), learned=sum(trip.num_out for trip in trips))
        return lent(learner, metas, memories, method.memory), chunks

    def _run(self, rollout: Rollout, requests: Sequence[Request]) -> tuple[list[Video], Chunks]:
        made, counted = [], Chunks()
        at_once = self.generation.videos_at_once
        for first in range(0, len(requests), at_once):
            batch = requests[first : first + at_once]
            for request, chunks in zip(batch, rollout.run_many(batch), strict=True):
                reports = [chunk.learned for chunk in chunks if chunk.learned is not None]
                undone = sum(report.undone for report in reports)
                counted += Chunks(undone=undone, learned=len(reports))
                made.append(_decoded(rollout.model, join(request.start[:, :, :0], chunks)))
        return made, counted

    def _in_context(self, task: RowTask, protocol: Protocol, trip: Trip) -> Video:
        world, generation, episode = task.world, self.generation, trip.episode
        rollout = ContextRollout(world, generation.sampler, generation.seed, generation.precision)
        first = trip.num_out if protocol == "return" else 0
        past = episode.latents[:, :, : episode.meta.actions[first].stop]
        pick = _pick(task, generation, trip)
        made = rollout.run(episode.meta.id, past, episode.actions[first:], first, pick)
        return _decoded(world, made)


def chunks_of(folders: Mapping[Protocol, Path], parts: Sequence[str]) -> Chunks:
    """How many chunks were learned for finished videos, and how many of them the guard undid."""
    files = [folder / f"{part}.json" for folder in folders.values() for part in parts]
    return sum((Chunks(json.loads(path.read_bytes())["result"]) for path in files), Chunks())


def _true_end(trip: Trip, protocol: Protocol) -> Tensor:
    """The true latents of what a protocol generates."""
    first = trip.turn if protocol == "return" else trip.episode.meta.actions[0].stop
    return trip.episode.latents[:, :, first:]


def _said(learner: AddressedLearner, trip: Trip, memory: Any) -> Tensor:
    """What a memory says of each chunk of the way back; none of it is written."""
    num = learner.num_context
    context = trip.episode.latents[:, :, trip.turn - num : trip.turn]
    said = []
    for chunk, action in enumerate(trip.actions_back, trip.num_out):
        poses = [trip.poses(chunk)]
        said.append(learner.read([memory], [action], poses).values.cpu())
        pair = torch.cat([context, said[-1]], dim=2)
        learner.learn_allowed([memory], pair, [action], num, [True], poses)  # goes on to its pose
    return torch.cat(said, dim=2)


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
    start, poses = episode.latents[:, :, :first], episode.poses_after(first)
    return Request(episode.meta.id, start, episode.actions, poses=poses)


def _decoded(world: WorldModel, latents: Tensor) -> Video:
    video = world.decode(latents)[0]
    return (video.float().clamp(0, 1) * 255).round().byte()


def num_videos(tasks: Mapping[str, Method], protocols: Sequence[Protocol], num_walks: int) -> int:
    """Videos of all rows, for a progress bar."""
    return num_walks * sum(
        sum(protocol in method.protocols for protocol in protocols) for method in tasks.values()
    )
