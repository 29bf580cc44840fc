"""Signals, attempts and full disks, without a cluster."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sfv.cli import main
from sfv.training import signals
from sfv.training.attempts import FencedCheckpointIO, StaleAttempt, claim
from sfv.training.checkpoints import previous_of
from tests.training.test_fit import flags, short

ROOT = Path(__file__).parents[2]


def catches(pid, number):
    """Whether a process has a handler for a signal, by its mask of caught ones."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.slow
def test_a_signal_while_torch_loads_is_not_lost(config_data, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sfv.cli",
        "fit",
        *flags(config_data),
        *short(tmp_path / "run", 3),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--trainer.val_check_interval=9"], cwd=ROOT, env=environment,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not catches(process.pid, signal.SIGUSR1):
            time.sleep(0.001)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGUSR1)
        _, said = process.communicate(timeout=120)
    assert process.returncode == signals.REQUEUE_EXIT, said
    assert "saved slow step 1;" in said
    state = torch.load(tmp_path / "run" / "checkpoints" / "newest.ckpt", weights_only=True)
    assert state["global_step"] == 1
    assert not (tmp_path / "run" / "model").exists()


def test_sigterm_weighs_more_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals.caught():
        assert not signals.received("stop")
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received("requeue") and signals.received("stop")
    assert signal.getsignal(signal.SIGTERM) == before
    assert not signals.received("stop")


def test_only_the_newest_attempt_writes(tmp_path):
    first = claim(tmp_path)
    old, path = FencedCheckpointIO(first), tmp_path / "checkpoints" / "newest.ckpt"
    old.save_checkpoint({"global_step": 1}, path)
    second = claim(tmp_path)
    FencedCheckpointIO(second).save_checkpoint({"global_step": 2}, path)
    with pytest.raises(StaleAttempt, match="attempt 2 has taken this run over, so attempt 1"):
        old.save_checkpoint({"global_step": 3}, path)
    assert torch.load(path, weights_only=True) == {"global_step": 2}
    assert torch.load(previous_of(path), weights_only=True) == {"global_step": 1}
    with pytest.raises(StaleAttempt):
        old.remove_checkpoint(path)
    assert {p.name for p in path.parent.iterdir()} == {"newest.ckpt", "newest.previous.ckpt"}
    assert (first.number, second.number) == (1, 2)
    noted = json.loads((tmp_path / "attempts" / "0002.json").read_text())
    assert noted.keys() == {"started", "host", "job", "restarts", "commit"}


def test_an_attempt_that_is_overtaken_while_it_writes_replaces_nothing(tmp_path, monkeypatch):
    attempt, path = claim(tmp_path), tmp_path / "newest.ckpt"
    old = FencedCheckpointIO(attempt)
    old.save_checkpoint({"global_step": 1}, path)
    save = torch.save

    def slow_save(*args):
        save(*args)
        claim(tmp_path)

    monkeypatch.setattr(torch, "save", slow_save)
    with pytest.raises(StaleAttempt):
        old.save_checkpoint({"global_step": 2}, path)
    assert torch.load(path, weights_only=True) == {"global_step": 1}


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(
    config_data, tmp_path, capsys
):
    out = tmp_path / "run"
    command = ["fit", *flags(config_data), *short(out, 2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fit = [*command, "--trainer.val_check_interval=9"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert main(fit) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert f"cannot write {out / 'checkpoints' / 'newest.ckpt'} (File too large)" in said
    assert list((out / "checkpoints").iterdir()) == []
    assert main(fit) == 0


def test_a_checkpoint_survives_the_disk_filling_up(tmp_path):
    io, path = FencedCheckpointIO(claim(tmp_path)), tmp_path / "newest.ckpt"
    io.save_checkpoint({"weights": torch.zeros(1000)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*newest\.ckpt"):
            io.save_checkpoint({"weights": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.zeros(1000))
