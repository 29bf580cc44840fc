"""Canonical actions in varied words: "turn left" becomes "rotate to the left by 45 degrees".

A collector works with canonical texts, which `sfv.data.schema.reverse_action` understands; the words
of the episode are drawn here, and the canonical text stays in `raw["action"]`. No phrase stands for
two actions, so what is meant is never in doubt.

Example:
    >>> say("walk forward", np.random.default_rng(0), steps=8) in phrases("walk forward", steps=8)
    True
    >>> "swing left by 45 degrees" in phrases("turn left", degrees=45)
    True
    >>> "take the red mug" in phrases("grasp the red mug")
    True
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from string import Formatter
from typing import Any, Literal

import numpy as np

from sfv.data.schema import Action, SchemaError

Language = Literal["plain", "varied"]

_GO = "(walk|go|move)"
_SIDESTEP = "(step|sidestep|shift|strafe)"
_ROTATE = "(turn|rotate|swing|pivot)"

TEMPLATES: dict[str, tuple[str, ...]] = {
    # walking and looking
    "walk forward": (
        f"{_GO} (forward|forwards|ahead|straight on|straight ahead)",
        f"{_GO} (forward|ahead) {{steps}} (steps|paces)",
        "(advance|keep walking)[ by {steps} steps]",
        f"{_GO} (towards|up to|in the direction of) the {{landmark}}",
    ),
    "walk backward": (
        f"{_GO} (backward|backwards)[ {{steps}} (steps|paces)]",
        "(back up|retreat|back away)[ by {steps} steps]",
        "(back away|retreat) from the {landmark}",
    ),
    "turn left": (
        f"{_ROTATE} (left|to the left|leftwards)[ by {{degrees}} degrees]",
        "turn left {degrees} degrees",
        "turn left (until you face|to face) the {landmark}",
    ),
    "turn right": (
        f"{_ROTATE} (right|to the right|rightwards)[ by {{degrees}} degrees]",
        "turn right {degrees} degrees",
        "turn right (until you face|to face) the {landmark}",
    ),
    "step left": (f"{_SIDESTEP} (left|to the left)[ {{steps}} (steps|paces)]",),
    "step right": (f"{_SIDESTEP} (right|to the right)[ {{steps}} (steps|paces)]",),
    "look up": ("(look|gaze|tilt your head) (up|upwards)[ by {degrees} degrees]",),
    "look down": ("(look|gaze|tilt your head) (down|downwards)[ by {degrees} degrees]",),
    "climb up": ("climb[ up]", "climb (higher|upwards)", "ascend"),
    "climb down": ("climb (down|downwards|lower)", "descend"),
    "jump": ("jump[ up]", "leap", "take a jump"),
    "stand still": ("(stand|hold|keep|stay) still", "stay where you are", "(pause|wait here)"),
    "dig a {block}": ("(dig|dig up|mine|dig out|break) a {block}", "remove a {block} in front"),
    "place a {block}": ("(place|set|build) a {block}", "put a {block} (down|in front of you)"),
    # a robot's hand
    "reach for the {object}": (
        "(reach for|reach towards|approach) the {object}",
        "move the (hand|gripper|arm) (to|towards) the {object}",
    ),
    "grasp the {object}": (
        "(grasp|grip|grab|seize|take|take hold of) the {object}",
        "close the gripper (on|around) the {object}",
    ),
    "lift the {object}": ("(lift|raise|hoist)[ up] the {object}", "lift the {object} (up|off)"),
    "carry the {object} to the {target}": (
        "(carry|bring|transport|move) the {object} (to|over to|towards) the {target}",
    ),
    "carry the {object}": ("(carry|transport|move) the {object}[ along]",),
    "place the {object} in the {target}": (
        "(place|put|set|lay) the {object} (in|into|inside) the {target}",
    ),
    "place the {object} on the {target}": (
        "(place|put|set|lay) the {object} (on|onto|on top of) the {target}",
    ),
    "place the {object} at the {target}": (
        "(place|put|set|lay) the {object} (at|beside|next to) the {target}",
    ),
    "place the {object}": ("(place|lay|set down|put down|lower) the {object}",),
    "release the {object}": (
        "(release|let go of|drop|free) the {object}",
        "open the gripper and leave the {object}",
    ),
    "push the {object}": ("(push|shove|press against) the {object}",),
    "press the {object}": ("(press|push down|press down) the {object}",),
    "pull the {object}": ("(pull|draw|tug) the {object}",),
    "open the {object}": ("(open|open up|pull open) the {object}",),
    "close the {object}": ("(close|shut|close up) the {object}",),
    "turn the {object}": ("(turn|rotate|twist) the {object}",),
    "carry the {object} back": ("(carry|bring|take|move) the {object} back[ to where it was]",),
    "place the {object} back": (
        "(place|put|set|lay) the {object} back",
        "(place|put|set|lay) the {object} (where it was|in its old place)",
    ),
    "remove the {object} from the {target}": (
        "(remove|take away|lift) the {object} from the {target}",
        "(take|lift) the {object} off the {target}",
    ),
    "push the {object} to the {target}": (
        "(push|shove|slide) the {object} (to|over to|towards) the {target}",
    ),
    "push the {object} into the {target}": (
        "(push|shove|slide|sweep) the {object} into the {target}",
    ),
    "push the {object} off the {target}": ("(push|shove|sweep) the {object} off the {target}",),
    "pull the {object} to the {target}": (
        "(pull|draw|drag) the {object} (to|over to|towards) the {target}",
    ),
    "pull the {object} from the {target}": (
        "(pull|draw|drag) the {object} (from|out of|away from) the {target}",
    ),
    "turn on the {object}": ("(turn|switch) on the {object}", "(turn|switch) the {object} on"),
    "turn off the {object}": ("(turn|switch) off the {object}", "(turn|switch) the {object} off"),
    "lock the {object}": ("(lock|lock up|bolt) the {object}",),
    "unlock the {object}": ("(unlock|unbolt) the {object}", "undo the lock of the {object}"),
    "raise the hand": ("(raise|lift) the (hand|arm|gripper)", "move the (hand|arm|gripper) up"),
    "hit the {object}": ("(hit|strike|knock) the {object}",),
    "withdraw the hand": ("(withdraw|retract|pull back) the (hand|arm|gripper)",),
    # driving
    "accelerate": ("(accelerate|speed up|go faster|step on the gas|pick up speed)",),
    "brake": ("(brake|slow down|hit the brakes|reduce speed)",),
    "steer left": ("(steer|drive|bear|take the curve) (left|to the left)",),
    "steer right": ("(steer|drive|bear|take the curve) (right|to the right)",),
    "keep lane": (
        "keep[ in] (lane|the lane)",
        "stay in (lane|the lane|your lane)",
        "drive straight (on|ahead)",
    ),
    "drive backward": ("(drive|roll) (backward|backwards)", "reverse the (car|kart)"),
    # a kitchen
    "pick up the {object}": ("(pick up|fetch|collect|get) the {object}",),
    "pick up an {object}": ("(pick up|fetch|collect|get|grab) an {object}",),
    "pick up a {object}": ("(pick up|fetch|collect|get|grab) a {object}",),
    "add the {object} to the {target}": ("(drop|throw|add) the {object} (to|into) the {target}",),
    "serve the {object}": ("(serve|deliver|hand over|serve up) the {object}",),
    "cook the {object}": ("(cook|boil|heat) the {object}",),
    "move up": ("(move|head|go) (up|north|upwards)",),
    "move down": ("(move|head|go) (down|south|downwards)",),
    "move left": ("(move|head|go) (left|west)",),
    "move right": ("(move|head|go) (right|east)",),
    "wait": ("(wait|do nothing|wait a moment|stay put)",),
}
"""Canonical action → templates. `(a|b)` is a choice, `[a]` may be left out, `{object}` is taken from the
canonical text, `{degrees}`, `{steps}` and `{landmark}` from what the collector measured."""


def say(
    action: str,
    rng: np.random.Generator,
    *,
    degrees: int | float | None = None,
    steps: int | None = None,
    landmark: str | None = None,
) -> str:
    """Draw one way to say an action.

    Args:
        action: a canonical text: a key of `TEMPLATES` with names in the place of braces.
        rng: the draw comes from here.
        degrees: how far is turned.
        steps: how many steps are walked.
        landmark: what is straight ahead at the end, e.g. "torch".

    Raises:
        SchemaError: the action is not known.
    """
    choices = phrases(action, degrees=degrees, steps=steps, landmark=landmark)
    return choices[int(rng.integers(len(choices)))]


def phrases(
    action: str,
    *,
    degrees: int | float | None = None,
    steps: int | None = None,
    landmark: str | None = None,
) -> tuple[str, ...]:
    """Give all ways to say an action with what is known of it.

    Raises:
        SchemaError: the action is not known.
    """
    key, names = _match(action)
    facts: dict[str, Any] = {"degrees": degrees, "steps": steps, "landmark": landmark}
    if degrees is not None:
        facts["degrees"] = f"{degrees:g}"
    known = names | {name: value for name, value in facts.items() if value is not None}
    return tuple(text.format_map(known) for text in expand(key) if slots(text) <= known.keys())


@cache
def expand(key: str) -> tuple[str, ...]:
    """All texts of a key of `TEMPLATES`, slots still in braces, each once."""
    texts = [key] + [text for template in TEMPLATES[key] for text in _expanded(template)]
    return tuple(dict.fromkeys(texts))


def _expanded(template: str) -> list[str]:
    """Resolve choices and options, innermost first."""
    group = re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", template)
    if group is None:
        return [template]
    options = ["", group[2]] if group[1] is None else group[1].split("|")
    before, after = template[: group.start()], template[group.end() :]
    return [text for option in options for text in _expanded(before + option + after)]


def _match(action: str) -> tuple[str, dict[str, str]]:
    """The key that `action` is an instance of, and the names in its slots."""
    if action in TEMPLATES and not slots(action):
        return action, {}
    for key, pattern in _patterns():
        found = pattern.fullmatch(action)
        if found is not None:
            return key, found.groupdict()
    raise SchemaError(
        f"action {action!r} has no words in data_tools/language.py; known: {sorted(TEMPLATES)}"
    )


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Keys with slots, those with most text of their own first."""
    keys = sorted((key for key in TEMPLATES if slots(key)), key=lambda key: -len(key))
    return tuple((key, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", key))) for key in keys)


def slots(text: str) -> set[str]:
    """Names in braces."""
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def in_words(
    actions: Sequence[Action],
    language: Language,
    rng: np.random.Generator,
    facts: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Action, ...]:
    """Put an episode's canonical actions into words.

    Args:
        actions: with canonical texts.
        language: `plain` leaves them as they are; `varied` draws words and keeps the canonical text
            in `raw["action"]`, beside what stands there.
        rng: the draws come from here.
        facts: one for each action: what `say` takes as `degrees`, `steps`, `landmark`.
    """
    if language == "plain":
        return tuple(actions)
    spoken = []
    for action, known in zip(actions, facts or [{}] * len(actions), strict=True):
        raw = {**(action.raw or {}), "action": action.text}
        spoken.append(Action(say(action.text, rng, **known), action.start, action.stop, raw))
    return tuple(spoken)


def canonical(action: Action) -> str:
    """The canonical text of an action, in plain or in varied words."""
    if isinstance(action.raw, Mapping) and "action" in action.raw:
        return str(action.raw["action"])
    return action.text
