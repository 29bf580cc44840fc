import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import annotate
from data_tools.clips import UNLABELLED
from data_tools.files import find_episodes, write_episode
from data_tools.language import canonical, say
from data_tools.motion_words import (
    HEADINGS,
    STILL,
    WASD,
    MotionSettings,
    Rule,
    from_controls,
    from_poses,
    read_rules,
)
from data_tools.work import Skip
from sfv.data.schema import Action, SchemaError
from sfv.data.stages import decode_mp4
from tests.data.make import video_sample
from tests.data_tools.test_files import put

HERE = "tests.data_tools.captions"


def run(*args: object) -> int:
    return annotate.main([*map(str, args), "--workers", "1"])


def moved(forward: float, left: float, turn: float, climb: float = 0.0, yaw: float = 30.0) -> Any:
    """Poses of five frames that move so far in all, from a heading of `yaw` degrees."""
    share = np.linspace(0, 1, 5)
    cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    x, y = forward * cos - left * sin, forward * sin + left * cos
    return [(x * s, y * s, climb * s, yaw + turn * s) for s in share]


@pytest.mark.parametrize(
    ("motion", "action"),
    [
        ((5, 0, 0), "walk forward"),
        ((-5, 1, 0), "walk backward"),
        ((1, 5, 0), "step left"),
        ((0, -5, 0), "step right"),
        ((0, 0, 40), "turn left"),
        ((0, 0, -40), "turn right"),
        ((0, 0, 300), "turn left"),
        ((0, 0, 0, 3), "climb up"),
        ((0, 0, 0, -3), "climb down"),
        ((0.9, 0, 14), "stand still"),
        ((3, 0, 60), "turn left"),
        ((5, 0, 60), "walk forward"),
    ],
)
@pytest.mark.parametrize("yaw", [30.0, 170.0, -100.0])
def test_poses_tell_the_action(motion: tuple[float, ...], action: str, yaw: float) -> None:
    poses = moved(*motion, yaw=yaw)
    assert from_poses(poses, 1, 5, MotionSettings()) == [action]


def test_all_motions_can_be_named() -> None:
    found = from_poses(moved(5, 0, 20), 1, 5, MotionSettings(mixed="all"))
    assert found == ["walk forward", "turn left"]


def test_a_span_begins_at_the_pose_before_it() -> None:
    poses = [(0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 20.0), (0.0, 0.0, 0.0, 20.0)]
    assert from_poses(poses, 1, 3, MotionSettings()) == ["turn left"]
    assert from_poses(poses, 2, 3, MotionSettings()) == ["stand still"]


def test_doom_walks_are_told_from_their_poses(
    return_walks: Path, explore_walks: Path, tmp_path: Path
) -> None:
    flags = ("--relabel", "all", "--move-units", 40, "--turn-degrees", 20, "--climb-units", 1000)
    assert run(return_walks, explore_walks, "--out", tmp_path, *flags) == 0
    before = list(find_episodes([return_walks, explore_walks]))
    after = list(find_episodes([tmp_path]))
    assert len(after) == 8
    for (old, old_path), (new, new_path) in zip(before, after, strict=True):
        assert new.actions == old.actions  # they say what the poses do
        assert new.provenance != old.provenance
        assert dataclasses.replace(new, provenance=old.provenance) == old
        assert new_path.read_bytes() == old_path.read_bytes()
    summary = json.loads((tmp_path / "summary.json").read_text())
    num_actions = sum(len(meta.actions) for meta, _ in before)
    assert summary["actions"] == {"labelled": num_actions, "left as they were": 0}


def test_only_missing_texts_are_made(tmp_path: Path) -> None:
    actions = (Action("wave", 0, 3), Action(UNLABELLED, 3, 12, ["W"]))
    put(tmp_path / "in", "a", actions=actions)
    put(tmp_path / "in", "b")
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--from", "raw") == 0
    (a, _), (b, _) = find_episodes([tmp_path / "out"])
    assert [action.text for action in a.actions] == ["wave", "walk forward"]
    assert b == list(find_episodes([tmp_path / "in"]))[1][0]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["actions"] == {"labelled": 1, "left as they were": 5}
    assert summary["canonical actions"] == {"walk forward": 1}


