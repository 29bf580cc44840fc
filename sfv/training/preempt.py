"""Interruption by a cluster: all ranks agree at a step's border, save once and stop."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from sfv.training import signals
from sfv.training.signals import REQUEUE_EXIT, STOP_EXIT


class Preemption(pl.Callback):
    """Saves and stops when a signal has asked for it; see `sfv.training.signals`.

    Lightning's own requeueing saves inside the signal handler, which waits for ever when another
    rank is still computing, and saves nothing on SIGTERM.

    Args:
        checkpoint: file to save to; the run resumes from it.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.exit_code: int | None = None
        """How the process should end; None when nothing asked training to stop."""

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.install()  # Lightning has just set its handlers

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.install()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            self.exit_code = None  # training is done: end as usual
            return
        if self.exit_code is None:
            self.exit_code = _agreed(trainer)
            if self.exit_code is None:
                return
            trainer.save_checkpoint(self.checkpoint)
        elif not trainer.should_stop:
            trainer.save_checkpoint(self.checkpoint)
        if not _validation_due(trainer):
            _stop(trainer)


def _agreed(trainer: pl.Trainer) -> int | None:
    """What the ranks do together: a signal may have reached only some of them by now."""

    def anywhere(asked: bool) -> bool:
        return trainer.strategy.reduce_boolean_decision(asked, all=False)

    requeue, stop = signals.received("requeue"), signals.received("stop")
    if not anywhere(requeue or stop):
        return None
    # SIGTERM wins: a job that is being cancelled must not come back.
    return STOP_EXIT if anywhere(stop) else REQUEUE_EXIT


def _validation_due(trainer: pl.Trainer) -> bool:
    """Whether validation follows this step; a resumed run would never make up for it.

    Only for an interval in batches of the whole run; at an epoch's end it is left out.
    """
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is not None or not every or every == float("inf"):
        return False
    return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % every == 0


def _stop(trainer: pl.Trainer) -> None:
    trainer.should_stop = True
    trainer.limit_val_batches = 0  # else Lightning validates once more before it stops
    trainer.fit_loop.min_epochs = None  # else it goes on until these are reached
    trainer.fit_loop.epoch_loop.min_steps = None
