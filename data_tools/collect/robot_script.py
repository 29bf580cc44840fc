"""A scripted hand: a list of places to go to, each with a text and a gripper that is open or closed.

Pure: it knows no simulator. Meta-World's return episodes and LIBERO are played with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OPEN, CLOSED = -1.0, 1.0


@dataclass(frozen=True)
class Leg:
    """One straight way of the hand.

    Args:
        text: what is done, in words.
        target: where the hand goes, metres.
        gripper: OPEN or CLOSED.
        frames: most frames it may take.
        tolerance: distance from the target at which the next leg begins, metres; 0 stays all
            `frames`.
    """

    text: str
    target: tuple[float, float, float]
    gripper: float
    frames: int
    tolerance: float = 0.01

    def arrived(self, hand: Array) -> bool:
        return bool(np.linalg.norm(np.array(self.target) - hand) < self.tolerance)

    def move(self, hand: Array, gain: float) -> Array:
        """The hand's command x, y, z, each -1 to 1."""
        return np.asarray(np.clip((np.array(self.target) - hand) * gain, -1, 1))


@dataclass(frozen=True)
class Grip:
    """How a thing is taken: numbers of the robot and the thing, metres and frames.

    Args:
        above: height over the table at which the hand travels.
        offset: from the thing's position to the hand's when it holds the thing.
        close_frames: the gripper needs to close.
        open_frames: the gripper needs to open.
        leg_frames: most frames of one way.
        exact: how near the hand has to come where it takes and lets go.
    """

    above: float
    offset: tuple[float, float, float]
    close_frames: int
    open_frames: int
    leg_frames: int
    exact: float = 0.005

    def over(self, place: Array) -> tuple[float, float, float]:
        """Above a thing at `place`, at travelling height."""
        x, y, _ = self.at(place)
        return x, y, self.above

    def at(self, place: Array) -> tuple[float, float, float]:
        """Where the hand holds a thing that is at `place`."""
        x, y, z = (np.asarray(place) + np.array(self.offset)).tolist()
        return x, y, z


def take_and_put(
    grip: Grip, source: Array, target: Array, thing: str, carry: str, place: str
) -> list[Leg]:
    """Reach, grasp, lift, carry, place, release and rise.

    Args:
        grip: how the thing is taken.
        source: where the thing is.
        target: where it is to be.
        thing: its name, without the article.
        carry: words of the way.
        place: words of letting it down.
    """
    far = grip.leg_frames
    return [
        Leg(f"reach for the {thing}", grip.over(source), OPEN, far),
        Leg(f"reach for the {thing}", grip.at(source), OPEN, far, grip.exact),
        Leg(f"grasp the {thing}", grip.at(source), CLOSED, grip.close_frames, 0),
        Leg(f"lift the {thing}", grip.over(source), CLOSED, far),
        Leg(carry, grip.over(target), CLOSED, far),
        Leg(place, grip.at(target), CLOSED, far, grip.exact),
        Leg(f"release the {thing}", grip.at(target), OPEN, grip.open_frames, 0),
        Leg("raise the hand", grip.over(target), OPEN, far),
    ]
