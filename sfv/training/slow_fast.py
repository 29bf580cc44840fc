"""Slow-fast learning: the loop with all that belongs to it, around a slow learner."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from sfv import rng
from sfv.fast.addressed_learner import AddressedLearner
from sfv.fast.learner import FastLearner
from sfv.fast.protocol import MemoryLearner
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.rollout import Rollout
from sfv.training.attempts import FencedCheckpointIO
from sfv.training.fast_phase import FastPhase
from sfv.training.loop_progress import use_loop_bar
from sfv.training.loop_settings import SlowFastSettings as SlowFastSettings
from sfv.training.loops import FastLoop, SlowFastFitLoop
from sfv.training.replay import Replay, ReplayItem, SlowBatch, plan_batches
from sfv.training.sharding import gathered
from sfv.training.slow import SlowLearner


class ReplayMemory(pl.Callback):
    """Hands the Θ_i of a slow batch, frozen, to the denoiser for the slow step on it."""

    def __init__(self, learner: MemoryLearner) -> None:
        self.learner = learner

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.learner.activate(batch["memory"], batch["latents"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.learner.activate(None, batch["latents"])


@dataclass(frozen=True)
class EpisodeScore:
    """Makes the windows of a validation episode, each to be scored while its Θ_i is in the denoiser.

    Gradients are there also where Lightning has switched them off, in `no_grad` as in inference mode:
    fast learning leaves both by itself (`FastLearner.learn`), so `Trainer(inference_mode=...)` is free.
    """

    phase: FastPhase
    learner: SlowLearner

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each pair of an episode, then learn it; a batch of windows is scored without Θ."""
        if "pairs" not in batch:
            yield batch
            return
        lessons = self.phase.lessons(batch)  # type: ignore[arg-type]
        memory = self.phase.begin(f"val/{batch['key']}", lessons[0])
        with gathered(self.learner):  # episodes are not equally long on all ranks
            for lesson in lessons:
                with self.phase.learner.acting([memory], [lesson.action], [lesson.poses]):
                    yield {
                        "latents": lesson.pair,
                        "actions": [lesson.action],
                        "num_context": self.learner.num_context,
                    }
                self.phase.learn_pairs([memory], [lesson])


@contextmanager
def fast_learner(
    learner: SlowLearner, settings: SlowFastSettings
) -> Iterator[FastLearner | AddressedLearner]:
    """The learner of the loop's memories; what it puts into the denoiser is there only inside."""
    if settings.memory == "addressed":
        address = learner.world_model.address
        if address is None:
            raise ValueError(
                "slow_fast.memory is addressed, but the model has no address: set model.address (the "
                "motions of its actions), or slow_fast.memory: temp_lora"
            )
        if learner.context_dropout:
            raise ValueError(
                f"model.context_dropout is {learner.context_dropout}, but slow_fast.memory is addressed, "
                "which is read for the new frames alone; set context_dropout to 0: that memory never "
                "learns from frames that are all noised"
            )
        yield AddressedLearner(
            learner.world_model.denoiser,
            address,
            learner.num_context,
            learner.num_generated,
            settings.addressed,
            settings.seed,
        )
        return
    with settings.lora.adapt(learner.denoiser) as lora:
        yield make_learner(learner, lora, settings)


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


def make_phase(
    trainer: pl.Trainer,
    learner: SlowLearner,
    fast: FastLearner | AddressedLearner,
    settings: SlowFastSettings,
) -> FastPhase:
    """Build the fast phase, with the replay it fills."""
    rollout = None
    if settings.inner_pairs == "generated":
        rollout = Rollout(
            learner.world_model, settings.sampler, fast, settings.seed, settings.precision
        )
    folder = Path(trainer.default_root_dir) / "replay"
    fence = trainer.strategy.checkpoint_io
    check = fence.check if isinstance(fence, FencedCheckpointIO) else _nothing
    replay = Replay(folder, settings.theta_store, settings.keep_replays, check)
    phase = FastPhase(
        fast,
        replay,
        settings.max_chunks,
        settings.episodes_at_once,
        settings.memory_scope,
        rollout,
    )
    if settings.start == "learned" and isinstance(fast, FastLearner):
        begun, lora = learner.world_model.start, fast.weights
        fresh = lora.fresh(rng.stream(settings.seed, "theta0", "start"))
        fast.start_from(fresh if begun is None else settings.lora.theta(lora, begun))
    return phase


def _nothing() -> None:
    """Without a run folder there is one attempt."""


@contextmanager
def with_memories(
    trainer: pl.Trainer, learner: SlowLearner, settings: SlowFastSettings
) -> Iterator[FastPhase]:
    """Θ has its place in the denoiser inside; slow steps and validation get the one of their pair."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    with fast_learner(learner, settings) as fast:
        phase = make_phase(trainer, learner, fast, settings)
        memory, before = ReplayMemory(fast), learner.windows_of
        learner.windows_of = EpisodeScore(phase, learner)
        callbacks.append(memory)
        try:
            yield phase
        finally:
            callbacks.remove(memory)
            learner.windows_of = before


def fit_slow_fast(
    trainer: pl.Trainer,
    learner: SlowLearner,
    datamodule: pl.LightningDataModule,
    settings: SlowFastSettings,
    ckpt_path: str | None = None,
) -> None:
    """Run the slow-fast loop; Θ acts in the denoiser only while it runs.

    Args:
        trainer: its `max_steps` counts slow steps; an epoch is one group of episodes.
        learner: holds Φ.
        datamodule: yields whole episodes (`mode="episodes"`).
        settings: the loop.
        ckpt_path: checkpoint to resume from.
    """

    def plan(items: Sequence[ReplayItem], group: int) -> list[SlowBatch]:
        order, share = settings.replay_order, settings.plain_share
        return plan_batches(items, settings.slow_batch_size, order, share, settings.seed, group)

    with with_memories(trainer, learner, settings) as phase:
        rate = settings.meta_learning_rate if settings.start == "learned" else None
        fast_loop = FastLoop(trainer, phase, settings.episodes_per_group, rate)
        stock, replay = trainer.fit_loop, phase.replay
        trainer.fit_loop = SlowFastFitLoop(stock, fast_loop, replay, plan, learner.num_context)
        use_loop_bar(trainer)
        trainer.fit(learner, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        start = phase.start
        if start is not None:
            assert isinstance(phase.learner, FastLearner)
            learner.world_model.start = settings.lora.state(phase.learner.weights, start)


def validate_slow_fast(
    trainer: pl.Trainer,
    learner: SlowLearner,
    datamodule: pl.LightningDataModule,
    settings: SlowFastSettings,
) -> float:
    """Score the validation episodes as the loop does, with fast learning; returns `val/loss`."""
    with with_memories(trainer, learner, settings):
        (found,) = trainer.validate(learner, datamodule=datamodule, verbose=False)
    return float(found["val/loss"])
