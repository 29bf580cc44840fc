"""ViZDoom as a world to plan in: Freedoom levels, exact poses, walls that stop the walker."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import torch

from data_tools.collect.doom_engine import Engine, OffCourse, open_engine
from data_tools.collect.doom_film import FPS
from data_tools.collect.doom_level import Level
from data_tools.collect.doom_walks import ACTIONS, CHUNK_FRAMES, Pose, move
from data_tools.collect.pictures import shrink
from data_tools.plan_worlds.versions import version_of
from sfv.planning.environment import Position, Seen, Step

Execute = Literal["action", "change"]
SETUP = ("map", "seed", "x", "y", "yaw")


class DoomWorld:
    """A walker in a level of Freedoom: Phase 2; positions are x, y (map units) and yaw (degrees).

    Args:
        size: height and width of the frames, pixels.
        execute: a step is its `action` (12 units, or 5.625 degrees), or its `change` of pose.
        strafe: also "step left" and "step right".
    """

    unit = "map units"
    fps = FPS
    chunk_frames = CHUNK_FRAMES

    def __init__(self, size: int = 64, execute: Execute = "action", strafe: bool = False) -> None:
        self.size, self.how = size, execute
        self.actions = ACTIONS if strafe else ACTIONS[:4]
        self.name = f"ViZDoom {version_of('vizdoom')}, Freedoom: Phase 2"
        self._stack = ExitStack()
        self._engines: tuple[Engine, Engine] | None = None
        self._loaded: tuple[str, int] | None = None
        self._levels: dict[str, Level] = {}
        self._pose = Pose(0.0, 0.0, 0.0)

    def begin(self, setup: Mapping[str, Any]) -> Seen:
        if sorted(setup) != sorted(SETUP):
            raise ValueError(f"a Doom task is set up by {list(SETUP)}, got {sorted(setup)}")
        _, camera = self._open()
        self.level(setup["map"])
        wanted = (str(setup["map"]), int(setup["seed"]))
        if self._loaded != wanted:  # nothing moves in it, so it is as it was
            camera.load(*wanted, still=True)
            self._loaded = wanted
        self._pose = Pose(float(setup["x"]), float(setup["y"]), float(setup["yaw"]))
        return self._look()

    def execute(self, step: Step) -> Seen:
        wanted = move(self._pose, step.action)[0] if self.how == "action" else self._moved(step)
        return self._go(wanted)

    def perform(self, action: str) -> list[Seen]:
        if action not in self.actions:
            raise ValueError(f"no action {action!r} here; allowed: {list(self.actions)}")
        return [self._go(move(self._pose, action)[0]) for _ in range(CHUNK_FRAMES)]

    def save(self) -> Any:
        return self._pose

    def load(self, state: Any) -> None:
        self._pose = state

    def distance(self, a: Position, b: Position) -> float:
        """Straight, whatever the walker looks at."""
        return float(np.hypot(a[0] - b[0], a[1] - b[1]))

    def close(self) -> None:
        self._stack.close()
        self._engines, self._loaded = None, None

    def level(self, name: str) -> Level:
        """A level's geometry; reading one takes seconds, so it is kept."""
        if name not in self._levels:
            surveyor, _ = self._open()
            surveyor.load(name, seed=0)
            self._levels[name] = surveyor.level()
        return self._levels[name]

    def _open(self) -> tuple[Engine, Engine]:
        """The engines: one tells geometry, which makes its pictures slow."""
        if self._engines is None:
            surveyor = self._stack.enter_context(open_engine(survey=True))
            self._engines = surveyor, self._stack.enter_context(open_engine())
        return self._engines

    def _moved(self, step: Step) -> Pose:
        forward, left, _, turn = step.change
        yaw = np.radians(self._pose.yaw)
        x = self._pose.x + forward * np.cos(yaw) - left * np.sin(yaw)
        y = self._pose.y + forward * np.sin(yaw) + left * np.cos(yaw)
        return Pose(float(x), float(y), (self._pose.yaw + turn) % 360)

    def _go(self, wanted: Pose) -> Seen:
        """Stand there if one can; otherwise stay, but turn."""
        before = self._pose
        level = self._levels[self._loaded[0]] if self._loaded else None
        assert level is not None, "begin comes first"
        free = bool(level.clear(np.array([[wanted.x, wanted.y]]))[0])
        self._pose = wanted if free else Pose(before.x, before.y, wanted.yaw)
        try:
            return self._look()
        except OffCourse:  # a lift, a conveyor
            self._pose = before
            return self._look()

    def _look(self) -> Seen:
        _, camera = self._open()
        pictures, _ = camera.film([self._pose])
        frame = torch.from_numpy(shrink(pictures, self.size)[0]).permute(2, 0, 1).contiguous()
        return Seen(
            frame, (round(self._pose.x, 3), round(self._pose.y, 3), round(self._pose.yaw, 3))
        )
