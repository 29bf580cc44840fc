from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data_tools.collect.minetest_objects import box_of, built_object, in_sight
from data_tools.collect.minetest_walks import (
    CHUNK_FRAMES,
    EDIT_FRAME,
    LOOK_DEGREES,
    MAX_VIEW,
    NOBODY,
    STEP_BLOCKS,
    TURN_DEGREES,
    Edit,
    Ground,
    NoWay,
    Planner,
    View,
    Walk,
    block_words,
    explore,
    landmark,
    move,
    revisits,
    states,
    there_and_back,
    undo,
)
from data_tools.language import phrases

SIZE = 61


def ground(heights: np.ndarray | None = None) -> Ground:
    """A hilly square around (100, -50), with a pond."""
    if heights is None:
        rows, columns = np.mgrid[:SIZE, :SIZE]
        heights = (3 * np.sin(columns / 9) + 2 * np.cos(rows / 7) + 10).round().astype(np.int64)
        heights[40:46, 10:20] = NOBODY
    return Ground(70, -80, heights, np.full(heights.shape, "default:dirt_with_grass"))


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def many(plan, chunks: int, count: int = 8) -> list[Walk]:
    """Walks from the first seeds that find a way."""
    walks: list[Walk] = []
    for seed in range(20 * count):
        try:
            walks.append(plan(ground(), generator(seed), chunks))
        except NoWay:
            continue
        if len(walks) == count:
            return walks
    raise AssertionError(f"only {len(walks)} walks")


def follows(walk: Walk) -> bool:
    for i in range(1, len(walk.actions)):
        before, *views = walk.views[i * CHUNK_FRAMES - 1 : (i + 1) * CHUNK_FRAMES]
        for view, told in zip(views, move(before, walk.actions[i]), strict=True):
            turned = (view.yaw - told.yaw + 180) % 360 - 180
            gaps = (view.x - told.x, view.y - told.y, turned, view.pitch - told.pitch)
            if max(map(abs, gaps)) > 1e-6:
                return False
    return True


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ("walk forward", View(5, 11, 90, 0)),
        ("walk backward", View(5, 3, 90, 0)),
        ("turn left", View(5, 7, 135, 0)),
        ("turn right", View(5, 7, 45, 0)),
        ("look up", View(5, 7, 90, 22.5)),
        ("look down", View(5, 7, 90, -22.5)),
        ("place a red wool block", View(5, 7, 90, 0)),
    ],
)
def test_where_an_action_leads(action: str, end: View) -> None:
    views = move(View(5, 7, 90), action)
    last = views[-1]
    assert len(views) == CHUNK_FRAMES
    assert (last.x, last.y, last.yaw, last.pitch) == pytest.approx(
        (end.x, end.y, end.yaw, end.pitch)
    )


def test_what_stops_a_walker() -> None:
    heights = np.full((SIZE, SIZE), 5)
    heights[30, 32], heights[30, 40], heights[30, 20] = 6, 7, NOBODY
    flat = ground(heights)
    y = -80 + 30
    assert flat.clear(70 + 31.5, y) and flat.clear(70 + 25, y)
    assert not flat.clear(70 + 39.5, y) and not flat.clear(70 + 40, y - 0.5)
    assert not flat.clear(70 + 20, y) and not flat.clear(70 + 19.2, y - 0.2)
    assert flat.clear(70 + 19.2, y - 1.2)
    assert not flat.clear(69.5, y) and not flat.clear(70 + SIZE, y)
    assert flat.view(70 + 30, y, 0) == 8.5
    assert flat.view(70 + 30, y, 90) == MAX_VIEW


def test_the_feet_rise_smoothly() -> None:
    heights = np.full((SIZE, SIZE), 5)
    heights[:, 31:] = 6
    slope = ground(heights)
    way = [slope.height(100 + step / 8, -50) for step in range(9)]
    assert way == pytest.approx([5 + step / 8 for step in range(9)])
    heights[31:, :] += 2
    assert ground(heights).height(100.5, -49.5) == pytest.approx(6.5)


def test_exploring_stays_where_one_can_stand() -> None:
    seen = set()
    for walk in many(explore, 26):
        assert len(walk.actions) == 26 and len(walk.views) == 208 and follows(walk)
        assert all(ground().clear(view.x, view.y) for view in walk.views)
        assert max(abs(view.pitch) for view in walk.views) <= 22.5
        seen |= {action.split()[0] + " " + action.split()[1] for action in walk.actions}
    assert {"walk forward", "walk backward", "turn left", "turn right", "look up"} <= seen
    assert "place a" in seen


def test_a_return_walk_passes_every_view_of_every_block_again() -> None:
    built = 0
    for walk in many(there_and_back, 19, 30):
        assert follows(walk) and len(walk.actions) == 19
        last = 10 * CHUNK_FRAMES - 1
        told = states(walk)
        for i in range(1, 9 * CHUNK_FRAMES + 1):
            assert walk.views[last + i] == walk.views[last - i]
            assert told[last + i] == told[last - i]
        assert list(walk.actions[10:]) == [undo(action) for action in reversed(walk.actions[1:10])]
        assert {later for _, later in revisits(walk)} >= set(range(last + 5, len(walk.views)))
        built += bool(walk.edits)
    assert built > 2


