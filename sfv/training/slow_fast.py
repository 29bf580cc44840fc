"""Slow-fast learning: what the loop needs besides the slow learner."""

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

from sfv.fast.learner import FastLearner, FastSettings
from sfv.models.temporal_lora import LoRAInit, LoRATargets, TemporalLoRA
from sfv.training.loops import FastLoop, use_slow_fast_loop
from sfv.training.slow import SlowLearner
from sfv.types import Precision


@dataclass(frozen=True)
class LoRASettings:
    """The shape of Θ.

    Args:
        r: rank (paper: 32).
        alpha: scale; Θ's update is multiplied by alpha / r.
        targets: which layers carry Θ.
        init: how its A is drawn; B starts at zero.
    """

    r: int = 32
    alpha: float = 32.0
    targets: LoRATargets = "temporal"
    init: LoRAInit = "kaiming"

    def adapt(self, denoiser: Any) -> TemporalLoRA:
        """Put the place for such a Θ into a denoiser."""
        return TemporalLoRA(denoiser, self.r, self.alpha, self.targets, self.init)


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
        episodes_at_once: episodes of a group that learn in one batch, each its own Θ; at least 1, None
            takes the whole group. Fewer need less memory; numbers agree up to rounding.
    """

    episodes_per_group: int = 2
    max_chunks: int | None = None
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    precision: Precision = "32"
    seed: int = 0
    episodes_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.episodes_per_group < 1 or (self.max_chunks is not None and self.max_chunks < 1):
            raise ValueError(
                f"the slow-fast loop got episodes_per_group={self.episodes_per_group}, "
                f"max_chunks={self.max_chunks}; allowed: episodes_per_group >= 1, max_chunks >= 1 or "
                "null"
            )
        if self.episodes_at_once is not None and self.episodes_at_once < 1:
            raise ValueError(
                f"the slow-fast loop got episodes_at_once={self.episodes_at_once}; allowed: 1 or more, or "
                "null for the whole group"
            )


class ReplayMemory(pl.Callback):
    """Hands Θ_i, frozen, to the denoiser for the slow step on its pair; validation runs without Θ."""

    def __init__(self, lora: TemporalLoRA) -> None:
        self.lora = lora

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lora.activate(batch["memory"][None])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.lora.activate(None)


def make_learner(
    learner: SlowLearner, lora: TemporalLoRA, settings: SlowFastSettings
) -> FastLearner:
    """Build the fast learner for the slow learner's denoiser."""
    return FastLearner(
        learner.denoiser,
        lora,
        learner.schedule,
        learner.text,
        learner.num_context,
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
    """Run the slow-fast loop; Θ acts in the denoiser only while it runs.

    Args:
        trainer: its `max_steps` counts slow steps, one a chunk pair; an epoch is one group of episodes.
        learner: holds Φ.
        datamodule: yields whole episodes (`mode="episodes"`).
        settings: the loop.
        ckpt_path: checkpoint to resume from.
    """
    with settings.lora.adapt(learner.denoiser) as lora:
        fast_loop = FastLoop(
            trainer,
            make_learner(learner, lora, settings),
            settings.episodes_per_group,
            settings.max_chunks,
            settings.episodes_at_once,
        )
        use_slow_fast_loop(trainer, fast_loop, settings.seed)
        trainer.callbacks.append(ReplayMemory(lora))  # type: ignore[attr-defined]
        trainer.fit(learner, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
