import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import supertuxkart
from data_tools.collect.runner import MissingEngine, collect, recipe_hash
from data_tools.collect.supertuxkart_engine import ASSETS, crop, require_supertuxkart
from data_tools.collect.supertuxkart_words import Moment, phases, pose_of, revisits
from data_tools.files import find_episodes
from data_tools.language import phrases
from sfv.data.schema import SchemaError

SETTINGS = supertuxkart.Settings("test", "pieces", 24, ("zengarden",), 64, 0)


def drive(
    turns: list[float], speeds: list[float] | None = None, brake: float = 0.0
) -> list[Moment]:
    """A drive that turns by `turns` degrees a frame, at 10 m/s unless told."""
    yaw = np.cumsum(turns)
    told = speeds or [10.0] * len(turns)
    return [
        Moment((float(i), 0.0, 0.0, float(yaw[i])), told[i], (0.0, 1.0, brake))
        for i in range(len(turns))
    ]


def told(moments: list[Moment]) -> list[str]:
    return [phase.text for phase in phases(moments)]


def test_turning_is_steering_and_left_is_counter_clockwise() -> None:
    turns = [0.0] * 20 + [5.0] * 20 + [0.0] * 20 + [-5.0] * 20
    found = phases(drive(turns))
    assert [phase.text for phase in found] == [
        "keep lane",
        "steer left",
        "keep lane",
        "steer right",
    ]
    assert [phase.start for phase in found] == pytest.approx([0, 20, 40, 60], abs=3)


def test_a_turn_through_north_is_no_jump() -> None:
    moments = [
        Moment((0.0, 0.0, 0.0, yaw), 10.0, (0.0, 1.0, 0.0))
        for yaw in [*np.arange(150.0, 180.0, 3.0), *np.arange(-180.0, -150.0, 3.0)]
    ]
    assert told(moments) == ["steer left"]


def test_speed_tells_the_rest() -> None:
    faster = np.arange(30.0).tolist()
    assert told(drive([0.0] * 30, faster)) == ["accelerate"]
    assert told(drive([0.0] * 30, brake=1.0)) == ["brake"]
    assert told(drive([0.0] * 30, [-3.0] * 30)) == ["drive backward"]
    assert told(drive([0.0])) == ["keep lane"]


def test_all_words_are_known() -> None:
    for text in ("keep lane", "steer left", "steer right", "brake", "accelerate", "drive backward"):
        assert len(phrases(text)) > 2


def test_the_pose_is_seen_from_above_and_not_mirrored() -> None:
    ahead, right = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
    assert pose_of((3.0, 7.0, 5.0), (3.0, 7.0, 6.0)) == pytest.approx((3.0, 5.0, 7.0, 90.0))
    turned_right = pose_of((0.0, 0.0, 0.0), right)[3] - pose_of((0.0, 0.0, 0.0), ahead)[3]
    assert turned_right == pytest.approx(-90)  # clockwise is negative


def test_a_second_lap_comes_by_the_same_places() -> None:
    angles = np.linspace(0, 4 * np.pi, 81)[:-1]
    moments = [
        Moment((30 * np.cos(a), 30 * np.sin(a), 0.0, np.degrees(a) % 360), 10.0, (0.0, 1.0, 0.0))
        for a in angles
    ]
    pairs = revisits(moments)
    assert pairs == [(i, i + 40) for i in range(40)]
    back = [dataclasses.replace(m, pose=(*m.pose[:3], m.pose[3] + 180)) for m in moments[40:]]
    assert revisits(moments[:40] + back) == []  # the same places, the other way round


def test_the_corners_with_the_gauges_are_cut_off() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[:36], picture[164:], picture[:, :36], picture[:, 164:] = 255, 255, 255, 255
    picture[36:100, 36:164] = 80
    small = crop(picture, 64)
    assert small.shape == (64, 64, 3)
    assert set(np.unique(small)) == {0, 80} and small[0, 0, 0] == 80 and small[63, 63, 0] == 0


def test_no_track_stands_in_two_splits() -> None:
    names = [name for split in supertuxkart.TRACKS.values() for name in split]
    assert len(names) == len(set(names)) == 21


def test_where_the_assets_stand_decides_nothing() -> None:
    moved = dataclasses.replace(SETTINGS, assets=Path("elsewhere"))
    assert recipe_hash(moved) == recipe_hash(SETTINGS)
    assert recipe_hash(dataclasses.replace(SETTINGS, seed=1)) != recipe_hash(SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tracks": ("abyss",)},
            "--tracks abyss: not a track of --split test; its tracks: candela",
        ),
        ({"size": 130}, "--size 130 --frames 24: allowed are even sizes from 32 to 128"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_missing_parts_give_the_install_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--out", str(tmp_path / "new"), "--assets", str(tmp_path)]
    assert supertuxkart.main(args) == 2
    message = capsys.readouterr().err
    assert f"assets in {tmp_path}" in message and "apt-get install" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_piece_is_filmed(tmp_path: Path) -> None:
    try:
        require_supertuxkart(ASSETS)
    except MissingEngine as error:
        pytest.skip(str(error))
    collect(SETTINGS, tmp_path, 1)
    ((meta, _),) = find_episodes([tmp_path])
    assert meta.num_frames == 24 and meta.poses is not None
    assert np.linalg.norm(np.diff(np.array(meta.poses)[:, :2], axis=0), axis=1).max() > 0.5
