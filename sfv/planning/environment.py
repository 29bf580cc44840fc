"""The world in which plans are executed, as planning sees it: reset, one step, one frame, one position.

ViZDoom and Meta-World follow this protocol in `data_tools.plan_worlds`; `docs/planning.md` shows how
another simulator joins. The library imports no simulator: a config names the class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Position = tuple[float, ...]
"""Of what `Dist` is measured on, in the world's own numbers: the agent, or the thing it handles."""


@dataclass(frozen=True)
class Seen:
    """What one step shows.

    Args:
        frame: `3 height width`, bytes.
        position: after the step.
    """

    frame: UInt8[Tensor, "3 height width"]
    position: Position


@dataclass(frozen=True)
class Step:
    """One step to execute, as an inverse dynamics model read it from two frames.

    Args:
        action: the most probable action.
        change: the change of pose, `sfv.models.inverse_dynamics.POSE`.
    """

    action: str
    change: tuple[float, ...]


@runtime_checkable
class Environment(Protocol):
    """A simulator, or a robot that can be put back.

    Attributes:
        actions: every action that a chunk can be asked for, in words.
        name: engine with its version; goes into passports.
        unit: of `distance`, e.g. "m".
        fps: frames a second.
        chunk_frames: frames that one action of `perform` lasts.
    """

    actions: tuple[str, ...]
    name: str
    unit: str
    fps: float
    chunk_frames: int

    def begin(self, setup: Mapping[str, Any]) -> Seen:
        """Lay out a task; equal setups give equal worlds.

        Raises:
            ValueError: the setup is none of this world.
        """
        ...

    def execute(self, step: Step) -> Seen:
        """Do one step, a frame long; one that is impossible (a wall) leaves everything where it is."""
        ...

    def perform(self, action: str) -> list[Seen]:
        """Do a whole chunk of an action as this world's own script does it.

        Raises:
            ValueError: the action is none of `actions`.
        """
        ...

    def save(self) -> Any:
        """The state, for `load` of this object alone."""
        ...

    def load(self, state: Any) -> None:
        """Return to a saved state: what follows is what would have followed then."""
        ...

    def distance(self, a: Position, b: Position) -> float:
        """How far apart two positions are, in `unit`."""
        ...

    def close(self) -> None:
        """Stop the engine."""
        ...


def video_of(seen: Sequence[Seen]) -> Float[Tensor, "t 3 height width"]:
    """The frames as one video in [0, 1]."""
    return torch.stack([one.frame for one in seen]).float() / 255
