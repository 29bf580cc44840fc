from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.collect import doom_walks, minetest_walks
from data_tools.files import find_episodes
from data_tools.language import phrases
from sfv.data.schema import reverse_action
from sfv.fast.keys import FourierKeys, plane_bandwidths
from sfv.models.motion_head import MotionHead, fit_motion_head, mean_motions
from sfv.models.odometry import (
    DOOM,
    MINETEST,
    MINETEST_STILL,
    ActionOdometry,
    GivenPoses,
    NoOdometry,
    Odometry,
    TextOdometry,
)
from sfv.models.poses import PLANE, Space, between
from sfv.models.text import ActionTable, MiniLMText
from sfv.rng import stream
from tests.data_tools.conftest import explore_walks, return_walks

__all__ = ["explore_walks", "return_walks"]

TABLE = ActionOdometry(DOOM)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def apart(a, b):
    """Largest difference of two rows of plane poses in units, and in degrees."""
    turn = torch.remainder(a[:, 2] - b[:, 2] + 180, 360) - 180
    return float((a[:, :2] - b[:, :2]).abs().max()), float(turn.abs().max())


def planned(actions, start=(37.0, -512.5, 118.125)):
    """The collector's own poses of a walk, as recorded ones: x, y, z, yaw."""
    poses, here = [], doom_walks.Pose(*start)
    for action in actions:
        poses += doom_walks.move(here, action)
        here = poses[-1]
    return tensor([(pose.x, pose.y, 41.0, pose.yaw) for pose in poses])


def frames(actions):
    return [action for action in actions for _ in range(doom_walks.CHUNK_FRAMES)]


def drawn_walk(num_chunks, seed=0):
    rng = np.random.default_rng(seed)
    return [doom_walks.ACTIONS[i] for i in rng.integers(len(doom_walks.ACTIONS), size=num_chunks)]


def test_the_doom_table_gives_the_poses_that_the_collector_plans():
    actions = drawn_walk(125)
    assert set(actions) == set(DOOM)
    expected = GivenPoses()(frames(actions), recorded=planned(actions))
    units, degrees = apart(TABLE(frames(actions)), expected)
    assert units < 1e-9 and degrees < 1e-9


def test_the_minetest_table_gives_the_views_that_the_collector_plans():
    actions = [*MINETEST, "place a red wool block", *reversed(MINETEST), "dig a stone", "turn left"]
    views, here = [], minetest_walks.View(3.5, -8.25, 61.875)
    for action in actions:
        views += minetest_walks.move(here, action)
        here = views[-1]
    recorded = tensor([(view.x, view.y, 7.0, view.yaw) for view in views])
    expected = GivenPoses()(frames(actions), recorded=recorded)
    units, degrees = apart(ActionOdometry(MINETEST, MINETEST_STILL)(frames(actions)), expected)
    assert units < 1e-9 and degrees < 1e-9


def recorded_walks(*folders: Path):
    for meta, _ in find_episodes(folders):
        actions = [a.text for a in meta.actions for _ in range(a.start, a.stop)]
        yield meta, actions, tensor(meta.poses)


def test_filmed_walks_are_foretold_to_the_rounding_of_their_poses(explore_walks, return_walks):
    """The engine stands on whole units: each pose is off by half a unit at most."""
    seen = 0
    for meta, actions, recorded in recorded_walks(explore_walks, return_walks):
        found = TABLE(actions)
        start = PLANE.from_recorded(recorded[:1]).expand_as(found)
        world = PLANE.compose(start, found)
        units, degrees = apart(world, PLANE.from_recorded(recorded))
        assert units <= 1.001 and degrees < 1e-3
        for first, later in meta.revisits:
            same = apart(found[first : first + 1], found[later : later + 1])
            assert same[0] < 1e-9 and same[1] < 1e-9
        seen += 1
    assert seen == 8


def test_a_place_that_comes_again_has_the_same_key():
    out = drawn_walk(60)
    back = [reverse_action(action) for action in reversed(out)]
    poses = TABLE(frames(out + back))
    keys = FourierKeys([plane_bandwidths(96.0)], 128)(poses)
    half = len(poses) // 2
    torch.testing.assert_close(keys[half:-1], keys[: half - 1].flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["table", "given", "none"])
def test_chunk_by_chunk_is_the_whole_walk(kind):
    actions = frames(drawn_walk(10, seed=2))
    recorded = planned(drawn_walk(10, seed=2))
    odometry = {"table": TABLE, "given": GivenPoses(), "none": NoOdometry()}[kind]
    assert isinstance(odometry, Odometry)
    whole, last = odometry(actions, recorded=recorded), None
    assert whole.dtype == torch.float64 and not whole[0].any()
    for start in range(0, 80, 16):
        rows = recorded[max(0, start - 1) : start + 16]
        part = odometry(actions[start : start + 16], last, rows)
        if kind == "given":
            torch.testing.assert_close(part, whole[start : start + 16], rtol=0, atol=1e-9)
        else:
            assert torch.equal(part, whole[start : start + 16])
        last = part[-1]


