"""The moving average of the weights (EMA), for whole and for sharded models."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sfv.training.sharding import local, named_trained, part_like, reshard

AVERAGE = "averaged_state"
"""Where a checkpoint keeps the average: name to tensor, sharded as the weights are."""


class EMA(pl.Callback):
    """Averages the trained weights over slow steps: a ← decay·a + (1 - decay)·w.

    Validation scores the average, and it is what the model holds when training has ended; checkpoints hold
    both. Each process averages only its own shards, without talking to others.

    Args:
        decay: share of the old average that a slow step keeps; at least 0, below 1.
        update_starting_at_step: slow steps before the first that is averaged; the average starts as the
            weights are then.
        use_buffers: False only: there so that settings of Lightning's `EMAWeightAveraging` stay valid.

    Raises:
        ValueError: `decay` or `update_starting_at_step` is out of range, or buffers are asked for.
    """

    def __init__(
        self,
        decay: float | int = 0.999,
        update_starting_at_step: int = 0,
        use_buffers: bool = False,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay of the average is {decay}; allowed: at least 0, below 1")
        if update_starting_at_step < 0:
            raise ValueError(
                f"update_starting_at_step is {update_starting_at_step}; allowed: 0 or more"
            )
        if use_buffers:
            raise ValueError("use_buffers is true, but only weights are averaged; set it to false")
        self.decay, self.start_step = decay, update_starting_at_step
        self.average: dict[str, Tensor] = {}
        self._averaged_steps, self._swapped = 0, False

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the weights into the average, once a slow step."""
        step = trainer.global_step
        if step <= max(self.start_step, self._averaged_steps):
            return  # not yet, or a batch whose gradient is still being accumulated
        self._averaged_steps = step
        weights = named_trained(pl_module)
        if not self.average:
            self.average = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        for name, weight in weights.items():
            mean = local(self.average[name])
            mean.mul_(self.decay).add_(local(weight.detach()), alpha=1 - self.decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the average."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on training the weights themselves."""
        self._swap(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model, also when a finished run is resumed without a step left."""
        self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average beside the weights."""
        if self.average:
            checkpoint[AVERAGE] = dict(self.average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the average up again, whatever the number of processes that saved it."""
        saved = checkpoint.get(AVERAGE, {})
        weights = named_trained(pl_module)
        self.average = {name: part_like(saved[name], w) for name, w in weights.items() if saved}
        if checkpoint["callbacks"].get(self.state_key, {}).get("swapped"):
            self._swap(pl_module)
            self._swapped = False

    def state_dict(self) -> dict[str, Any]:
        """How many slow steps the average knows, and whether it stands in for the weights just now."""
        return {"averaged_steps": self._averaged_steps, "swapped": self._swapped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._averaged_steps = state_dict["averaged_steps"]

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        """Exchange weights and average, without a copy of the model."""
        if not self.average:
            return
        self._swapped = not self._swapped
        for name, weight in named_trained(pl_module).items():
            mean, current = local(self.average[name]), local(weight.detach())
            kept = current.clone()
            current.copy_(mean)
            mean.copy_(kept)
        reshard(pl_module)  # what was gathered from the weights of before is out of date
