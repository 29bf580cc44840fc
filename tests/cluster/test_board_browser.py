"""`sfv board` in a real browser, on real trials: whether TensorBoard shows what a sweep was made for."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from torch.utils.tensorboard import SummaryWriter

from experiments.cluster.study import Study
from experiments.cluster.sweep_file import load_sweep
from experiments.cluster.trial import CONFIG, SWEEP, fit, prepare, trial_folder
from sfv.report.tensorboard import add_video
from tests.cluster.conftest import TINY
from tests.cluster.lab import wait_for
from tests.cluster.test_sweep import LR, sweep_file

__all__ = ["sweep_file"]

NUM = 3


@pytest.fixture
def swept(sweep_file, runs):
    """The folder of a sweep of three trials, one of which has a video."""
    path = sweep_file(space={LR: {"values": [1e-4, 1e-3, 1e-2]}})
    folder = runs.out("sweep")
    folder.mkdir()
    (folder / SWEEP).write_text(path.read_text())
    (folder / CONFIG).write_bytes(Path(TINY).read_bytes())
    Study(folder, load_sweep(path)).fill()
    for number in range(NUM):
        prepare(folder, number)
        fit(folder, number)
    frames = np.zeros((5, 24, 40, 3), np.uint8)
    frames[:, :, 10:20] = 255
    with SummaryWriter(str(trial_folder(folder, 0) / "tensorboard")) as writer:
        add_video(writer, "long/walk-0", frames, 0, 8)
    return folder


@pytest.fixture
def board(swept):
    """The address of TensorBoard on it; the command ends with its server when it is ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://localhost:{port}/"

    def answers():
        assert process.poll() is None, "it ended"
        try:
            with urllib.request.urlopen(f"{address}data/runs") as answer:
                return b"trial-0002" in answer.read()
        except OSError:
            return False

    command = [sys.executable, "-m", "sfv.cli", "board", str(swept), f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for("TensorBoard", answers)
            yield address
        finally:
            process.terminate()
            process.wait(30)
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)


@pytest.mark.slow
def test_tensorboard_shows_trials_what_they_tried_videos_and_charts(board, page):
    page.goto(f"{board}#hparams")
    rows = page.get_by_text(re.compile("trial-000./tensorboard")).filter(visible=True)
    expect(rows).to_have_count(NUM)
    names = re.compile(r"^\s*(model|data|trainer|seed|out|checkpoint|val)[\w./]*\s*$")
    heads = page.get_by_text(names).filter(visible=True).all_inner_texts()
    assert {text.strip() for text in heads} == {LR, "val/loss"}, (
        "what was tried and what came of it"
    )
    for rate in ("0.00010000", "0.0010000", "0.010000"):
        expect(page.get_by_text(rate, exact=True).filter(visible=True)).to_have_count(1)

    page.goto(f"{board}#images")
    page.reload()
    page.wait_for_function(
        "() => window.__found || (window.__found = (function find(root) {"
        "  for (const e of root.querySelectorAll('*')) {"
        "    if (e.tagName === 'IMG' && e.naturalWidth === 40 && e.naturalHeight === 24) return true;"
        "    if (e.shadowRoot && find(e.shadowRoot)) return true;"
        "  } return false; })(document))"
    )

    page.goto(f"{board}#custom_scalars")
    page.reload()
    for category in ("slow learning", "fast learning", "reports"):
        expect(page.get_by_text(category, exact=True)).to_be_visible()
