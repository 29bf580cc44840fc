"""The real engine: needs `pip install 'sfv[metaworld]'` and Mesa's OpenGL (docs in the collector)."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import metaworld, metaworld_film, mujoco_gl
from data_tools.collect.metaworld_engine import INSTALL, open_task, require_metaworld
from data_tools.collect.metaworld_film import STILL_FRAMES, Film, film_return, film_task
from data_tools.collect.metaworld_tasks import HELD_OUT, TASKS
from data_tools.collect.pictures import revisit_psnr
from data_tools.collect.runner import MissingEngine, Skipped, collect
from data_tools.files import find_episodes
from sfv.data.schema import SchemaError
from sfv.data.stages import decode_mp4
from sfv.metrics.objects import locate, project

SIZE = 32
SETTINGS = metaworld.Settings("train", "policy", ("door-close", "drawer-open"), SIZE, 4, 0)


@pytest.fixture(scope="module")
def engine_is_there() -> None:
    try:
        require_metaworld()
    except MissingEngine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def collected(engine_is_there: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metaworld")
    collect(SETTINGS, folder, 3)
    return folder


@pytest.fixture(scope="module")
def returned(engine_is_there: None) -> Iterator[Film]:
    with open_task("pick-place", SIZE) as engine:
        yield film_return(engine, 3, 4, np.random.default_rng(3))


@pytest.mark.slow
def test_a_task_is_filmed_in_phases(collected: Path) -> None:
    ((meta, path),) = (e for e in find_episodes([collected]) if "drawer-open" in e[0].id)
    frames = decode_mp4(path.read_bytes())
    assert frames.shape == (meta.num_frames, SIZE, SIZE, 3)
    assert [action.text for action in meta.actions] == [
        "wait", "reach for the drawer handle", "open the drawer",
    ]  # fmt: skip
    assert meta.scene.startswith("metaworld/drawer-open/layout-") and meta.domain == "robot"
    assert meta.fps == 20 and meta.poses is None
    wait, reach, pull = (action.raw for action in meta.actions)
    assert pull["task"] == "open the drawer"
    assert pull["success"] and not reach["success"]
    assert np.ptp(wait["hand"], axis=0).max() < 0.01 < np.ptp(reach["hand"], axis=0).max()
    assert np.ptp(reach["thing"], axis=0).max() < 0.02 < np.ptp(pull["thing"], axis=0).max()
    controls = np.array(reach["control"])
    assert controls.shape == (meta.actions[1].stop - meta.actions[1].start, 4, 4)
    assert np.abs(controls).max() <= 1


@pytest.mark.slow
def test_the_picture_is_the_right_way_up_and_moves(collected: Path) -> None:
    for _, path in find_episodes([collected]):
        frames = np.asarray(decode_mp4(path.read_bytes())).astype(int)
        wood = frames[0, -4:].mean(axis=(0, 1))
        wall = frames[0, :3, SIZE // 2 :].mean(axis=(0, 1))
        assert wood[0] > wood[2] + 20  # brown below
        assert abs(wall[0] - wall[2]) < 20  # grey above
        assert np.abs(frames[-1] - frames[0]).max() > 60


@pytest.mark.slow
def test_the_task_on_its_own_gives_the_same_bytes(collected: Path, tmp_path: Path) -> None:
    """Two runs agree, and an episode does not depend on what the engine played before it."""
    first, third = (name for name in sorted(collected.glob("*door-close.mp4")))
    alone = dataclasses.replace(SETTINGS)
    list(alone.film([2], tmp_path))
    assert (tmp_path / third.name).read_bytes() == third.read_bytes()
    assert first.read_bytes() != third.read_bytes()
    text = third.with_suffix(".json").read_bytes()
    assert (tmp_path / third.name).with_suffix(".json").read_bytes() == text


@pytest.mark.slow
def test_each_episode_has_its_own_layout(collected: Path) -> None:
    scenes = [meta.scene for meta, _ in find_episodes([collected])]
    assert len(set(scenes)) == len(scenes) == 3


@pytest.mark.slow
def test_a_puck_is_carried_away_and_back(returned: Film) -> None:
    things = np.array([moment.thing for moment in returned.moments])
    hands = np.array([moment.hand for moment in returned.moments])
    assert np.linalg.norm(things[-1] - things[0]) < 0.02
    assert np.linalg.norm(things[:, :2] - things[0, :2], axis=1).max() > 0.14
    assert np.linalg.norm(hands[-1] - hands[0]) < 0.005
    texts = [phase.text for phase in returned.phases]
    assert texts[0] == texts[-1] == "wait"
    assert texts.index("carry the puck to the goal") < texts.index("carry the puck back")


@pytest.mark.slow
def test_the_arm_looks_the_same_when_it_is_back(returned: Film) -> None:
    last = len(returned.frames) - STILL_FRAMES
    assert returned.revisits == [(i, last + i) for i in range(STILL_FRAMES)]
    psnr = revisit_psnr(returned.frames, returned.revisits)
    middle = revisit_psnr(returned.frames, [(0, len(returned.frames) // 2)])
    assert psnr and middle and psnr[0] >= metaworld.MIN_RETURN_PSNR > middle[0] + 3


@pytest.mark.slow
def test_a_returns_phases_last_whole_chunks_if_asked(returned: Film) -> None:
    with open_task("pick-place", SIZE) as engine:
        filmed = film_return(engine, 3, 4, np.random.default_rng(3), chunk_frames=6)
    lengths = [phase.stop - phase.start for phase in filmed.phases]
    assert {length % 6 for length in lengths} == {0} and sum(lengths) == len(filmed.frames)
    assert len(filmed.moments) == len(filmed.controls) == len(filmed.frames)
    assert [p.text for p in filmed.phases] == [p.text for p in returned.phases]
    assert any((phase.stop - phase.start) % 6 for phase in returned.phases)
    for phase in filmed.phases:  # no chunk has commands of two phases
        assert len(np.unique(filmed.controls[phase.start : phase.stop, :, 3])) == 1
    assert filmed.revisits[-1] == (STILL_FRAMES - 1, len(filmed.frames) - 1)


@pytest.fixture(scope="module")
def walked(engine_is_there: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One walk, by the command."""
    folder = tmp_path_factory.mktemp("walk")
    args = ["--out", str(folder), "--episodes", "1", "--workers", "1", "--size", "64"]
    assert metaworld.main([*args, "--walk", "return", "--chunks", "23", "--every", "4"]) == 0
    return folder


