"""From poses or recorded controls to canonical actions: "walk forward", "turn left", "stand still"."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from data_tools.work import Skip
from sfv.data.schema import SchemaError
from sfv.texts import read_text

STILL = "stand still"
HEADINGS = ("walk forward", "step left", "walk backward", "step right")
Pose = Sequence[float]


@dataclass(frozen=True)
class MotionSettings:
    """What counts as a motion, over one action's whole span.

    Args:
        turn_degrees: least turn.
        move_units: least way from first to last pose, in the world's units.
        climb_units: least change of height, in the world's units.
        mixed: of several motions name the `dominant` one (most times its threshold), or `all`.
    """

    turn_degrees: float = 15.0
    move_units: float = 1.0
    climb_units: float = 1.0
    mixed: Literal["dominant", "all"] = "dominant"

    def __post_init__(self) -> None:
        if min(self.turn_degrees, self.move_units, self.climb_units) <= 0:
            raise SchemaError(
                f"--turn-degrees {self.turn_degrees} --move-units {self.move_units} --climb-units "
                f"{self.climb_units}: all have to be greater than 0"
            )


@dataclass(frozen=True)
class Rule:
    """What a recorded control means.

    Args:
        control: a name in `raw`: an element of a list of keys, or a field with a number or a bool.
        action: the canonical action.
        above: applies when the number is greater; with neither bound a key has to be pressed.
        below: applies when the number is less.
    """

    control: str
    action: str
    above: float | None = None
    below: float | None = None


WASD = (
    Rule("w", "walk forward"),
    Rule("s", "walk backward"),
    Rule("a", "step left"),
    Rule("d", "step right"),
    Rule("left", "turn left"),
    Rule("right", "turn right"),
    Rule("up", "walk forward"),
    Rule("down", "walk backward"),
    Rule("space", "jump"),
)
"""The usual keys: used when no rules are given."""


def from_poses(poses: Sequence[Pose], start: int, stop: int, settings: MotionSettings) -> list[str]:
    """Name the motions between the pose before frame `start` and the last of the span.

    Frame j shows the world after its action moved it there, so a span's motion begins at the frame
    before it; the first span has only its own frames.

    Args:
        poses: (x, y, z, yaw in degrees, counter-clockwise) of all frames.
        start: first frame of the action.
        stop: one past its last.
        settings: thresholds.
    """
    span = poses[max(start - 1, 0) : stop]
    (x, y, z, yaw), last = span[0], span[-1]
    turned = sum(_angle(b[3] - a[3]) for a, b in pairwise(span))
    way = math.hypot(last[0] - x, last[1] - y)
    heading = _angle(math.degrees(math.atan2(last[1] - y, last[0] - x)) - yaw - turned / 2)
    climbed = last[2] - z
    moves = {
        HEADINGS[round(heading / 90) % 4]: way / settings.move_units,
        "turn left" if turned > 0 else "turn right": abs(turned) / settings.turn_degrees,
        "climb up" if climbed > 0 else "climb down": abs(climbed) / settings.climb_units,
    }
    found = sorted((move for move in moves if moves[move] >= 1), key=lambda m: -moves[m])
    if settings.mixed == "dominant":
        found = found[:1]
    return found or [STILL]


def from_controls(raw: Any, rules: Sequence[Rule]) -> list[str]:
    """Name what the recorded controls mean.

    Args:
        raw: of an action: a list of pressed keys, or an object whose fields are numbers, bools
            (pressed or not) or lists of keys.
        rules: in order; each that applies gives its action, once.

    Raises:
        Skip: nothing was recorded, or something else than this.
    """
    state = _controls(raw)
    found = [rule.action for rule in rules if _applies(rule, state.get(rule.control.lower(), 0.0))]
    return list(dict.fromkeys(found)) or [STILL]


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read rules from a JSON list of objects with the fields of `Rule`.

    Raises:
        SchemaError: the file is something else.
    """
    try:
        given = json.loads(read_text(path))
        rules = tuple(Rule(**fields) for fields in given)
    except (ValueError, TypeError) as error:
        raise SchemaError(
            f'{path}: {error}; give a JSON list like [{{"control": "steer", "above": 0.2, '
            '"action": "turn left"}]'
        ) from error
    for rule in rules:
        named = isinstance(rule.control, str) and isinstance(rule.action, str) and rule.action
        bounds = all(isinstance(b, int | float | None) for b in (rule.above, rule.below))
        if not named or not bounds:
            raise SchemaError(
                f"{path}: {rule} needs texts control and action, numbers above, below"
            )
    return rules


def _controls(raw: Any) -> dict[str, float]:
    if isinstance(raw, list):
        raw = {"keys": raw}
    if not isinstance(raw, dict):
        raise Skip("no recorded controls", f"raw is {raw!r:.80}")
    state: dict[str, float] = {}
    for name, value in raw.items():
        if name == "action":  # the canonical text, kept beside varied words
            continue
        if isinstance(value, int | float):
            state[name.lower()] = float(value)
        elif isinstance(value, list) and all(isinstance(key, str) for key in value):
            state |= {key.lower(): 1.0 for key in value}
        else:
            raise Skip("recorded controls of an unknown form", f"{name} is {value!r:.80}")
    return state


def _applies(rule: Rule, value: float) -> bool:
    if rule.above is None and rule.below is None:
        return value > 0
    return (rule.above is None or value > rule.above) and (rule.below is None or value < rule.below)


def _angle(degrees: float) -> float:
    """The same angle between -180 and 180."""
    return (degrees + 180) % 360 - 180
