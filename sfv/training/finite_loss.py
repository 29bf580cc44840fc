"""Stops training at a loss that is not finite, before anything of it is saved."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sfv.storage.weight_files import is_finite

_DATA = ("latents", "video")


class FiniteLoss(pl.Callback):
    """Raises when a loss was NaN or infinite.

    The device itself notes the first such step. The process asks for it only where it waits for the device
    anyway: on a CPU, at steps that are logged, before a checkpoint and at the end.
    """

    def __init__(self) -> None:
        self._step = 0
        self._first: Tensor | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step = trainer.global_step + 1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss; every process looks at its own."""
        loss: Tensor = outputs["loss"]
        if self._first is None:
            self._first = torch.zeros((), dtype=torch.int64, device=loss.device)
        is_new = (self._first == 0) & ~loss.isfinite()
        self._first = torch.where(is_new, self._step, self._first)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if loss.device.type == "cpu" or self._step % max(1, every) == 0:
            self._check(trainer, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The mean over all processes is known here, and the same for all."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not math.isfinite(loss):
            raise ValueError(_message(trainer, trainer.global_step, "val/loss"))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)

    def _check(self, trainer: pl.Trainer, batch: Any = None) -> None:
        first = 0 if self._first is None else int(self._first)
        if not first:
            return
        if first == self._step and batch is not None:
            wrong = [name for name in _DATA if name in batch and not is_finite(batch[name])]
            if wrong:
                raise ValueError(
                    f"slow step {first}: the {wrong[0]} of the batch hold NaN or infinity (among "
                    f"{batch.get('keys', batch['actions'])[:4]}): make these episodes again"
                )
        raise ValueError(_message(trainer, first, "the loss"))


def _message(trainer: pl.Trainer, step: int, what: str) -> str:
    rates = {group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups}
    listed = ", ".join(f"{rate:.3g}" for rate in sorted(rates))
    return (
        f"slow step {step}: {what} is NaN or infinite, so training has diverged and stops; nothing of it "
        f"was saved. Lower the learning rate (now {listed}) or set trainer.gradient_clip_val, in a run of "
        "its own (--out); model.init_from begins with a saved model"
    )
