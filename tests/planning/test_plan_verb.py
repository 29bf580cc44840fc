"""`sfv plan` in process: on a toy world, and on the real engine at a tiny size."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from data_tools.collect.doom_walks import ACTIONS
from data_tools.plan_worlds.write_tasks import main as write_tasks
from experiments.cluster.measured import read_report
from sfv.cli import main
from sfv.fast.memory_file import load_memory
from sfv.metrics.protocol import mean_value
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.planning.episode import Player, PlaySettings, planned_frames
from sfv.planning.imagination import TrueImagination
from sfv.planning.tasks import load_tasks
from tests.planning.make import CHUNK, MOVES, Meadow, make_world, meadow_tasks
from tests.planning.test_chat import GOALS, KEY, Stub, says

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path
    for path in sorted((ROOT / "experiments" / "configs" / "plan").glob("*.yaml"))
    if "inverse" not in path.stem
]
MEADOW, DOOM = "tests.planning.make.Meadow", "data_tools.plan_worlds.doom.DoomWorld"
QUICK = (
    "--generation.sampler.num_inference_steps=1",
    "--generation.lora.r=2",
    "--generation.fast.num_steps=1",
    "--generation.fast.learning_rate=1e-2",
    "--fvd=false",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tasks, a world model and an inverse model for the toy world."""
    folder = tmp_path_factory.mktemp("plan")
    meadow_tasks(folder / "tasks.json")
    make_world(folder / "model")
    make_world(folder / "other", seed=1)
    InverseDynamics(tuple(MOVES), side=16, widths=(8,), hidden=8).save(folder / "inverse")
    return folder


def run(made, out, *more, environment=MEADOW, tasks=None):
    args = [f"--environment={environment}", f"--tasks={tasks or made / 'tasks.json'}"]
    args += [f"--model={made / 'model'}", f"--inverse={made / 'inverse'}"]
    return main(["plan", *args, f"--out={out}", *QUICK, *more])


