import re
from collections import Counter

import numpy as np
import pytest

from data_tools.language import TEMPLATES, canonical, expand, in_words, phrases, say, slots
from sfv.data.schema import REVERSE, Action, SchemaError

NAMES = {name: name.upper() for name in ("object", "target", "block")}
FACTS = {"degrees": 45, "steps": 8, "landmark": "torch"}
ACTIONS = [key.format_map(NAMES) for key in TEMPLATES]


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_has_its_own_text_and_others(action: str) -> None:
    found = phrases(action)
    assert action in found and len(found) >= 3
    assert not any(re.search(r"[][(){}|]|  |^ | $", text) for text in found)
    assert len(found) == len(set(found))


def test_no_phrase_stands_for_two_actions() -> None:
    """Also where names differ: "place the cup" against "place the cup on the table" is one name."""
    meant: dict[str, str] = {}
    for key in TEMPLATES:
        for text in expand(key):
            blank = re.sub(r"\{(object|target|block|landmark)\}", "{}", text)
            assert meant.setdefault(blank, key) == key, text


def test_what_is_known_is_said_and_what_is_not_is_left_out() -> None:
    bare, full = phrases("turn left"), phrases("turn left", **FACTS)
    assert set(bare) < set(full)
    assert {"turn left 45 degrees", "rotate to the left by 45 degrees"} <= set(full)
    assert "turn left to face the torch" in full
    assert not any("degrees" in text or "the" in text.replace("to the left", "") for text in bare)
    assert "turn left 5.625 degrees" in phrases("turn left", degrees=5.625)
    assert "turn left 90 degrees" in phrases("turn left", degrees=90.0)
    assert "walk towards the torch" in phrases("walk forward", landmark="torch")
    assert "walk forward 8 paces" in phrases("walk forward", steps=8)


def test_names_are_taken_over() -> None:
    assert "set the red mug onto the wooden shelf" in phrases(
        "place the red mug on the wooden shelf"
    )
    assert "bring the puck over to the goal" in phrases("carry the puck to the goal")
    assert "fetch an onion" in phrases("pick up an onion")
    assert "mine a red wool block" in phrases("dig a red wool block")


@pytest.mark.parametrize("action", ["fly", "turn around", "walk forward 3 steps", "grasp"])
def test_an_action_without_words_is_refused(action: str) -> None:
    with pytest.raises(SchemaError, match=f"action '{action}' has no words .*'turn left'"):
        say(action, np.random.default_rng(0))


def test_every_phrase_is_drawn_and_the_seed_decides() -> None:
    found = phrases("walk backward")
    rng = np.random.default_rng(3)
    drawn = Counter(say("walk backward", rng) for _ in range(40 * len(found)))
    assert set(drawn) == set(found) and min(drawn.values()) > 10
    first, again = ([say("brake", np.random.default_rng(s)) for s in range(9)] for _ in range(2))
    assert first == again and len(set(first)) > 1


def test_actions_with_a_reverse_have_words() -> None:
    assert set(REVERSE) <= set(TEMPLATES)
    for action, reverse in REVERSE.items():
        assert not set(phrases(action, **FACTS)) & set(phrases(reverse, **FACTS))


def test_an_episode_in_words_keeps_its_canonical_texts() -> None:
    actions = [Action("walk forward", 0, 8), Action("turn left", 8, 16, {"keys": ["a"]})]
    rng = np.random.default_rng(1)
    assert in_words(actions, "plain", rng) == tuple(actions)
    facts = [{"steps": 8}, {"degrees": 45}]
    varied = [in_words(actions, "varied", rng, facts) for _ in range(30)]
    assert len({spoken[0].text for spoken in varied}) > 5
    for spoken in varied:
        assert [canonical(action) for action in spoken] == ["walk forward", "turn left"]
        assert [(action.start, action.stop) for action in spoken] == [(0, 8), (8, 16)]
        assert spoken[1].raw == {"keys": ["a"], "action": "turn left"}
        assert spoken[1].text in phrases("turn left", degrees=45)
    assert canonical(actions[1]) == "turn left"


def test_slots_are_known() -> None:
    used = {name for key in TEMPLATES for text in expand(key) for name in slots(text)}
    assert used == {"object", "target", "block", "degrees", "steps", "landmark"}
