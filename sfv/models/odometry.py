"""Where each frame stands, from what is done: poses relative to the episode's first frame.

Frame j is what is seen after the pose of frame j-1 was moved by frame j's own action. So with the motion
m(a) of an action a frame,

    p_0 = origin,   p_j = p_{j-1} ∘ m(a_j)

and no world has to be asked. Four ways to get there behind one protocol: a table of exact motions, a head
that reads motions off token states (free text), recorded poses, and none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from sfv.models.motion_head import MotionHead
from sfv.models.poses import PLANE, RECORDED, PoseSpace, between
from sfv.types import TextEncoder

Motions = Mapping[str, tuple[float, ...]]

DOOM: Motions = {
    "walk forward": (12.0, 0.0, 0.0),
    "walk backward": (-12.0, 0.0, 0.0),
    "step left": (0.0, 12.0, 0.0),
    "step right": (0.0, -12.0, 0.0),
    "turn left": (0.0, 0.0, 5.625),
    "turn right": (0.0, 0.0, -5.625),
}
"""A frame of `data_tools.collect.doom` and `doom_mazes`: map units and degrees."""

MINETEST: Motions = {
    "walk forward": (0.5, 0.0, 0.0),
    "walk backward": (-0.5, 0.0, 0.0),
    "turn left": (0.0, 0.0, 5.625),
    "turn right": (0.0, 0.0, -5.625),
    "look up": (0.0, 0.0, 0.0),
    "look down": (0.0, 0.0, 0.0),
}
"""A frame of `data_tools.collect.minetest`: blocks and degrees. Pitch is not part of a pose."""

MINETEST_STILL = ("place a ", "dig a ")
"""What is built there moves nobody."""


@runtime_checkable
class Odometry(Protocol):
    """Actions to poses.

    Attributes:
        space: of the poses.
    """

    @property
    def space(self) -> PoseSpace: ...

    def __call__(
        self,
        actions: Sequence[str],
        after: Float64[Tensor, " q"] | None = None,
        recorded: Float64[Tensor, "t 4"] | None = None,
    ) -> Float64[Tensor, "n q"]:
        """Poses of n frames.

        Args:
            actions: that of each frame, n in all.
            after: pose of the frame before the first of them; None: the first is the episode's first,
                whose own action led there unseen.
            recorded: x, y, z, yaw of those frames in any frame of reference, with one row more in front,
                that of the frame before, where `after` is given. Read by `GivenPoses` alone.

        Raises:
            ValueError: an action or the poses are not known.
        """
        ...


@dataclass(frozen=True)
class ActionOdometry:
    """A table: exact where the collector knows what an action does in a frame.

    Args:
        motions: action → motion a frame, seen from the frame before: ahead, left, degrees on a plane.
        still: beginnings of actions that move nothing.
        space: of the poses.

    Raises:
        ValueError: a motion has not the numbers of the space.
    """

    motions: Motions
    still: tuple[str, ...] = ()
    space: PoseSpace = PLANE

    def __post_init__(self) -> None:
        for action, motion in self.motions.items():
            if len(motion) != self.space.size:
                raise ValueError(
                    f"the motion of {action!r} is {motion}; {self.space} has {self.space.size} numbers"
                )

    def __call__(
        self,
        actions: Sequence[str],
        after: Float64[Tensor, " q"] | None = None,
        recorded: Float64[Tensor, "t 4"] | None = None,
    ) -> Float64[Tensor, "n q"]:
        """See `Odometry`."""
        known = {action: self._motion(action) for action in set(actions)}
        rows = torch.tensor([known[action] for action in actions], dtype=torch.float64)
        return follow(self.space, rows.view(len(actions), self.space.size), after)

    def _motion(self, action: str) -> tuple[float, ...]:
        if action in self.motions:
            return self.motions[action]
        if self.still and action.startswith(self.still):
            return (0.0,) * self.space.size
        raise ValueError(
            f"no motion is known for the action {action!r}; known: {sorted(self.motions)}. Use one of "
            "them, or odometry from text or given poses"
        )


@dataclass(frozen=True)
class TextOdometry:
    """Free text: a head on the token states of each action.

    Args:
        text: the encoder whose states the head was fitted on.
        head: see `fit_motion_head`.
        space: of the poses.
    """

    text: TextEncoder
    head: MotionHead
    space: PoseSpace = PLANE

    def __call__(
        self,
        actions: Sequence[str],
        after: Float64[Tensor, " q"] | None = None,
        recorded: Float64[Tensor, "t 4"] | None = None,
    ) -> Float64[Tensor, "n q"]:
        """See `Odometry`."""
        different = sorted(set(actions))
        found = self.head(self.text(different)) if different else self.head.motions
        rows = [different.index(action) for action in actions]
        return follow(self.space, found[rows], after)


@dataclass(frozen=True)
class GivenPoses:
    """Poses that a simulator, a robot or a tracker has recorded."""

    space: PoseSpace = PLANE

    def __call__(
        self,
        actions: Sequence[str],
        after: Float64[Tensor, " q"] | None = None,
        recorded: Float64[Tensor, "t 4"] | None = None,
    ) -> Float64[Tensor, "n q"]:
        """See `Odometry`."""
        wanted = len(actions) + (after is not None)
        given = None if recorded is None else tuple(recorded.shape)
        if recorded is None or given != (wanted, RECORDED) or not recorded.isfinite().all():
            raise ValueError(
                f"given poses need {wanted} rows of {RECORDED} finite numbers for {len(actions)} frames"
                f"{' after another' if after is not None else ''}; got {given}. Record them, or use "
                "odometry from actions"
            )
        poses = self.space.from_recorded(recorded)
        seen = between(self.space, poses[:1].expand_as(poses), poses)
        if after is None:
            return seen
        return self.space.compose(after.expand_as(seen), seen)[1:]


@dataclass(frozen=True)
class NoOdometry:
    """Every frame at the origin: a memory without an address, as a control."""

    space: PoseSpace = PLANE

    def __call__(
        self,
        actions: Sequence[str],
        after: Float64[Tensor, " q"] | None = None,
        recorded: Float64[Tensor, "t 4"] | None = None,
    ) -> Float64[Tensor, "n q"]:
        """See `Odometry`."""
        return torch.zeros(len(actions), self.space.size, dtype=torch.float64)


def follow(
    space: PoseSpace, motions: Float64[Tensor, "n q"], after: Float64[Tensor, " q"] | None
) -> Float64[Tensor, "n q"]:
    """Poses of frames from their motions; without `after` the first frame is the origin."""
    origin = torch.zeros(space.size, dtype=torch.float64)
    if after is not None:
        return space.integrate(after, motions)
    return torch.cat([origin.expand_as(motions[:1]), space.integrate(origin, motions[1:])])
