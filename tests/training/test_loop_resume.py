"""The loop, killed at any point and gone on with = uninterrupted, bit for bit."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from sfv.training.slow_fast import fit_slow_fast
from tests.training import make
from tests.training.loop import SETTINGS, Record, fit
from tests.training.make import make_datamodule, make_trainer, same, weights_of


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly(tmp_path):
    """SIGKILL inside a fast phase, behind a checkpoint, in an accumulation, in validation, while writing.

    `python -m tests.training.kill FOLDER all` goes through 40 points. Compared are the losses, keys and
    memories of all slow steps, the validation losses, and at the end Φ, its average, the optimiser's
    state and the learned start.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.training.kill", str(tmp_path), "few"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(": exact (killed after") == 7


class SaveAt(pl.Callback):
    """Saves a checkpoint at one place and stops the run there."""

    def __init__(self, path, place, count):
        self.path, self.place, self.left = path, place, count

    def at(self, place, trainer):
        self.left -= place == self.place
        if self.place == place and self.left == 0:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("stopped")

    def on_train_epoch_start(self, trainer, pl_module):
        self.at("group start", trainer)

    def on_fast_chunk_end(self, trainer, pl_module, reports):
        self.at("fast chunk", trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.at("batch start", trainer)

    def on_train_batch_end(self, trainer, *_):
        self.at("batch end", trainer)

    def on_validation_end(self, trainer, pl_module):
        self.at("validation end", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.at("group end", trainer)


ACCUMULATED = {"accumulate_grad_batches": 3, "limit_val_batches": 1.0, "val_check_interval": 2}
"""Groups of 4 batches and of 2: a step behind batches 3 and 4, and behind 2."""


def run(data, folder, callbacks=(), resume=None, steps=5, settings=SETTINGS):
    record = Record()
    trainer = make_trainer(steps, [record, *callbacks], default_root_dir=folder, **ACCUMULATED)
    learner = make.make_learner(data, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
    datamodule = make_datamodule(data, "episodes")
    fit_slow_fast(trainer, learner, datamodule, settings, resume)
    return record, learner, trainer


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("place", "count"),
    [("group start", 2), ("fast chunk", 3), ("batch start", 6), ("batch end", 2), ("validation end", 2),
     ("group end", 1)],
)  # fmt: skip
def test_a_checkpoint_may_be_made_anywhere(data, tmp_path, whole, place, count):
    """Also inside a fast phase, and between the batches of one step, whose gradients it does not hold."""
    record, learner, trainer = whole
    path = tmp_path / "a.ckpt"
    with pytest.raises(RuntimeError, match="stopped"):
        run(data, tmp_path, [SaveAt(path, place, count)])
    again, resumed, other = run(data, tmp_path, resume=str(path))
    num = len(again.losses)
    assert 0 < num <= len(record.losses)
    assert torch.equal(torch.stack(again.losses), torch.stack(record.losses[-num:]))
    assert same(weights_of(resumed), weights_of(learner))
    assert other.global_step == trainer.global_step == 5
    assert other.current_epoch == trainer.current_epoch
    assert other.fit_loop.fast_loop.num_chunks == trainer.fit_loop.fast_loop.num_chunks


def test_a_finished_run_goes_on_with_more_steps_in_the_middle_of_its_group(data, tmp_path, whole):
    """The limit of one step ended it inside the first group."""
    _, _, trainer = run(data, tmp_path, steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again, resumed, _ = run(data, tmp_path, resume=str(tmp_path / "a.ckpt"))
    record, learner, _ = whole
    num = len(again.losses)
    assert torch.equal(torch.stack(again.losses), torch.stack(record.losses[-num:]))
    assert same(weights_of(resumed), weights_of(learner))


def test_a_checkpoint_of_slow_learning_alone_is_refused(data, tmp_path):
    trainer = make_trainer(1, default_root_dir=tmp_path)
    trainer.fit(make.make_learner(data), make_datamodule(data))
    trainer.save_checkpoint(tmp_path / "slow.ckpt")
    with pytest.raises(ValueError, match=r"made without the slow-fast loop.*model.init_from"):
        run(data, tmp_path, resume=str(tmp_path / "slow.ckpt"))


def test_a_replay_that_was_lost_is_an_error_that_names_it(data, tmp_path):
    _, _, trainer = fit(data, 1, trainer=make_trainer(1, default_root_dir=tmp_path / "there"))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match=r"a\.ckpt is damaged.*here.replay.rank-00000.group-00000001 is not there"
    ):
        run(data, tmp_path / "here", resume=str(tmp_path / "a.ckpt"))


def test_the_memories_of_a_checkpoint_are_in_files_beside_it(data, tmp_path):
    """The checkpoint itself does not grow with the replay."""
    sizes = []
    for chunks in (1, 2):
        folder = tmp_path / str(chunks)
        trainer = make_trainer(1, default_root_dir=folder)
        fit(data, 1, replace(SETTINGS, max_chunks=chunks), trainer=trainer)
        trainer.save_checkpoint(folder / "a.ckpt")
        files = list((folder / "replay" / "rank-00000" / "group-00000001").iterdir())
        assert len(files) == 2 * chunks + 1
        sizes.append((folder / "a.ckpt").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 1000