@pytest.mark.parametrize("chunks", [12, 16, 26])
def test_a_landmark_is_lost_from_sight_and_comes_back(chunks: int) -> None:
    kinds = set()
    for walk in many(landmark, chunks, 12):
        assert len(walk.actions) == chunks and follows(walk)
        place = walk.edits[-1].place
        assert {edit.frame for edit in walk.edits} == {CHUNK_FRAMES + EDIT_FRAME}
        seen = walk.views[2 * CHUNK_FRAMES - 1]
        ahead = np.array([place[0] - seen.x, place[2] - seen.y])
        heading = np.array([np.cos(np.radians(seen.yaw)), np.sin(np.radians(seen.yaw))])
        assert 1.5 < ahead @ heading < 3.5
        turned = [abs((view.yaw - seen.yaw + 180) % 360 - 180) for view in walk.views[16:]]
        assert max(turned) >= 90
        assert any(first < 16 and later >= len(walk.views) - 1 for first, later in revisits(walk))
        assert all(
            max(abs(view.x - place[0]), abs(view.y - place[2])) >= 1 for view in walk.views[16:]
        )
        kinds.add(walk.actions[1].split()[0])
    assert kinds == {"place", "dig"}


def test_building_ends_a_view_and_undoing_brings_it_back() -> None:
    view = View(100, -50, 0)
    edits = (Edit(2, (1, 2, 3), "wool:red"), Edit(5, (1, 2, 3), None))
    walk = Walk(("turn left",), tuple(move(view, "turn left")), edits)
    red = frozenset({((1, 2, 3), "wool:red")})
    assert states(walk) == [frozenset()] * 2 + [red] * 3 + [frozenset()] * 3
    there = [view, View(101, -50, 0), view, view]
    assert revisits(Walk((), tuple(there))) == [(0, 2), (0, 3)]
    assert revisits(Walk((), tuple(there), edits[:1])) == []
    assert revisits(Walk((), (view,) * 7, edits)) == [(0, 5), (0, 6)]


def test_frames_that_only_wait_are_no_revisit() -> None:
    view = View(100, -50, 0)
    assert revisits(Walk((), (view,) * 5)) == []
    assert revisits(Walk((), (view, view, View(100, -50, TURN_DEGREES), view))) == [(0, 3)]


def test_digging_takes_the_ground_and_what_grows_on_it() -> None:
    planner = Planner(ground(np.full((SIZE, SIZE), 5)), generator(0))
    planner.follow(["walk forward"])
    assert planner.can_build()
    planner.dig_block()
    walk = planner.walk()
    assert walk.actions[1] == "dig a dirt with grass block"
    (x, above, y), (x2, top, y2) = (edit.place for edit in walk.edits)
    assert (x, y) == (x2, y2) and (above, top) == (6, 5)
    assert {edit.node for edit in walk.edits} == {"air"}
    assert not planner.ground.clear(x, y)
    with pytest.raises(NoWay):
        planner.follow(["walk forward"])


@pytest.mark.parametrize(
    "action", ["look up", "turn right", "dig a stone block", "place a red wool block"]
)
def test_undoing_twice_is_the_action(action: str) -> None:
    assert undo(action) != action and undo(undo(action)) == action
    assert undo(action) in phrases(undo(action))


def test_there_is_no_walk_where_nobody_can_stand() -> None:
    with pytest.raises(NoWay):
        explore(ground(np.full((SIZE, SIZE), NOBODY)), generator(0), 5)


def test_names_of_blocks() -> None:
    assert block_words("default:desert_sand") == "desert sand"


def test_steps_are_those_of_the_game() -> None:
    assert STEP_BLOCKS * CHUNK_FRAMES == 4 and LOOK_DEGREES * CHUNK_FRAMES == 22.5
    for walk in many(explore, 8, 2):
        for one, other in pairwise(walk.views):
            assert np.hypot(one.x - other.x, one.y - other.y) < STEP_BLOCKS + 1e-6


def test_a_block_is_seen_where_it_stands() -> None:
    """Eye 2.225 above the ground's blocks; 45.5 degrees to each side; the face 2 blocks ahead."""
    land = ground()
    view = View(80.0, -70.0, 0.0)
    height = round(land.height(80.0, -70.0))
    left, top, right, bottom = box_of(view, land, (82, height + 1, -70), 64) or (0, 0, 0, 0)
    assert (left, right) == (20, 44), "straight ahead"
    assert 32 < top < bottom == 64, "below the horizon"
    turned = box_of(replace(view, yaw=30.0), land, (82, height + 1, -70), 64)
    assert turned is not None and turned[0] > 36, "the walker turned left"
    assert box_of(replace(view, yaw=180.0), land, (82, height + 1, -70), 64) is None


def test_a_hill_or_a_tree_hides_a_block() -> None:
    heights = np.zeros((40, 40), dtype=np.int64)
    view, place = View(75.0, -70.0, 0.0), (85, 1, -70)
    assert in_sight(view, ground(heights), place)
    for hidden in (2, NOBODY):
        heights[10, 10] = hidden
        assert not in_sight(view, ground(heights), place)


def test_what_was_built_is_known_by_frame() -> None:
    (walk,) = many(landmark, 14, 1)
    thing = built_object(walk, ground(), 64)
    edit = walk.edits[-1]
    assert thing.name == ("hole" if edit.node == "air" else "block")
    assert thing.places[: edit.frame] == (None,) * edit.frame
    assert set(thing.places[edit.frame :]) == {(edit.place[0], edit.place[2], edit.place[1])}
    assert (len(walk.views) - 1, edit.frame - 1) in thing.without, (
        "the walk ends where it was built"
    )
    assert thing.boxes[edit.frame] == thing.boxes[-1] is not None
    assert None in thing.boxes[edit.frame :], "it was lost from sight"
