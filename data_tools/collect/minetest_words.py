"""Tell a Minetest walk in words: each chunk's action, how far, and what block ends up ahead."""

from dataclasses import asdict
from typing import Any

import numpy as np

from data_tools.collect.minetest_walks import (
    CHUNK_FRAMES,
    LOOK_DEGREES,
    STEP_BLOCKS,
    TURN_DEGREES,
    Ground,
    Walk,
    block_words,
    states,
)
from data_tools.language import Language, in_words
from sfv.data.schema import Action

_DISTANCE, _ANGLE = 16.0, 12.0
"""Blocks further away, or further aside (degrees), are not named."""

_STEPS = int(CHUNK_FRAMES * STEP_BLOCKS)


def tell(
    walk: Walk, ground: Ground, language: Language, rng: np.random.Generator
) -> tuple[Action, ...]:
    """One action a chunk; `raw` holds what poses do not tell: pitch, and blocks that were built."""
    actions = []
    for chunk, text in enumerate(walk.actions):
        start, stop = chunk * CHUNK_FRAMES, (chunk + 1) * CHUNK_FRAMES
        raw: dict[str, Any] = {"pitch": round(walk.views[stop - 1].pitch, 3)}
        built = [asdict(edit) for edit in walk.edits if start <= edit.frame < stop]
        actions.append(Action(text, start, stop, raw | ({"built": built} if built else {})))
    return in_words(actions, language, rng, _facts(walk, ground))


def _facts(walk: Walk, ground: Ground) -> list[dict[str, Any]]:
    facts = []
    built = states(walk)
    for chunk, text in enumerate(walk.actions):
        known: dict[str, Any] = {}
        if text.startswith("turn"):
            known["degrees"] = CHUNK_FRAMES * TURN_DEGREES
        elif text.startswith("look"):
            known["degrees"] = CHUNK_FRAMES * LOOK_DEGREES
        elif text.startswith("walk"):
            known["steps"] = _STEPS
        end = (chunk + 1) * CHUNK_FRAMES - 1
        places = {place: node for place, node in built[end] if node != "air"}
        ahead = _ahead(walk, ground, end, places)
        facts.append(known | ({"landmark": ahead} if ahead else {}))
    return facts


def _ahead(
    walk: Walk, ground: Ground, frame: int, placed: dict[tuple[int, int, int], str]
) -> str | None:
    """Words for the nearest placed block that is seen straight ahead, if there is one."""
    view = walk.views[frame]
    found: list[tuple[float, str]] = []
    for (x, _, y), node in placed.items():
        distance = float(np.hypot(x - view.x, y - view.y))
        bearing = float(np.degrees(np.arctan2(y - view.y, x - view.x)))
        aside = abs((bearing - view.yaw + 180) % 360 - 180)
        open_way = ground.view(view.x, view.y, bearing) >= distance - 1.5
        if distance <= _DISTANCE and aside <= _ANGLE and open_way:
            found.append((distance, node_words(node)))
    return min(found)[1] if found else None


def node_words(node: str) -> str:
    """A placed block in words: "wool:red" is "red wool block"."""
    mod, _, name = node.partition(":")
    return f"{block_words(name)} {mod} block" if mod == "wool" else f"{block_words(node)} block"
