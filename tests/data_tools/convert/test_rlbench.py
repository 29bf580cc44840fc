import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_tools.convert import rlbench
from tests.data_tools.convert.films import episodes, marked, numbers, summary, texts, write_png

EXPORT = Path(rlbench.__file__).with_name("rlbench_export.py")


def pick(height: float = 0.5) -> dict[str, list]:
    """Reach down, grasp, lift, carry and let go; the arm rests where the gripper works."""
    steps: list[tuple[float, float, float, float]] = []  # x, z, open, speed
    steps += [(0.0, 1.0 - height * i / 20, 1.0, 1.0) for i in range(1, 21)]
    steps += [(0.0, 1.0 - height, 1.0, 0.0)] * 2 + [(0.0, 1.0 - height, 0.0, 0.0)] * 2
    steps += [(0.0, 1.0 - height + height * i / 16, 0.0, 1.0) for i in range(1, 17)]
    steps += [(0.05 * i, 1.0, 0.0, 1.0 if i else 0.0) for i in range(17)]
    steps += [(0.8, 1.0, 0.0, 0.0)] * 2 + [(0.8, 1.0, 1.0, 0.0)] * 6
    return {
        "gripper_open": [s[2] for s in steps],
        "gripper_pose": [[s[0], 0.0, s[1], 0.0, 0.0, 0.0, 1.0] for s in steps],
        "joint_positions": [[0.1] * 7 for _ in steps],
        "joint_velocities": [[s[3], 0, 0, 0, 0, 0, -s[3] / 2] for s in steps],
    }


def write_export(folder: Path, **changes: object) -> Path:
    signals = pick()
    given = {
        "format": "sfv.rlbench/1", "task": "pick_up_cup", "variation": 0,
        "descriptions": ["pick up the red cup", "grasp the red cup"], "camera": "front_rgb",
        **signals, **changes,
    }  # fmt: skip
    for step in range(len(signals["gripper_open"])):
        write_png(folder / "front_rgb" / f"{step}.png", marked(step))
    (folder / "episode.json").write_text(json.dumps(given))
    return folder


def call(export: Path, out: Path, *more: str) -> int:
    return rlbench.main(
        ["--export", str(export), "--out", str(out), "--split", "test", "--size", "24x32", "--fps", "20",
         "--chunk-frames", "4", *more]
    )  # fmt: skip


def test_phases_become_words(tmp_path: Path) -> None:
    write_export(tmp_path / "in/pick_up_cup/variation0/episode0")
    assert call(tmp_path / "in", tmp_path / "out", "--no-task") == 0
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert texts(meta) == [
        "reach down", "reach down", "reach down", "reach down", "reach down", "close the gripper",
        "lift", "lift", "lift", "lift", "carry", "carry", "carry", "carry", "open the gripper",
        "hold still",
    ]  # fmt: skip
    assert numbers(frames) == list(range(64))
    assert (meta.scene, meta.encoding.codec) == ("rlbench/pick_up_cup", "libx264rgb")
    raw = meta.actions[6].raw
    assert raw["annotation"] == {"phase": "lift", "waypoint": 2, "task": "pick up the red cup"}
    assert (
        raw["samples"]["gripper_open"] == [[0]] * 4 and len(raw["samples"]["joint_positions"]) == 4
    )


def test_the_task_stands_behind_each_phase(tmp_path: Path) -> None:
    write_export(tmp_path / "in/pick_up_cup/variation3/episode0", variation=3)
    assert call(tmp_path / "in", tmp_path / "out", "--scene-by", "variation") == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert texts(meta)[0] == "reach down, to pick up the red cup"
    assert meta.scene == "rlbench/pick_up_cup/variation3"


def test_a_gripper_that_is_closed_from_the_start_pushes() -> None:
    signals = {
        name: np.array(rows, dtype=float).reshape(len(rows), -1) for name, rows in pick().items()
    }
    signals["gripper_open"][:] = 0
    said = [text for _, _, text, _ in rlbench.phases(signals)]
    assert said == ["push down", "hold still", "push up", "push", "hold still"]


