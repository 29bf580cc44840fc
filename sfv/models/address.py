"""Where a world model's memories keep things: the settings of keys, and what actions do to the pose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

import torch
from jaxtyping import Float64
from torch import Tensor

from sfv.models.odometry import ActionOdometry
from sfv.models.poses import PLANE, RECORDED, between

Scale = tuple[float | int, float | int]


@dataclass(frozen=True)
class Address:
    """The address of an addressed memory (docs/concepts/addressed_memory.md); part of a world model.

    Args:
        motions: what each action moves the camera by in one frame, seen from the frame before: ahead and
            to the left in the world's units, and degrees counter-clockwise.
        scales: bandwidths of the keys at each scale: way in the world's units, turn in degrees.
        key_size: D, a multiple of twice the number of scales.
        ridge: λ.
        seed: of the keys' features.

    Raises:
        ValueError: a number is out of its range.
    """

    motions: Mapping[str, Sequence[float | int]] = field(default_factory=dict)
    scales: tuple[Scale, ...] = ((20, 7), (48, 12), (128, 30))
    key_size: int = 504
    ridge: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ridge < inf:
            raise ValueError(f"ridge is {self.ridge}; λ must be above 0 (0.01 is usual)")
        _ = self._odometry  # refuses motions of another size
        for action, moved in self.motions.items():
            if not all(map(isfinite, moved)):
                raise ValueError(
                    f"the motion of {action!r} is {list(moved)}; allowed: finite numbers: ahead, to the "
                    "left, degrees counter-clockwise"
                )

    @property
    def _odometry(self) -> ActionOdometry:
        motions = {action: tuple(map(float, moved)) for action, moved in self.motions.items()}
        return ActionOdometry(motions)

    def origin(self) -> Float64[Tensor, " q"]:
        """The pose of the newest context frame when an episode begins."""
        return torch.zeros(PLANE.size, dtype=torch.float64)

    def follow(
        self,
        action: str,
        num_frames: int,
        after: Float64[Tensor, " q"],
        recorded: Float64[Tensor, "n 4"] | None = None,
    ) -> Float64[Tensor, "t q"]:
        """Poses of the frames of a chunk.

        Args:
            action: of all of them; looked up in `motions`.
            num_frames: f_g.
            after: pose of the frame before.
            recorded: poses that the world has recorded, in its own frame of reference, used instead of the
                action: the frame before, then one a frame.

        Raises:
            ValueError: no motion is known for the action, or the recorded poses are not finite or not as
                many as the frames.
        """
        if recorded is None:
            return self._odometry([action] * num_frames, after)
        if recorded.shape != (num_frames + 1, RECORDED) or not recorded.isfinite().all():
            raise ValueError(
                f"{num_frames} frames need {num_frames + 1} finite poses (x, y, z, yaw), that of the frame "
                f"before first; got {tuple(recorded.shape)}. Record them, or leave them out to integrate "
                "the actions"
            )
        poses = PLANE.from_recorded(recorded)
        seen = between(PLANE, poses[:1].expand_as(poses), poses)[1:]
        return PLANE.compose(after.expand_as(seen), seen)
