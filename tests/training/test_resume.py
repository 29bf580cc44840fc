"""Killed and resumed = uninterrupted, bit for bit."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.training.make import make_datamodule, make_learner, make_trainer, same, weights_of

STEPS = 8
"""More than two epochs: 6 windows in batches of 2 are 3 slow steps."""


class Losses(pl.Callback):
    """What was trained on and what came of it; stops the run in front of slow step `cut`."""

    def __init__(self, cut=None):
        self.cut, self.rows = cut, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.cut:
            raise RuntimeError("killed")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append((trainer.global_step, batch["keys"], outputs["loss"].item()))


def fit(data, folder, cut=None, resume=None, every=1, **changes):
    losses = Losses(cut)
    checkpoint = ModelCheckpoint(folder, filename="newest", every_n_train_steps=every)
    trainer = make_trainer(
        STEPS, [losses, checkpoint], limit_val_batches=1.0, val_check_interval=3,
        enable_checkpointing=True, default_root_dir=folder,
    )  # fmt: skip
    learner = make_learner(data, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
    datamodule = make_datamodule(data, **changes)
    if cut is None:
        trainer.fit(learner, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    else:
        with pytest.raises(RuntimeError, match="killed"):
            trainer.fit(learner, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    return losses.rows, weights_of(learner)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("cut", "every"), [(2, 1), (3, 1), (5, 2), (7, 3)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(data, tmp_path, uninterrupted, cut, every):
    """Cuts: in an epoch, at its border (and validation), one step or more behind a checkpoint."""
    rows, weights = uninterrupted
    first, _ = fit(data, tmp_path, cut=cut, every=every)
    saved = cut - cut % every
    assert first == rows[:cut]
    second, resumed = fit(data, tmp_path, resume=str(tmp_path / "newest.ckpt"), every=every)
    assert second == rows[saved:]
    assert same(weights, resumed)


def test_an_epoch_holds_every_window_once(uninterrupted):
    keys = [key for _, batch, _ in uninterrupted[0] for key in batch]
    first, second = keys[:6], keys[6:12]
    assert len(set(first)) == 6 and first != second and sorted(first) == sorted(second)
