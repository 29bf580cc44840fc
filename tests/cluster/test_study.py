"""The trials of a sweep when many processes write, and some die."""

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from experiments.cluster.study import JOURNAL, Study
from experiments.cluster.sweep_file import load_sweep
from experiments.cluster.trial import failed
from tests.cluster.conftest import ROOT

WRITER = """
import sys
from pathlib import Path
from experiments.cluster.study import Study
from experiments.cluster.sweep_file import load_sweep

folder, first, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, 100, stride):
    study = Study(folder, load_sweep(folder / "sweep.yaml"), number)
    study.start(number)
    study.report(number, 1, float(number))
    study.report(number, 2, float(-number))
    study.finish(number)
"""

HOLDER = """
import sys
from optuna.storages.journal import JournalFileBackend
from experiments.cluster.study import Study
from experiments.cluster.sweep_file import load_sweep
from pathlib import Path

folder = Path(sys.argv[1])
lock = Study(folder, load_sweep(folder / "sweep.yaml")).storage._backend._lock
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep of 100 trials, in a folder that is named from where one stands, as users do."""
    space = {"x": {"values": list(range(100))}}
    sweep = {"config": "none.yaml", "out": "none", "space": space}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.chdir(tmp_path.parent)
    relative = tmp_path.relative_to(tmp_path.parent)
    study(relative).fill()
    return relative


def study(folder):
    return Study(folder, load_sweep(folder / "sweep.yaml"))


def python(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_hundred_trials_written_by_four_processes_at_once_lose_nothing(folder):
    writers = [python(WRITER, folder, first, 4) for first in range(4)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    trials = study(folder).trials()
    assert Counter(t.state.name for t in trials) == {"COMPLETE": 100}
    assert [t.value for t in trials] == [-float(n) for n in range(100)]
    assert all(t.intermediate_values == {1: float(n), 2: -float(n)} for n, t in enumerate(trials))


@pytest.mark.slow
def test_a_writer_that_was_killed_holding_the_journal_stops_nobody_for_long(folder, monkeypatch):
    found = study(folder)
    monkeypatch.setattr(found.storage._backend._lock, "grace_period", 1)
    holder = python(HOLDER, folder)
    assert holder.stdout.readline() == "held\n", holder.communicate()[1]
    holder.kill()
    holder.wait()
    lock = folder / f"{JOURNAL}.lock"
    assert lock.is_symlink() and lock.exists(), "its age is read through the link"
    found.start(7)
    assert study(folder).trials()[7].state.name == "RUNNING" and not lock.is_symlink()


def test_a_trial_that_died_is_a_failure_unless_it_said_why_itself(folder):
    for number in range(4):
        study(folder).start(number)
    study(folder).fail(0, "Invalid learning rate: -1.0")
    study(folder).finish(1)
    failed(folder, 0, 1)
    failed(folder, 2, 128 + signal.SIGKILL)
    failed(folder, 3, 255)
    trials = study(folder).trials()
    reasons = [trial.user_attrs.get("reason", "") for trial in trials[:4]]
    assert reasons[0] == "Invalid learning rate: -1.0"
    assert reasons[2] == "exit code 137: Killed; its log may say more"
    assert reasons[3] == "exit code 255; its log may say more"
    assert Counter(t.state.name for t in trials) == {"FAIL": 4, "WAITING": 96}