def test_faults_are_counted(tmp_path: Path) -> None:
    signals = pick()
    cases = {
        "format": {"format": "other/1"},
        "camera": {"camera": "../../secret"},
        "gone": {"camera": "wrist_rgb"},
        "lacks": {"gripper_pose": None},
        "short": {"gripper_open": signals["gripper_open"][:-1]},
        "width": {"joint_positions": [[0.0] * 6] * 65},
        "words": {"joint_velocities": [["fast"] * 7] * 65},
    }
    for name, changes in cases.items():
        write_export(tmp_path / "in" / name, **changes)
    (tmp_path / "in/json").mkdir()
    (tmp_path / "in/json/episode.json").write_text("{")
    assert call(tmp_path / "in", tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {
        "export lacks 'gripper_pose'": 1,
        "export's 'joint_positions' is not a list with 7 numbers a step": 1,
        "folder of pictures is missing": 1,
        "not JSON": 1,
        "not a number": 1,
        "not an export of the form sfv.rlbench/1": 1,
        "path outside of the data set": 1,
        "signals and pictures differ in number": 1,
    }


RLBENCH = """
class Demo(object):
    def __init__(self, observations, random_seed=None):
        self._observations = observations
        self.random_seed = random_seed
    def __len__(self):
        return len(self._observations)
    def __getitem__(self, i):
        return self._observations[i]
class Observation(object):
    pass
"""


@pytest.fixture
def demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as RLBench's generator leaves it; its classes stand in a package of that name."""
    package = tmp_path / "site/rlbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "demo.py").write_text(RLBENCH)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    from rlbench.demo import Demo, Observation  # type: ignore[import-not-found]

    folder = tmp_path / "demos/pick_up_cup/variation0"
    signals, steps = pick(), []
    for index in range(len(signals["gripper_open"])):
        step = Observation()
        for name, rows in signals.items():
            value = rows[index]
            setattr(step, name, np.array(value) if isinstance(value, list) else value)
        steps.append(step)
        write_png(folder / f"episodes/episode0/front_rgb/{index}.png", marked(index))
    (folder / "episodes/episode0/low_dim_obs.pkl").write_bytes(pickle.dumps(Demo(steps)))
    (folder / "variation_descriptions.pkl").write_bytes(pickle.dumps(["pick up the red cup"]))
    for name in [name for name in sys.modules if name.split(".")[0] == "rlbench"]:
        del sys.modules[name]
    return tmp_path / "demos"


def export(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXPORT), "--demos", "demos", "--out", "export", *more]
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_export_script_writes_what_the_converter_reads(tmp_path: Path, demos: Path) -> None:
    done = export(tmp_path, "--trust-pickles")
    assert done.returncode == 0, done.stderr
    assert "1 episodes exported, 0 skipped" in done.stdout
    assert call(tmp_path / "export", tmp_path / "out") == 0
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert meta.id == "rlbench-pick_up_cup-variation0-episode0-000"
    assert numbers(frames) == list(range(64)) and texts(meta)[6] == "lift, to pick up the red cup"


def test_the_export_script_loads_nothing_unless_told_to(tmp_path: Path, demos: Path) -> None:
    done = export(tmp_path)
    assert done.returncode == 2 and "give --trust-pickles" in done.stderr
    assert not (tmp_path / "export").exists()


def test_the_export_script_goes_on_after_a_broken_episode(tmp_path: Path, demos: Path) -> None:
    broken = demos / "pick_up_cup/variation0/episodes/episode1"
    broken.mkdir()
    (broken / "low_dim_obs.pkl").write_bytes(b"no pickle")
    done = export(tmp_path, "--trust-pickles")
    assert done.returncode == 1 and "1 episodes exported, 1 skipped" in done.stdout


def test_two_export_scripts_are_the_only_code_here_that_loads_pickles() -> None:
    """RLBench's runs where the user trusts it; Overcooked's reader knows eight names alone."""
    sources = [*EXPORT.parents[1].rglob("*.py")]
    loading = {
        p.name
        for p in sources
        if "import pickle" in p.read_text() or "pickle.load" in p.read_text()
    }
    assert loading == {EXPORT.name, "overcooked_export.py"}
    naming = [p for p in EXPORT.parent.glob("*.py") if "import rlbench_export" in p.read_text()]
    assert naming == []
