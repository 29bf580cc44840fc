import json
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments import submit
from experiments import sweep as command
from experiments.cluster.study import Study
from experiments.cluster.sweep_file import combinations, load_sweep, num_trials
from experiments.cluster.sweep_file import flags as to_flags
from experiments.cluster.trial import prepare
from sfv.training.fit import LoginNodeCLI, parse
from tests.cluster.conftest import ROOT, TINY
from tests.cluster.lab import wait_for
from tests.training.test_fit import flags

LR = "model.optimizer.init_args.lr"


@pytest.fixture
def sweep_file(runs):
    """Writes a sweep of tiny runs."""

    def write(name="sweep", **changes):
        overrides = {
            key.replace("callbacks+", "callbacks"): str(value) if "/" in str(value) else value
            for key, value in (flag[2:].split("=", 1) for flag in runs.flags(name, 2))
            if not key.startswith("trainer.callbacks")
        }
        content = {
            "config": str(TINY),
            "out": str(runs.out(name)),
            "space": {LR: {"values": [1e-3, 1e-2]}},
            "overrides": overrides,
            **changes,
        }
        path = runs.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spaec": {}}, ["no setting 'spaec'", "space"]),
        ({"space": {}}, ["space is empty"]),
        ({"space": {LR: {"vales": [1]}}}, ["vales", "values"]),
        ({"space": {LR: {"low": 1, "high": 2}}}, [LR, "no values, which a grid needs"]),
        ({"space": {LR: {"values": [[1, 2]]}}}, [LR, "list of numbers"]),
        ({"method": "bayes"}, ["method", "bayes", "grid", "random", "tpe"]),
        ({"method": "tpe"}, ["tpe needs trials"]),
        ({"method": "random", "trials": 2, "space": {LR: {"low": 2, "high": 1}}}, ["low is 2.0"]),
        (
            {"method": "tpe", "trials": 2, "space": {LR: {"low": 0, "high": 1, "log": True}}},
            ["0.0 to 1.0", "log=True"],
        ),
        ({"trials": 3}, ["a grid has as many trials"]),
        ({"space": {"out": {"values": [1]}}}, ["out cannot be in space"]),
        ({"parallel": 0}, ["parallel is 0"]),
        ({"resources": {"time": "soon"}}, ["time is 'soon'"]),
        ({"resources": {"nodes": "two"}}, ["resources.nodes", "two"]),
    ],
)
def test_a_wrong_sweep_says_what_is_allowed(sweep_file, capsys, changes, said):
    path = sweep_file(**changes)
    assert command.main([str(path)]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1 and str(path) in message
    for words in said:
        assert words in message


SHIPPED = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_goes_with_its_config(path, data):
    sweep = load_sweep(path)
    header = path.read_text().splitlines()[0]
    assert header == f"# python -m experiments.sweep {path.relative_to(ROOT)}"
    assert sweep.out == f"runs/sweeps/{path.stem}" and num_trials(sweep) >= 9
    settings = {name: (p.values or [p.high])[-1] for name, p in sweep.space.items()}
    arguments = [*flags(data, ROOT / sweep.config), *to_flags(sweep.overrides | settings)]
    if "slow_fast" in sweep.config:
        arguments.append("--model.init_from=null")
    config = parse(arguments, LoginNodeCLI).config
    for name, value in settings.items():
        assert config[name] == value


def test_interpolations_are_left_to_the_config(sweep_file):
    path = sweep_file(overrides={"trainer.val_check_interval": "${trainer.max_steps}"})
    assert to_flags(load_sweep(path).overrides) == [
        "--trainer.val_check_interval=${trainer.max_steps}"
    ]


def test_a_grid_takes_every_combination_with_every_seed(sweep_file):
    space = {LR: {"values": [1e-3, 1e-2]}, "data.shuffle_buffer": {"values": [1, 2, 3]}}
    found = list(combinations(load_sweep(sweep_file(space=space, seeds=[0, 7]))))
    assert len(found) == 12 and len({json.dumps(s) for s in found}) == 12
    assert found[0] == {LR: 1e-3, "data.shuffle_buffer": 1, "seed_everything": 0}
    assert found[1]["seed_everything"] == 7
    assert found[-1] == {LR: 1e-2, "data.shuffle_buffer": 3, "seed_everything": 7}


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_requeued_trial_tries_the_same_again(sweep_file, runs, method):
    space = {
        LR: {"low": 1e-4, "high": 1e-2, "log": True},
        "data.shuffle_buffer": {"values": [1, 2]},
    }
    path = sweep_file(method=method, trials=3, space=space)
    folder = runs.out("sweep")
    folder.mkdir()
    (folder / "sweep.yaml").write_text(path.read_text())
    Study(folder, load_sweep(path)).fill()

    def tried(number):
        prepare(folder, number)
        return json.loads((folder / "settings" / f"{number:04d}.json").read_text())

    second, first = tried(1), tried(0)
    assert first[LR] != second[LR] and all(1e-4 <= s[LR] <= 1e-2 for s in (first, second))
    assert tried(1) == second
    study = Study(folder, load_sweep(path))
    assert [t.state.name for t in study.trials()] == ["RUNNING", "RUNNING", "WAITING"]
    study.report(0, 2, 5.0), study.report(0, 4, 3.0), study.report(0, 2, 9.0)
    assert study.finish(0) == "COMPLETE" and study.trials()[0].value == 3.0
    study.report(1, 2, float("nan"))
    assert study.finish(1) == "val/loss is nan"
    assert study.finish(2) == "val/loss is not measured"
    assert [t.state.name for t in study.trials()] == ["COMPLETE", "FAIL", "FAIL"]
    assert [t.number for t in study.best()] == [0]


def test_hopeless_trials_are_pruned_only_when_asked(sweep_file, runs):
    for prune in (False, True):
        name = f"prune-{prune}"
        path = sweep_file(name, space={LR: {"values": [n / 10 for n in range(1, 7)]}}, prune=prune)
        folder = runs.out(name)
        folder.mkdir()
        study = Study(folder, load_sweep(path))
        study.fill()
        for number in range(5):
            study.start(number)
            assert not study.report(number, 10, float(number))
            study.finish(number)
        study.start(5)
        assert study.report(5, 10, 5.0) == prune


def test_a_wrong_name_in_the_space_ends_before_anything_is_written(sweep_file, runs, capsys):
    with pytest.raises(SystemExit):
        command.main([str(sweep_file(space={"model.optimiser": {"values": [1]}}))])
    assert "model.optimiser" in capsys.readouterr().err
    assert not runs.out("sweep").exists()


@pytest.mark.slow
def test_a_sweep_on_a_cluster_survives_a_lost_node_and_is_all_accounted_for(
    lab, runs, sweep_file, capsys
):
    path = sweep_file(space={LR: {"values": [1e-3, 1e-2, -1.0]}})
    content = yaml.safe_load(path.read_text())
    content["overrides"]["trainer.callbacks+"] = "tests.cluster.probe.Probe"
    path.write_text(yaml.safe_dump(content))
    assert command.main([str(path), "--site", str(runs.site())]) == 0, capsys.readouterr().err
    held = "sweep/trial-0000"
    runs.gate(held, "train-0-0", "stop")
    job = capsys.readouterr().out.split()[1].rstrip(":")
    assert command.main([str(path), "--site", str(runs.site())]) == 2
    assert f"job {job} of this folder is still there" in capsys.readouterr().err

    lost = runs.out("sweep") / "trial-0000" / "attempts"
    wait_for("the other trials", lambda: set(tasks(lab, job)) == {"0"}, 120)
    runs.reached(held, "train-0-0")
    node = json.loads((lost / "0001.json").read_text())["host"]
    lab.kill_node(node)
    (runs.probed(held) / "gates" / "train-0-0.reached").unlink()
    lab.mark_down(node)
    runs.reached(held, "train-0-0")
    lab.restore(node)
    assert len(list(lost.iterdir())) == 2
    assert status(path, capsys) == "3 trials: 1 complete, 1 fail, 1 running"

    assert command.main(["stop", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 trials: 1 complete, 2 fail"
    wait_for("the end", lambda: not tasks(lab, job))
    assert (lost.parent / "checkpoints" / "newest.ckpt").exists(), "saved when it was cancelled"
    assert lab.run("squeue", "--noheader") == "", "and not requeued"
    command.main(["status", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert "(stopped)" in lines[0] and "Invalid learning rate: -1.0" in lines[2]
    assert command.main(["best", str(path)]) == 0
    assert str(runs.out("sweep") / "trial-0001") in capsys.readouterr().out


def tasks(lab, job):
    """Indices of the tasks that have not ended."""
    return lab.run("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%K").split()


def status(path, capsys):
    assert command.main(["status", str(path)]) == 0
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_a_hundred_trials_wait_beside_another_sweep_and_a_killed_one_is_reaped(
    lab, runs, sweep_file, capsys
):
    rates = [n / 1e5 for n in range(1, 101)]
    many = sweep_file("many", space={LR: {"values": rates}}, parallel=1)
    other = sweep_file("other", space={LR: {"values": [1e-3]}})
    for path in (many, other):
        content = yaml.safe_load(path.read_text())
        content["overrides"]["trainer.callbacks+"] = "tests.cluster.probe.Probe"
        path.write_text(yaml.safe_dump(content))
    site = ["--site", str(runs.site())]
    assert command.main([str(many), *site]) == 0, capsys.readouterr().err
    runs.gate("many/trial-0000", "train-0-0", "stop")
    runs.gate("many/trial-0001", "train-0-0", "stop")
    job = capsys.readouterr().out.split()[1].rstrip(":")
    runs.reached("many/trial-0000", "train-0-0")
    assert len(tasks(lab, job)) == 100

    assert command.main([str(other), *site]) == 0, capsys.readouterr().err
    capsys.readouterr()
    wait_for("the other sweep", lambda: status(other, capsys) == "1 trials: 1 complete")
    assert status(many, capsys) == "100 trials: 1 running, 99 waiting"

    subprocess.run(["pkill", "-KILL", "-f", f"trial fit {runs.out('many')} 0"], check=True)
    runs.reached("many/trial-0001", "train-0-0")
    assert command.main(["status", str(many)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "(exit code 137: Killed; its log may say more)" in lines[0]
    assert lines[-1] == "100 trials: 1 fail, 1 running, 98 waiting"
    assert command.main(["stop", str(many)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "99 trials stopped"
    wait_for("the end", lambda: not tasks(lab, job))
    assert status(many, capsys) == "100 trials: 100 fail"


@pytest.mark.parametrize("job", ["--user=me", "-f", "1 2", ""])
def test_a_folder_cannot_name_an_option_as_its_job(job: str, tmp_path: Path) -> None:
    (tmp_path / submit.JOB).write_text(json.dumps({"id": job}))
    with pytest.raises(ValueError, match=r"names no job's id"):
        submit.job_of(tmp_path)