def report_of(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(made, out, f"--also=fast_loop={made / 'other'}") == 0
    return out


def test_the_report_has_every_row_with_passports_and_differences(finished):
    report = report_of(finished)
    assert set(report["rows"]) == {"none", "fast", "oracle", "random", "fast_loop"}
    for row in report["rows"].values():
        cell = row["metrics"]["dist"]
        assert row["n"] == cell["passport"]["count"] == 2 and cell["low"] <= cell["value"]
        assert cell["passport"]["protocol"] == "plan" and "meadow 1" in cell["passport"]["settings"]
        assert {"dist_a", "dist_origin", "success", "reached", "step_read"} <= row["metrics"].keys()
        assert "dist_place_1" not in row["metrics"]
    pairs = {(g["row"], g["against"]) for g in report["differences"] if g["metric"] == "dist"}
    without = {(row, "none") for row in ("fast", "oracle", "random", "fast_loop")}
    assert pairs == {*without, ("fast_loop", "fast")}
    assert (finished / "report.html").is_file() and (finished / "config.yaml").is_file()


def test_the_ledger_reads_the_report(finished):
    values = read_report(finished / "report.json")
    assert values["none/dist"].num == values["fast_loop/dist"].num == 2


def test_videos_and_memories_are_kept(finished):
    for row, has_memory in (("none", False), ("fast", True), ("oracle", False)):
        names = {path.name for path in (finished / "rows" / row).iterdir()}
        wanted = {"walk-0.json", "walk-0.mp4", "walk-0.real.mp4", "walk-0.imagined.mp4"}
        assert wanted <= names
        assert ("walk-0.memory.safetensors" in names) is has_memory
    memory = load_memory(finished / "rows" / "fast" / "walk-1.memory.safetensors")
    assert memory.header.num_chunks == 4 and memory.header.episode == "walk-1"


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_numbers(made, finished, tmp_path):
    out, whole = tmp_path / "out", report_of(finished)
    assert run(made, out, "--rows=[fast]") == 0
    first = (out / "rows" / "fast" / "walk-0.json").read_text()
    (out / "rows" / "fast" / "walk-1.json").unlink()
    (out / "report.json").unlink()
    assert run(made, out, "--rows=[fast]") == 0
    assert (out / "rows" / "fast" / "walk-0.json").read_text() == first
    for name, cell in whole["rows"]["fast"]["metrics"].items():
        assert report_of(out)["rows"]["fast"]["metrics"][name]["value"] == cell["value"]


def test_clips_that_were_scored_are_not_scored_again(made, tmp_path, monkeypatch):
    measured = []

    def measure(real, imagined, passport, min_clips):
        measured.append(min_clips)
        return {"fvd": mean_value([3.0, math.nan, 5.0], replace(passport, metric="fvd"))}

    monkeypatch.setattr("sfv.planning.verb.clip_scores", measure)
    many = (
        "--num_tasks=1",
        "--play.repeats=6",
        "--min_clips=2",
    )  # clips of too few frames are none
    monkeypatch.setattr("sfv.planning.checks.CLIP_FRAMES", 4)
    out, more = tmp_path / "out", ("--rows=[none,oracle]", "--fvd=true", *many)
    assert run(made, out, *more) == 0
    whole = report_of(out)
    assert len(measured) == 2 and whole["rows"]["none"]["metrics"]["fvd"]["value"] == 4
    (out / "report.json").unlink()
    assert run(made, out, *more) == 0
    assert len(measured) == 2 and report_of(out) == whole
    assert run(made, out, *more, "--min_clips=3") == 0
    assert measured[2:] == [3, 3]


def test_too_few_clips_are_known_before_anything_is_imagined(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sfv.planning.verb._play", None)  # nothing is played
    out, more = tmp_path / "out", ("--rows=[none]", "--fvd=true", "--play.repeats=3")
    assert run(made, out, *more) == 2
    said = capsys.readouterr().err
    assert "0 clips of 16 frames, FVD needs at least 16 (--min_clips)" in said
    assert "--fvd null" in said and "--play.repeats" in said and "another --out" in said


def test_a_default_measure_that_is_left_out_is_told_before_and_in_the_report(
    made, tmp_path, capsys, monkeypatch
):
    told = []

    def play(*_):
        told.append(capsys.readouterr().out)
        raise ValueError("played")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("sfv.planning.verb._play", play)
        assert run(made, out, "--rows=[oracle]", "--fvd=null") == 2
    line = "left out: 0 clips of 16 frames, FVD needs at least 16 (--min_clips)."
    assert line in told[0]
    assert run(made, out, "--rows=[oracle]", "--fvd=null") == 0
    assert line in report_of(out)["left_out"][0] and line in (out / "report.html").read_text()
    assert capsys.readouterr().out.count(line) == 2  # before, and below the table


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({}, 8),
        ({"way_out": "shown"}, 4),
        ({"max_steps": 5}, 5),
        ({"max_steps": 50}, 8),
        ({"way_out": "shown", "max_steps": 7}, 3),
        ({"way_out": "shown", "max_steps": 3}, 0),
    ],
)
def test_the_frames_of_a_plan_are_known_before(made, settings, frames):
    """As many as are imagined when it is played."""
    (task, *_), play = load_tasks(str(made / "tasks.json")).tasks, PlaySettings(**settings)
    assert planned_frames(task.script, play, CHUNK) == frames
    meadow = Meadow()
    played = Player(meadow, TrueImagination(meadow), None, play).play(task, task.script, "e")
    assert sum(map(len, played.imagined)) == sum(map(len, played.real)) == frames
    assert played.steps == min(8, play.max_steps or 8)


def test_other_settings_are_refused(made, finished, capsys):
    assert run(made, finished, f"--also=fast_loop={made / 'other'}", "--play.loop=open") == 2
    assert "belongs to another run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("over", "chunks"), [("episode", [4, 4]), ("task", [4, 8])])
def test_a_memory_lasts_over_the_episodes_of_a_task(made, tmp_path, over, chunks):
    out = tmp_path / "out"
    more = ("--rows=[fast]", "--num_tasks=1", "--play.repeats=2", f"--play.memory_over={over}")
    assert run(made, out, *more) == 0
    folder = out / "rows" / "fast"
    paths = [folder / f"walk-0-{i}.memory.safetensors" for i in range(2)]
    memories = [load_memory(path) for path in paths]
    assert [memory.header.num_chunks for memory in memories] == chunks
    assert [part["n"] for part in report_of(out)["repeats"]["fast"]] == [1, 1]
    before = memories[1].weights
    (folder / "walk-0-1.json").unlink()
    paths[1].unlink()
    (out / "report.json").unlink()
    assert run(made, out, *more) == 0
    again = load_memory(paths[1]).weights
    assert all(torch.equal(before[name], again[name]) for name in before)