@pytest.mark.slow
def test_a_walk_has_whole_chunks_and_knows_where_the_puck_is_seen(walked: Path) -> None:
    ((meta, path),) = find_episodes([walked])
    frames = decode_mp4(path.read_bytes())
    assert {action.stop - action.start for action in meta.actions} == {8}
    assert len(meta.actions) == 23 and meta.num_frames == len(frames) == 184
    texts = [action.text for action in meta.actions]
    assert texts[0] == texts[-1] == "wait" and texts[11] in ("wait", "withdraw the hand")
    assert texts.index("carry the puck to the goal") < 12 <= texts.index("carry the puck back")
    (puck,) = meta.objects
    assert {first for first, _ in meta.revisits} == {0} and meta.revisits[-1][1] == 183
    for frame in (0, 95, 183):
        box, place, colour = puck.boxes[frame], puck.places[frame], puck.colour
        assert box and place and colour and meta.camera
        found = locate(frames[frame], colour)
        assert found == pytest.approx(project(np.array(meta.camera), place), abs=1.0)
        assert box[0] <= found[0] <= box[2] and box[1] <= found[1] <= box[3]
    assert np.linalg.norm(np.subtract(puck.places[183], puck.places[0])) < 0.02
    assert np.linalg.norm(np.subtract(puck.places[95], puck.places[0])) > 0.1
    assert puck.without == tuple((later, 95) for _, later in meta.revisits)
    assert meta.poses and np.ptp(np.array(meta.poses)[[0, 95, 183], :3], axis=0).max() < 0.01


@pytest.mark.slow
def test_a_policy_that_fails_is_skipped(
    engine_is_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metaworld_film, "LIMIT_FRAMES", STILL_FRAMES + 2)
    with (
        open_task("button-press", SIZE) as engine,
        pytest.raises(Skipped, match="the scripted policy did not succeed"),
    ):
        film_task(engine, TASKS["button-press"], 0, 1)


@pytest.mark.slow
def test_failures_are_counted(
    engine_is_there: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metaworld_film, "LIMIT_FRAMES", STILL_FRAMES + 2)
    monkeypatch.setattr(metaworld, "MAX_ATTEMPTS", 2)
    args = ["--out", str(tmp_path), "--episodes", "1", "--workers", "1", "--size", "32"]
    assert metaworld.main([*args, "--tasks", "reach"]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["tries skipped"] == {"the scripted policy did not succeed": 2}
    assert summary["episodes"]["given up"] == ["metaworld-train-00000-reach"]
    assert '"tries tried": 2' in capsys.readouterr().out


def test_held_out_tasks_stand_in_the_test_split_alone() -> None:
    for split in ("train", "val"):
        assert not set(HELD_OUT) & set(metaworld.SPLIT_TASKS[split])
    assert set(HELD_OUT) < set(metaworld.SPLIT_TASKS["test"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("door-lock",)}, "--tasks door-lock: not a task of --split train --play policy"),
        ({"play": "return"}, "--tasks door-close: not a task of .* --play return; its tasks: pick"),
        (
            {"play": "walk", "tasks": ("pick-place",), "chunks": 8},
            "--chunks 8: a return walk needs",
        ),
        ({"size": 33}, "--size 33: allowed are even numbers from 32"),
        ({"every": 3}, "--every 3: allowed are"),
        ({"chunk_frames": 8}, "--chunk-frames 8: allowed are 0 .* with --play return alone"),
        (
            {"play": "return", "tasks": ("pick-place",), "chunk_frames": -1},
            "--chunk-frames -1: allowed are 0",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_settings_without_chunks_are_hashed_as_they_were() -> None:
    assert "chunks" not in SETTINGS.settings()
    walk = dataclasses.replace(SETTINGS, play="walk", tasks=("pick-place",), chunks=21)
    assert walk.settings()["chunks"] == 21
    back = dataclasses.replace(SETTINGS, play="return", tasks=("pick-place",))
    assert "chunk_frames" not in back.settings()
    assert dataclasses.replace(back, chunk_frames=8).settings()["chunk_frames"] == 8


def test_missing_metaworld_gives_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setitem(sys.modules, "metaworld", None)
    assert metaworld.main(["--out", str(tmp_path / "new")]) == 2
    assert INSTALL in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_missing_opengl_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_gl, "find_library", lambda name: None)
    with pytest.raises(MissingEngine, match=r"apt-get install .*libegl1"):
        mujoco_gl.choose_gl()


def test_osmesa_is_used_where_there_is_no_egl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "")
    monkeypatch.setattr(mujoco_gl, "find_library", lambda name: name == "OSMesa" or None)
    assert mujoco_gl.choose_gl() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert mujoco_gl.choose_gl() == "glfw"  # the user's own choice stays
