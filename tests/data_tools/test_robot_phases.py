from itertools import pairwise

import numpy as np
import pytest

from data_tools.collect.metaworld_tasks import HELD_OUT, KNOWN, TASKS
from data_tools.collect.robot_phases import Phase, Track, cut, phases
from data_tools.collect.robot_script import CLOSED, OPEN, Grip, Leg, take_and_put
from data_tools.language import phrases

FRAMES = 60


def track(**changes: np.ndarray) -> Track:
    """A thing that is reached at 10, grasped, lifted at 20, carried from 30, put down from 45."""
    height = np.interp(range(FRAMES), [20, 30, 45, 55], [0.0, 0.2, 0.2, 0.02])
    aside = np.interp(range(FRAMES), [30, 45], [0.0, 0.3])
    parts = {
        "thing": np.stack([aside, np.zeros(FRAMES), height], axis=1),
        "second": np.zeros((FRAMES, 3)),
        "closing": np.where(np.arange(FRAMES) < 10, -1.0, 1.0),
        "near": np.interp(range(FRAMES), [0, 10], [0.3, 0.03]),
    }
    return Track(**(parts | changes))


def texts(found: list[Phase]) -> list[str]:
    assert found[0].start == 0 and found[-1].stop == FRAMES
    assert all(a.stop == b.start for a, b in pairwise(found))
    return [phase.text for phase in found]


def starts(found: list[Phase]) -> list[int]:
    return [phase.start for phase in found]


def test_a_carried_thing_is_reached_grasped_lifted_carried_and_placed() -> None:
    found = phases(track(), TASKS["pick-place"])
    assert texts(found) == [
        "reach for the puck", "grasp the puck", "lift the puck", "carry the puck to the goal",
        "place the puck at the goal",
    ]  # fmt: skip
    assert starts(found) == [0, 10, 21, 32, 45]


def test_a_gripper_that_opens_releases() -> None:
    closing = np.where(np.arange(FRAMES) < 10, -1.0, 1.0)
    closing[55:] = -1.0
    found = phases(track(closing=closing), TASKS["pick-place"])
    assert found[-1] == Phase("release the puck", 55, FRAMES)


def test_a_gripper_that_closes_far_from_the_thing_does_not_grasp_it() -> None:
    found = phases(track(closing=np.ones(FRAMES)), TASKS["pick-place"])
    assert starts(found)[1] == 8  # where the hand is nearer than 10 cm


def test_a_thing_that_settles_by_itself_was_not_moved_by_the_hand() -> None:
    thing = track().thing.copy()
    thing[0] += 0.02
    assert texts(phases(track(thing=thing), TASKS["push"]))[0] == "reach for the puck"


def test_a_thing_that_stays_up_is_not_placed() -> None:
    thing = track().thing.copy()
    thing[45:, 2] = 0.2
    assert "place" not in " ".join(texts(phases(track(thing=thing), TASKS["pick-place"])))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("drawer-open", ["reach for the drawer handle", "open the drawer"]),
        ("push", ["reach for the puck", "push the puck to the goal"]),
        ("reach", ["reach for the goal"]),
    ],
)
def test_what_is_not_carried_has_one_word(task: str, expected: list[str]) -> None:
    assert texts(phases(track(), TASKS[task])) == expected


def test_a_tool_acts_when_the_second_thing_moves() -> None:
    second = np.zeros((FRAMES, 3))
    second[50:, 0] = 0.01
    found = phases(track(second=second), TASKS["hammer"])
    assert texts(found)[2:] == ["carry the hammer to the nail", "hit the nail"]
    assert found[-1].start == 50


def test_short_phases_join_the_one_before_and_the_first_the_next() -> None:
    assert cut([(0, "a"), (10, "b"), (12, "c")], 20) == [Phase("a", 0, 12), Phase("c", 12, 20)]
    assert cut([(0, "a"), (2, "b")], 20) == [Phase("b", 0, 20)]
    assert cut([(0, "a"), (5, "a"), (30, "b")], 20) == [Phase("a", 0, 20)]


def test_every_phase_of_every_task_can_be_said() -> None:
    for task in TASKS.values():
        told = [f"{verb} the {task.thing}" for verb in ("reach for", "grasp", "lift", "release")]
        for text in [*told, task.act, *([task.place] if task.place else [])]:
            assert len(phrases(text)) > 1, text


def test_there_are_fifty_tasks_and_five_are_held_out() -> None:
    assert len(TASKS) == 50 and len(HELD_OUT) == 5
    assert set(KNOWN) == set(TASKS) - set(HELD_OUT)


def test_a_scripted_hand_takes_and_puts() -> None:
    grip = Grip(above=0.3, offset=(0.0, 0.1, 0.02), close_frames=7, open_frames=3, leg_frames=40)
    source, target = np.array([0.1, 0.2, 0.0]), np.array([0.5, 0.2, 0.1])
    legs = take_and_put(grip, source, target, "cup", "carry the cup to the shelf", "place the cup")
    assert [leg.text for leg in legs] == [
        "reach for the cup", "reach for the cup", "grasp the cup", "lift the cup",
        "carry the cup to the shelf", "place the cup", "release the cup", "raise the hand",
    ]  # fmt: skip
    assert [leg.gripper for leg in legs] == [OPEN] * 2 + [CLOSED] * 4 + [OPEN] * 2
    assert legs[1].target == pytest.approx((0.1, 0.3, 0.02))
    assert legs[4].target == pytest.approx((0.5, 0.3, 0.3))
    assert legs[2].frames == 7 and legs[6].frames == 3


def test_a_leg_moves_towards_its_target_and_ends_there() -> None:
    leg = Leg("go", (0.0, 0.0, 0.5), OPEN, 9, 0.01)
    assert leg.move(np.array([0.05, 0.0, 0.0]), 10.0) == pytest.approx([-0.5, 0.0, 1.0])
    assert leg.arrived(np.array([0.0, 0.009, 0.5]))
    assert not leg.arrived(np.array([0.0, 0.011, 0.5]))
    assert not Leg("stay", (0.0, 0.0, 0.5), OPEN, 9, 0).arrived(np.array([0.0, 0.0, 0.5]))