@pytest.mark.slow
def test_rows_of_a_task_group_share_a_memory_only_in_their_own_order(made, tmp_path):
    out = tmp_path / "out"
    assert run(made, out, "--rows=[fast]", "--play.memory_over=task") == 0
    last = load_memory(out / "rows" / "fast" / "walk-1.memory.safetensors")
    assert last.header.num_chunks == 8  # both tasks are of the group "walk"


def test_a_chat_models_sub_goals_are_kept_and_its_key_is_nowhere(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    stub, out = Stub(), tmp_path / "out"
    stub.replies = [says(f"{KEY} is no list"), says(json.dumps([vars(goal) for goal in GOALS]))]
    more = ["--rows=[oracle]", "--num_tasks=1", "--play.method=imagine"]
    more += ["--sub_goals=sfv.planning.chat.Chat", f"--sub_goals.base_url={stub.url}"]
    more += ["--sub_goals.model=m", "--sub_goals.wait_seconds=0"]
    assert run(made, out, *more) == 0
    assert run(made, out, *more) == 0
    assert len(stub.asked) == 2  # a malformed answer, a good one, none for the second call
    stub.close()
    kept = json.loads((out / "sub_goals.json").read_text())["walk-0"]
    assert [goal["action"] for goal in kept] == ["east", None]
    told = capsys.readouterr()
    files = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert KEY not in told.out + told.err and KEY.encode() not in files


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--rows=[swift]",), "rows are ['swift']"),
        (("--also=fast=x",), "a name that no other row has"),
        (("--num_tasks=0",), "num_tasks=0"),
        (("--inverse=null",), "whatever a world model imagines"),
        (("--model=null",), "imagines with a world model"),
        (("--play.max_steps=0",), "max_steps=0"),
        (("--tasks=doom-retrace",), "chunks of 8 frames"),
        (("--inverse=FOLDER",), "the inverse model may read ['fly']"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(made, tmp_path, capsys, more, told):
    InverseDynamics((*MOVES, "fly"), side=16, widths=(8,), hidden=8).save(tmp_path / "flying")
    more = [flag.replace("FOLDER", str(tmp_path / "flying")) for flag in more]
    try:
        code = run(made, tmp_path / "out", *more)
    except SystemExit as error:
        code = error.code
    err = capsys.readouterr().err
    assert code == 2 and told in err
    assert not (tmp_path / "out").exists()


def test_an_engine_that_differs_is_refused(made, tmp_path, capsys):
    more = ("--rows=[random]", "--environment.wall=5")
    assert run(made, tmp_path / "out", *more) == 2
    assert "misses way point a" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_parses_and_names_its_command(path, capsys):
    header, *_ = path.read_text().splitlines()
    assert header == f"# sfv plan --config {path.relative_to(ROOT)}"
    load_tasks(yaml.safe_load(path.read_text())["tasks"])
    assert main(["plan", f"--config={path}", "--num_tasks=0"]) == 2
    assert "num_tasks=0" in capsys.readouterr().err


@pytest.mark.slow
def test_plans_are_executed_in_the_real_engine(tmp_path, capsys):
    tasks = tmp_path / "tiny.json"
    args = ["doom", "--out", str(tasks), "--tasks", "1", "--chunks", "2", "--size", "16"]
    assert write_tasks(args) == 0
    make_world(tmp_path / "model", ACTIONS[:4], chunk=8)
    InverseDynamics(ACTIONS[:4], side=16, widths=(8,), hidden=8).save(tmp_path / "inverse")
    out = tmp_path / "out"
    more = ("--environment.size=16", "--play.max_steps=20")
    assert run(tmp_path, out, *more, environment=DOOM, tasks=tasks) == 0
    rows = report_of(out)["rows"]
    assert {row: rows[row]["metrics"]["plan_steps"]["value"] for row in rows} == dict.fromkeys(
        ("none", "fast", "oracle", "random"), 20
    )
    out = tmp_path / "true"
    more = ("--environment.size=16", "--rows=[oracle,random]", "--inverse=null")
    assert run(tmp_path, out, *more, environment=DOOM, tasks=tasks) == 0
    metrics = report_of(out)["rows"]["oracle"]["metrics"]
    assert metrics["dist"]["value"] < 0.1 and metrics["success"]["value"] == 1