def test_what_an_episode_lacks_is_a_reason(tmp_path: Path) -> None:
    put(tmp_path / "in", "a", actions=(Action(UNLABELLED, 0, 12),))
    assert run(tmp_path / "in", "--out", tmp_path / "poses") == 1
    assert run(tmp_path / "in", "--out", tmp_path / "raw", "--from", "raw") == 1
    for name, reason in (
        ("poses", "no poses to tell actions from"),
        ("raw", "no recorded controls"),
    ):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["skipped"] == {reason: 1}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (["W", "left"], ["walk forward", "turn left"]),
        ({"keys": ["up", "w"]}, ["walk forward"]),
        ({"S": True, "d": 0}, ["walk backward"]),
        ([], ["stand still"]),
    ],
)
def test_keys_have_their_usual_meaning(raw: Any, expected: list[str]) -> None:
    assert from_controls(raw, WASD) == expected


def test_rules_read_motor_values(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(
        '[{"control": "steer", "above": 0.2, "action": "turn left"},'
        ' {"control": "steer", "below": -0.2, "action": "turn right"},'
        ' {"control": "gas", "above": 0.1, "below": 0.5, "action": "drive slowly"}]'
    )
    rules = read_rules(path)
    assert from_controls({"steer": 0.5, "gas": 0.3}, rules) == ["turn left", "drive slowly"]
    assert from_controls({"steer": -0.5, "gas": 0.9}, rules) == ["turn right"]
    assert from_controls({"steer": 0.1}, rules) == ["stand still"]


@pytest.mark.parametrize("raw", [None, "w", {"keys": [1]}, {"steer": {"x": 1}}])
def test_other_records_are_a_reason_to_skip(raw: Any) -> None:
    with pytest.raises(Skip, match="recorded controls"):
        from_controls(raw, (Rule("w", "walk forward"),))


@pytest.mark.parametrize(
    "text", ["{", '[{"control": "w"}]', '[{"control": "w", "action": 3}]', "3"]
)
def test_bad_rules_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(SchemaError, match=r"rules\.json"):
        read_rules(tmp_path / "rules.json")


def test_the_language_is_seeded(explore_walks: Path, tmp_path: Path) -> None:
    def texts(name: str, seed: int) -> list[str]:
        flags = ("--relabel", "all", "--language", f"{HERE}:politely", "--seed", seed)
        assert run(explore_walks, "--out", tmp_path / name, *flags) == 0
        return [a.text for meta, _ in find_episodes([tmp_path / name]) for a in meta.actions]

    first = texts("a", 1)
    assert texts("b", 1) == first and texts("c", 2) != first
    assert {text.split()[0] for text in first} == {"please", "kindly", "do"}


def test_walks_are_said_in_varied_words(explore_walks: Path, tmp_path: Path) -> None:
    flags = ("--relabel", "all", "--from", "actions", "--language", "data_tools.language:say")
    assert run(explore_walks, "--out", tmp_path, *flags) == 0
    before = [a.text for meta, _ in find_episodes([explore_walks]) for a in meta.actions]
    after = [a for meta, _ in find_episodes([tmp_path]) for a in meta.actions]
    assert [canonical(action) for action in after] == before
    assert len({action.text for action in after}) > len(set(before))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["canonical actions"] == Counter(before)


def test_every_action_that_can_be_told_can_be_said() -> None:
    rng = np.random.default_rng(0)
    told = {rule.action for rule in WASD} | {*HEADINGS, STILL, "climb up", "climb down"}
    for action in told | {"turn left", "turn right"}:
        assert say(action, rng)


def test_a_captioner_sees_the_frames(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    flags = ("--captioner", f"{HERE}:brightness", "--relabel", "all")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 0
    ((meta, path),) = find_episodes([tmp_path / "out"])
    frames = decode_mp4(path.read_bytes())
    for action in meta.actions:
        assert action.text == f"brightness {frames[action.start : action.stop].mean():.1f}"


def test_a_captioner_with_too_few_texts_is_told(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    flags = ("--captioner", f"{HERE}:too_few", "--relabel", "all")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "gave ['one'] for 4 actions" in summary["skipped inputs"]["a"]["detail"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--captioner", "no_module:f"], "--captioner no_module:f: No module named 'no_module'"),
        (["--language", f"{HERE}"], f"--language {HERE}: .* is not of the form module:function"),
        (["--from", "captioner"], "go together"),
        (["--turn-degrees", "0"], "--turn-degrees 0.0"),
    ],
)
def test_impossible_settings_are_named(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_input_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = video_sample("a")
    write_episode(tmp_path, sample.meta, sample.payload)
    assert run(tmp_path, "--out", tmp_path) == 2
    assert "is an input; give another folder" in capsys.readouterr().err
