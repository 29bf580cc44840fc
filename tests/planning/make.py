"""A toy world to plan in, its tasks, and world models that were never trained; no engine is needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.planning.environment import Position, Seen, Step
from sfv.planning.tasks import SubGoal, Task, TaskSet, Waypoint, save_tasks
from sfv.rng import stream

MOVES = {"east": (1.0, 0.0), "west": (-1.0, 0.0), "north": (0.0, 1.0)}
SIZE, CHUNK, CONTEXT = 16, 2, 3


class Meadow:
    """A plain on which every place has its own colours; x below `wall`."""

    unit, fps, chunk_frames, name = "paces", 8.0, CHUNK, "meadow 1"
    actions = tuple(MOVES)

    def __init__(self, wall: float = 100.0) -> None:
        self.wall, self.x, self.y = wall, 0.0, 0.0
        self.closed = False

    def begin(self, setup: Mapping[str, Any]) -> Seen:
        self.x, self.y = float(setup["x"]), 0.0
        return self._look()

    def execute(self, step: Step) -> Seen:
        dx, dy = MOVES[step.action]
        if self.x + dx < self.wall:
            self.x, self.y = self.x + dx, self.y + dy
        return self._look()

    def perform(self, action: str) -> list[Seen]:
        if action not in MOVES:
            raise ValueError(f"no action {action!r}")
        return [self.execute(Step(action, ())) for _ in range(CHUNK)]

    def save(self) -> Any:
        return self.x, self.y

    def load(self, state: Any) -> None:
        self.x, self.y = state

    def distance(self, a: Position, b: Position) -> float:
        return abs(a[0] - b[0]) + abs(a[1] - b[1])

    def close(self) -> None:
        self.closed = True

    def _look(self) -> Seen:
        draw = torch.rand(3, 4, 4, generator=stream(0, "meadow", int(self.x), int(self.y)))
        frame = (draw * 255).byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
        return Seen(frame, (self.x, self.y))


def meadow_task(name: str = "walk-0", x: float = 0.0, group: str = "walk") -> Task:
    """East and north to A, east to B, and back; north has no reverse, so the way back skips it."""
    script = (
        SubGoal("east", None, "a"),
        SubGoal("east", None, "b"),
        SubGoal("west", 1, "place_1", True),
        SubGoal("west", 0, "origin", True),
    )
    start = x + 2 * CHUNK
    ways = (("a", 1, False), ("b", 2, False), ("place_1", 1, True), ("origin", 0, True))
    points = tuple(
        Waypoint(n, (start + CHUNK * k, 0.0), earlier=earlier, shown=n != "place_1")
        for n, k, earlier in ways
    )
    return Task(
        name, group, "Go east twice, then back.", {"x": x}, ("east", "east"), script, points
    )


def meadow_tasks(path: Path, num: int = 2) -> TaskSet:
    tasks = tuple(meadow_task(f"walk-{i}", 10.0 * i) for i in range(num))
    found = TaskSet("meadow", 1, "meadow 1", "paces", 1.0, CHUNK, SIZE, tasks)
    save_tasks(found, path)
    return found


def make_world(
    folder: Path, actions: tuple[str, ...] = tuple(MOVES), chunk: int = CHUNK, seed: int = 0
) -> Path:
    """A tiny world model; its last layer is no longer zero, so that Θ changes what it imagines."""
    codec = PCAPatchCodec(latent_channels=5, patch=4)
    codec.fit(torch.rand(40, 3, SIZE, SIZE, generator=stream(0, "test-frames")))
    denoiser = VideoUNet("tiny", latent_channels=5, text_dim=6, seed=seed)
    last = denoiser.unet.conv_out
    torch.nn.init.normal_(last.weight, std=0.1, generator=stream(seed, "test-out"))
    text = ActionTable(actions, text_dim=6)
    WorldModel(denoiser, codec, text, NoiseSchedule(), CONTEXT, chunk).save(folder)
    return folder