def test_the_table_of_a_hand_adds_up():
    hand = ActionOdometry({"lift": (0.0, 0.0, 0.02), "push": (0.01, 0.0, 0.0)}, space=Space(3))
    found = hand(["push", "lift", "lift", "push"])
    expected = tensor([[0, 0, 0], [0, 0, 0.02], [0, 0, 0.04], [0.01, 0, 0.04]])
    torch.testing.assert_close(found, expected)


def test_no_frames_have_no_poses():
    for odometry in (TABLE, NoOdometry()):
        assert odometry([]).shape == odometry([], tensor([1, 2, 3])).shape == (0, 3)


def test_unknown_actions_and_missing_poses_are_refused():
    with pytest.raises(ValueError, match="no motion is known for the action 'fly'; known: "):
        TABLE(["turn left", "fly"])
    with pytest.raises(ValueError, match=r"the motion of 'a' is \(1\.0,\)"):
        ActionOdometry({"a": (1.0,)})
    recorded = planned(["turn left"])
    for given in (None, recorded[:7], recorded * float("nan")):
        with pytest.raises(ValueError, match="given poses need 8 rows of 4 finite numbers"):
            GivenPoses()(frames(["turn left"]), recorded=given)
    with pytest.raises(ValueError, match="need 9 rows of 4 finite numbers for 8 frames after anot"):
        GivenPoses()(frames(["turn left"]), tensor([0, 0, 0]), recorded)


def test_given_poses_are_seen_from_the_first_frame():
    recorded = tensor([[5, 5, 1, 90], [5, 7, 1, 180], [4, 7, 9, 180]])
    expected = tensor([[0, 0, 0], [2, 0, 90], [2, 1, 90]])
    torch.testing.assert_close(GivenPoses()(["a", "b", "c"], recorded=recorded), expected)


@pytest.fixture(scope="module")
def table_head():
    text = ActionTable(doom_walks.ACTIONS, text_dim=16)
    episodes = []
    for seed in range(3):
        actions = drawn_walk(20, seed)
        told = planned(actions)
        told[:, :2] = told[:, :2].round()  # as the engine does
        episodes.append((frames(actions), told))
    return text, fit_motion_head(text, mean_motions(PLANE, episodes))


def test_mean_motions_count_each_frame_but_the_first():
    actions = ["turn left", "walk forward", "turn left"]
    motions = mean_motions(PLANE, [(frames(actions), planned(actions))] * 2)
    assert {action: count for action, (_, count) in motions.items()} == {
        "turn left": 30,
        "walk forward": 16,
    }
    for action, (motion, _) in motions.items():
        torch.testing.assert_close(motion, tensor(DOOM[action]), rtol=0, atol=1e-9)


def test_a_head_on_rounded_poses_finds_the_motions_of_the_table(table_head):
    text, head = table_head
    assert len(head.motions) == len(DOOM)
    found = head(text(list(DOOM)))
    torch.testing.assert_close(found, tensor(list(DOOM.values())), rtol=0, atol=0.05)
    odometry = TextOdometry(text, head)
    assert isinstance(odometry, Odometry)
    units, degrees = apart(odometry(frames(drawn_walk(4))), TABLE(frames(drawn_walk(4))))
    assert units < 1.0 and degrees < 1e-6
    assert odometry([]).shape == (0, 3)


def test_a_head_is_kept_by_its_tensors(table_head):
    text, head = table_head
    again = MotionHead(16, len(DOOM), 3)
    again.load_state_dict(head.state_dict())
    states = text(list(DOOM))
    assert torch.equal(again(states), head(states))
    assert set(head.state_dict()) == {"readout", "motions"}


def test_a_fit_is_repeatable_and_needs_something(table_head):
    text, _ = table_head
    motions = {action: (tensor(motion), 8) for action, motion in DOOM.items()}
    first, second = fit_motion_head(text, motions), fit_motion_head(text, motions)
    assert torch.equal(first.readout, second.readout)
    with pytest.raises(ValueError, match="no motion to fit"):
        fit_motion_head(text, {})


@pytest.mark.slow
def test_free_text_that_was_left_out_of_the_fit_is_read():
    texts = {}
    for action, motion in DOOM.items():
        facts = {"degrees": 45} if "turn" in action else {"steps": 8}
        for phrase in sorted({*phrases(action, **facts, landmark="red torch"), action}):
            texts[phrase] = tensor(motion)
    names = list(texts)
    order = torch.randperm(len(names), generator=stream(0, "odometry-test")).tolist()
    num = int(0.7 * len(names))
    seen, unseen = ([names[i] for i in part] for part in (order[:num], order[num:]))
    text = MiniLMText()
    head = fit_motion_head(text, {name: (texts[name], 8) for name in seen})
    found = head(text(unseen))
    right = [torch.allclose(m, texts[name]) for m, name in zip(found, unseen, strict=True)]
    assert len(right) > 30 and sum(right) / len(right) > 0.9


def test_between_two_frames_lies_the_motion_of_the_second():
    poses = TABLE(frames(["walk forward", "turn left"]))
    motions = between(PLANE, poses[:-1], poses[1:])
    torch.testing.assert_close(motions[3], tensor(DOOM["walk forward"]), rtol=0, atol=1e-9)
    torch.testing.assert_close(motions[-1], tensor(DOOM["turn left"]), rtol=0, atol=1e-9)
