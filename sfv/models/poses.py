"""Poses relative to an episode's first frame: composed, inverted, integrated. Float64, on the CPU.

A *motion* is a pose too: that of a frame as seen from the frame before. Two spaces: the plane a camera
walks on, SE(2), and R^n, where a robot's hand moves. Shape letters beside those of `sfv.types`: `q` numbers
of a pose, `x` numbers of its coordinates.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

Pose = Float64[Tensor, "*b q"]
RECORDED = 4
"""Numbers of a recorded pose: x, y, z, yaw in degrees, counter-clockwise (`EpisodeMeta.poses`)."""


@runtime_checkable
class PoseSpace(Protocol):
    """A group of motions, with coordinates in which near poses are near.

    Attributes:
        size: q, numbers of a pose.
        num_coordinates: numbers of `coordinates`.
    """

    @property
    def size(self) -> int: ...

    @property
    def num_coordinates(self) -> int: ...

    def compose(self, pose: Pose, motion: Pose) -> Pose:
        """The pose after `motion`, which is seen from `pose`."""
        ...

    def inverse(self, pose: Pose) -> Pose:
        """`compose(inverse(p), p)` is the origin."""
        ...

    def integrate(
        self, start: Float64[Tensor, "*b q"], motions: Float64[Tensor, "*b t q"]
    ) -> Float64[Tensor, "*b t q"]:
        """The pose after each motion of a row of them, one a frame."""
        ...

    def from_recorded(self, poses: Float64[Tensor, "*b 4"]) -> Pose:
        """What a recorded pose is in this space, still in the world's frame of reference."""
        ...

    def coordinates(self, pose: Pose) -> Float64[Tensor, "*b x"]:
        """Numbers without a jump: an angle as cosine and sine."""
        ...


@dataclass(frozen=True)
class Plane:
    """SE(2): x ahead and y to the left of the first frame, and yaw in degrees in [-180, 180).

    compose((p, a), (d, b)) = (p + R(a) d, a + b). Height is not part of it.
    """

    @property
    def size(self) -> int:
        return 3

    @property
    def num_coordinates(self) -> int:
        """x, y, cos(yaw), sin(yaw)."""
        return 4

    def compose(self, pose: Pose, motion: Pose) -> Pose:
        """See `PoseSpace`."""
        place = pose[..., :2] + _turned(motion[..., :2], pose[..., 2])
        return _joined(place, pose[..., 2] + motion[..., 2])

    def inverse(self, pose: Pose) -> Pose:
        """See `PoseSpace`: (-R(-a) p, -a)."""
        return _joined(-_turned(pose[..., :2], -pose[..., 2]), -pose[..., 2])

    def integrate(
        self, start: Float64[Tensor, "*b q"], motions: Float64[Tensor, "*b t q"]
    ) -> Float64[Tensor, "*b t q"]:
        """See `PoseSpace`. Frame by frame in order, so a way cut in chunks gives the same numbers."""
        turns = torch.cat([start[..., None, 2], motions[..., 2]], dim=-1)
        yaw = torch.cumsum(turns, dim=-1)
        steps = _turned(motions[..., :2], yaw[..., :-1])
        places = torch.cumsum(torch.cat([start[..., None, :2], steps], dim=-2), dim=-2)
        return _joined(places[..., 1:, :], yaw[..., 1:])

    def from_recorded(self, poses: Float64[Tensor, "*b 4"]) -> Pose:
        """See `PoseSpace`: without the height."""
        return poses[..., [0, 1, 3]]

    def coordinates(self, pose: Pose) -> Float64[Tensor, "*b x"]:
        """See `PoseSpace`."""
        yaw = torch.deg2rad(pose[..., 2:])
        return torch.cat([pose[..., :2], yaw.cos(), yaw.sin()], dim=-1)


PLANE = Plane()


@dataclass(frozen=True)
class Space:
    """R^n: motions add up. Of a recorded pose it takes the first n numbers, so 3 for the place of a hand.

    Args:
        size: n.

    Raises:
        ValueError: there is no such space.
    """

    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size of a space of poses is {self.size}; it must be at least 1")

    @property
    def num_coordinates(self) -> int:
        """As many as numbers."""
        return self.size

    def compose(self, pose: Pose, motion: Pose) -> Pose:
        """See `PoseSpace`."""
        return pose + motion

    def inverse(self, pose: Pose) -> Pose:
        """See `PoseSpace`."""
        return -pose

    def integrate(
        self, start: Float64[Tensor, "*b q"], motions: Float64[Tensor, "*b t q"]
    ) -> Float64[Tensor, "*b t q"]:
        """See `PoseSpace`."""
        return torch.cumsum(torch.cat([start[..., None, :], motions], dim=-2), dim=-2)[..., 1:, :]

    def from_recorded(self, poses: Float64[Tensor, "*b 4"]) -> Pose:
        """See `PoseSpace`.

        Raises:
            ValueError: recorded poses have fewer numbers.
        """
        if self.size > RECORDED:
            raise ValueError(f"recorded poses have {RECORDED} numbers, this space has {self.size}")
        return poses[..., : self.size]

    def coordinates(self, pose: Pose) -> Float64[Tensor, "*b x"]:
        """See `PoseSpace`."""
        return pose


def between(space: PoseSpace, first: Pose, second: Pose) -> Pose:
    """The pose `second` as seen from `first`."""
    return space.compose(space.inverse(first), second)


def _turned(
    place: Float64[Tensor, "*b 2"], degrees: Float64[Tensor, "*b"]
) -> Float64[Tensor, "*b 2"]:
    cosine, sine = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    x, y = place[..., 0], place[..., 1]
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)


def _joined(place: Float64[Tensor, "*b 2"], yaw: Float64[Tensor, "*b"]) -> Float64[Tensor, "*b 3"]:
    return torch.cat([place, (torch.remainder(yaw + 180, 360) - 180)[..., None]], dim=-1)
