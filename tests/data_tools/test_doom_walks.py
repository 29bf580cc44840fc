import numpy as np
import pytest

from data_tools.collect.doom_engine import Engine
from data_tools.collect.doom_level import Level, standing_places
from data_tools.collect.doom_walks import (
    ACTIONS,
    CHUNK_FRAMES,
    NoWay,
    Pose,
    explore,
    move,
    revisits,
    there_and_back,
)
from sfv.data.schema import reverse_action
from tests.data_tools.test_doom_level import two_rooms


@pytest.fixture(scope="module")
def hall(surveyor: Engine) -> Level:
    surveyor.load("MAP01", seed=0)
    return surveyor.level()


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ("walk forward", Pose(10, 116, 90)),
        ("walk backward", Pose(10, -76, 90)),
        ("step left", Pose(-86, 20, 90)),
        ("step right", Pose(106, 20, 90)),
        ("turn left", Pose(10, 20, 135)),
        ("turn right", Pose(10, 20, 45)),
    ],
)
def test_where_an_action_leads(action: str, end: Pose) -> None:
    poses = move(Pose(10, 20, 90), action)
    assert len(poses) == CHUNK_FRAMES and poses[0] != Pose(10, 20, 90)
    assert (poses[-1].x, poses[-1].y, poses[-1].yaw) == pytest.approx((end.x, end.y, end.yaw))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_reverse_action_leads_back(action: str) -> None:
    start = Pose(3.0, -7.0, 354.375)
    back = move(move(start, action)[-1], reverse_action(action))[-1]
    assert (back.x, back.y, back.yaw) == pytest.approx((start.x, start.y, start.yaw))


def test_a_return_walk_passes_every_pose_again(hall: Level) -> None:
    walk = there_and_back(hall, standing_places(hall), generator(1), 7, ACTIONS)
    assert len(walk.actions) == 7 and len(walk.poses) == 56
    assert list(walk.actions[4:]) == [reverse_action(a) for a in reversed(walk.actions[1:4])]
    last = 4 * CHUNK_FRAMES - 1
    for i in range(1, 3 * CHUNK_FRAMES + 1):
        assert walk.poses[last + i] == walk.poses[last - i]


def test_each_chunk_moves_as_its_action_says(hall: Level) -> None:
    walk = there_and_back(hall, standing_places(hall), generator(2), 9, ACTIONS)
    for chunk in range(1, 9):
        before, *frames = walk.poses[chunk * CHUNK_FRAMES - 1 : (chunk + 1) * CHUNK_FRAMES]
        for frame, expected in zip(frames, move(before, walk.actions[chunk]), strict=True):
            assert (frame.x, frame.y) == pytest.approx((expected.x, expected.y))
            assert (frame.yaw - expected.yaw) % 360 == pytest.approx(0)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_comes_close_to_a_wall(hall: Level, seed: int) -> None:
    walk = explore(hall, standing_places(hall), generator(seed), 20, ACTIONS)
    assert hall.clear(np.array([(pose.x, pose.y) for pose in walk.poses])).all()


def test_a_wall_is_never_crossed() -> None:
    level = two_rooms(solid=True, things=())
    places = np.array([[300.0, 250.0]])
    for seed in range(8):
        walk = explore(level, places, generator(seed), 20, ACTIONS)
        assert max(pose.x for pose in walk.poses) < 600


def test_exploring_takes_chunks_back(hall: Level) -> None:
    walks = [
        explore(hall, standing_places(hall), generator(seed), 24, ACTIONS[:4]) for seed in range(5)
    ]
    reversals = sum(
        reverse_action(a) == b
        for walk in walks
        for a, b in zip(walk.actions, walk.actions[1:], strict=False)
    )
    assert reversals > 2
    assert {action for walk in walks for action in walk.actions} == set(ACTIONS[:4])
    assert all(revisits(walk.poses) for walk in walks)


def test_no_start_with_a_view_is_told() -> None:
    level = two_rooms(solid=True, things=())
    with pytest.raises(NoWay, match="no start with an open view"):
        explore(level, np.array([[30.0, 30.0]]), _facing_west(), 4, ACTIONS)


def _facing_west() -> np.random.Generator:
    """Draws the middle of every range: heading 32 of 64 faces the wall at x = 0."""

    class West(np.random.Generator):
        def integers(self, low: int, *args: object) -> int:  # type: ignore[override]
            return low // 2

    return West(np.random.PCG64(0))


@pytest.mark.parametrize("chunks", [1, 6])
def test_a_return_walk_needs_an_odd_length(hall: Level, chunks: int) -> None:
    with pytest.raises(ValueError, match=f"chunks {chunks} has to be odd"):
        there_and_back(hall, standing_places(hall), generator(0), chunks, ACTIONS)


def test_revisits_pair_equal_poses_with_the_first() -> None:
    a, b, c = Pose(0, 0, 0), Pose(12, 0, 0), Pose(12, 0, 5.625)
    assert revisits([a, b, c, b, a, a]) == [(1, 3), (0, 4), (0, 5)]
    assert revisits([Pose(0, 0, 359.9999999), Pose(5, 0, 0), Pose(1e-9, 0, 0)]) == [(0, 2)]
