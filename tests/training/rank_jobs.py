"""What the processes of `tests.training.ranks` do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from sfv import rng
from sfv.fast.learner import FastLearner, FastSettings
from sfv.models.temporal_lora import TemporalLoRA
from sfv.training.checkpoints import FileOrFolder
from sfv.training.ema import EMA
from sfv.training.sharded_strategy import ShardedStrategy
from sfv.training.sharding import gathered, sharded_modules, whole
from sfv.training.slow import SlowLearner
from tests.training.make import (
    ACTIONS,
    Data,
    make_datamodule,
    make_learner,
    make_trainer,
    weights_of,
)

Kind = Literal["one", "ddp", "folder", "file"]


def strategy(kind: Kind) -> Any:
    match kind:
        case "one":
            return "auto"
        case "ddp":
            return DDPStrategy(process_group_backend="gloo")
        case "folder" | "file":
            return ShardedStrategy(save_distributed_checkpoint=kind == "folder")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


class Record(pl.Callback):
    """Batches and losses of this rank."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.batches.append(batch)
        self.losses.append(outputs["loss"].item())


@dataclass(frozen=True)
class Run:
    """One training run of a tiny learner."""

    data: Data
    kind: Kind
    world: int
    steps: int
    folder: Path
    resume: Path | None = None
    ema: bool = False
    trainer: dict[str, Any] | None = None
    learner: dict[str, Any] | None = None
    optimizer: Any = adam


def slow(run: Run) -> dict[str, Any]:
    """Slow learning on real batches: what each rank saw, its losses, and Φ at the end."""
    learner = make_learner(run.data, optimizer=run.optimizer, **(run.learner or {}))
    record = Record()
    trainer = make_trainer(
        run.steps, [record], strategy=strategy(run.kind), devices=run.world, **(run.trainer or {})
    )
    trainer.fit(learner, make_datamodule(run.data))
    shards = len(sharded_modules(learner))
    with whole(learner, keep=True):
        weights = weights_of(learner)
    return {
        "batches": record.batches,
        "losses": record.losses,
        "weights": weights,
        "shards": shards,
    }
