"""Slow-fast learning: what the loop needs besides the slow learner."""

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

from sfv.fast.learner import FastLearner, FastSettings
from sfv.models.temporal_lora import LoRATargets, TemporalLoRA
from sfv.training.loops import FastLoop, use_slow_fast_loop
from sfv.training.slow import SlowLearner
from sfv.types import FastWeights, Precision


@dataclass(frozen=True)
class LoRASettings:
    """The shape of Θ.

    Args:
        r: rank (paper: 32).
        alpha: scale; Θ's update is multiplied by alpha / r.
        targets: which layers carry Θ.
    """

    r: int = 32
    alpha: float = 32.0
    targets: LoRATargets = "temporal"


@dataclass(frozen=True)
class SlowFastSettings:
    """The slow-fast loop.

    Args:
        episodes_per_group: episodes in one fast phase; at least 1.
        max_chunks: chunk pairs taken of each episode, from its start; at least 1, None takes all.
        lora: the shape of Θ.
        fast: how Θ learns.
        precision: arithmetic of the fast steps.
        seed: names the random streams.
    """

    episodes_per_group: int = 2
    max_chunks: int | None = None
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    precision: Precision = "32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes_per_group < 1 or (self.max_chunks is not None and self.max_chunks < 1):
            raise ValueError(
                f"the slow-fast loop got episodes_per_group={self.episodes_per_group}, "
                f"max_chunks={self.max_chunks}; allowed: episodes_per_group >= 1, max_chunks >= 1 or "
                "null"
            )


class ReplayMemory(pl.Callback):
    """Puts Θ_i, frozen, into the denoiser for the slow step on its pair; validation runs without Θ."""

    def __init__(self, weights: FastWeights) -> None:
        self.weights = weights

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.weights.load(batch["memory"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.enable(False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.enable(True)


def make_learner(
    learner: SlowLearner, lora: TemporalLoRA, settings: SlowFastSettings
) -> FastLearner:
    """Build the fast learner for the slow learner's denoiser."""
    return FastLearner(
        learner.denoiser,
        lora,
        learner.schedule,
        lambda: learner.text([""]),
        settings.fast,
        settings.seed,
        settings.precision,
    )


def fit_slow_fast(
    trainer: pl.Trainer,
    learner: SlowLearner,
    datamodule: pl.LightningDataModule,
    settings: SlowFastSettings,
    ckpt_path: str | None = None,
) -> None:
    """Run the slow-fast loop; Θ is in the denoiser only while it runs.

    Args:
        trainer: its `max_steps` counts slow steps, one a chunk pair; an epoch is one group of episodes.
        learner: holds Φ.
        datamodule: yields whole episodes (`mode="episodes"`).
        settings: the loop.
        ckpt_path: checkpoint to resume from.
    """
    shape = settings.lora
    lora = TemporalLoRA(learner.denoiser, shape.r, shape.alpha, shape.targets)
    for parameter in lora.parameters():
        parameter.requires_grad_(False)
    try:
        fast_loop = FastLoop(
            trainer,
            make_learner(learner, lora, settings),
            settings.episodes_per_group,
            settings.max_chunks,
        )
        use_slow_fast_loop(trainer, fast_loop, settings.seed)
        trainer.callbacks.append(ReplayMemory(lora))  # type: ignore[attr-defined]
        trainer.fit(learner, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    finally:
        lora.remove()
