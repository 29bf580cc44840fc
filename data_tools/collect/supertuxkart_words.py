"""What a kart does in words, and where it comes by again. Pure and torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.robot_phases import Phase, cut

Array = NDArray[np.float64]

TURN_DEGREES = 2.0
"""Turning faster than this, degrees a frame, is steering; less is keeping the lane."""

GAIN = 0.5
"""Getting faster by more than this, metres a second and frame, is accelerating."""

SMOOTH_FRAMES = 5
SAME_METRES = 1.5
SAME_DEGREES = 10.0
MIN_GAP_FRAMES = 20


@dataclass(frozen=True)
class Moment:
    """One step of a race.

    Args:
        pose: x, y, z (up) in metres and yaw in degrees, counter-clockwise.
        speed: metres a second.
        control: steer (-1 is left), acceleration and brake.
    """

    pose: tuple[float, float, float, float]
    speed: float
    control: tuple[float, float, float]


def phases(moments: Sequence[Moment]) -> list[Phase]:
    """Name every frame after what can be seen: turning first, then braking and getting faster."""
    yaw = np.unwrap([moment.pose[3] for moment in moments], period=360)
    turn = _smooth(np.gradient(yaw)) if len(moments) > 1 else np.zeros(1)
    speed = np.array([moment.speed for moment in moments])
    gain = _smooth(np.gradient(speed)) if len(moments) > 1 else np.zeros(1)
    brake = _smooth(np.array([moment.control[2] for moment in moments]))
    texts = [
        _text(float(t), float(b), float(g), float(s))
        for t, b, g, s in zip(turn, brake, gain, speed, strict=True)
    ]
    marks = [(i, text) for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
    return cut(marks, len(moments))


def revisits(moments: Sequence[Moment]) -> list[tuple[int, int]]:
    """For each frame the nearest much earlier one at nearly the same place and heading."""
    poses = np.array([moment.pose for moment in moments])
    pairs = []
    for later in range(MIN_GAP_FRAMES, len(poses)):
        earlier = poses[: later - MIN_GAP_FRAMES + 1]
        way = np.linalg.norm(earlier[:, :3] - poses[later, :3], axis=1)
        turned = np.abs((earlier[:, 3] - poses[later, 3] + 180) % 360 - 180)
        way[turned > SAME_DEGREES] = np.inf
        best = int(way.argmin())
        if way[best] < SAME_METRES:
            pairs.append((best, later))
    return pairs


def pose_of(location: Sequence[float], front: Sequence[float]) -> tuple[float, float, float, float]:
    """Turn the engine's place and nose (x right, y up, z ahead; left-handed) into a pose.

    Seen from above x is right and z is up, so x, z are the floor plan's axes and nothing is
    mirrored.
    """
    yaw = float(np.degrees(np.arctan2(front[2] - location[2], front[0] - location[0])))
    x, height, y = (round(float(number), 3) for number in location)
    return x, y, height, round(yaw, 3)


def _text(turn: float, brake: float, gain: float, speed: float) -> str:
    if speed < -1:
        return "drive backward"
    if abs(turn) > TURN_DEGREES:
        return "steer left" if turn > 0 else "steer right"
    if brake > 0.5:
        return "brake"
    return "accelerate" if gain > GAIN else "keep lane"


def _smooth(values: Array) -> Array:
    """Mean over the frames around each one, fewer at the ends."""
    kernel = np.ones(SMOOTH_FRAMES)
    return np.asarray(
        np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    )[: len(values)]
