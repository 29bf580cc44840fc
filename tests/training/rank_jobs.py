"""What the processes of `tests.training.ranks` do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from sfv import rng
from sfv.backbones.recompute import recompute_activations
from sfv.cli import main
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.adapter_folder import write_adapter
from sfv.training import speedups
from sfv.training.attempts import FencedCheckpointIO, ShareAttempt, StaleAttempt, claim
from sfv.training.checkpoints import FileOrFolder
from sfv.training.ema import EMA
from sfv.training.sharded_strategy import ShardedStrategy
from sfv.training.sharding import gathered, sharded_modules, whole, whole_tensor
from sfv.training.slow import SlowLearner
from sfv.training.speedups import compile_blocks
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
    """Its large eps keeps rounding of tiny gradients from becoming whole steps."""
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-3)


def fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-3, fused=True)


class Record(pl.Callback):
    """Batches and losses of this rank."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.scores: list[float] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.scores.append(trainer.callback_metrics["val/loss"].item())

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


class Same(SlowLearner):
    """Every rank sees the same batch and noise, so that numbers do not depend on how many there are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        generator = rng.stream(0, "same", self.global_step, batch_idx)
        latents = torch.randn(2, 5, 5, 4, 6, generator=generator)
        loss = self._loss(
            {"latents": latents, "num_context": 3}, ["", ACTIONS[self.global_step % 4]], generator
        )
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        generator = rng.stream(0, "same-val", batch_idx)
        latents = torch.randn(2, 5, 5, 4, 6, generator=generator)
        self.log(
            "val/loss",
            self._loss({"latents": latents, "num_context": 3}, ["", ""], generator),
            sync_dist=True,
        )


def same_batches(run: Run) -> dict[str, Any]:
    """Train on batches that are the same everywhere; keep a checkpoint of each step, average, validate."""
    learner = make_learner(run.data, optimizer=run.optimizer, cls=Same, **(run.learner or {}))
    record, average = Record(), EMA(decay=0.5)
    checkpoint = ModelCheckpoint(
        run.folder / "checkpoints", filename="newest", every_n_train_steps=2,
        enable_version_counter=False,
    )  # fmt: skip
    trainer = make_trainer(
        run.steps, [record, checkpoint, *([average] if run.ema else [])],
        strategy=strategy(run.kind), devices=run.world, enable_checkpointing=True,
        limit_val_batches=1, val_check_interval=1, **(run.trainer or {}),
    )  # fmt: skip
    if run.kind in ("one", "ddp"):
        trainer.strategy.checkpoint_io = FileOrFolder()
    start = Start(run)
    trainer.callbacks.append(start)
    loader = torch.utils.data.DataLoader(range(100))
    trainer.fit(learner, loader, loader, ckpt_path=run.resume, weights_only=True)
    found = {"losses": record.losses, "start": start.moments, "scores": record.scores}
    if run.resume is None:
        found["optimizer"] = moments(trainer)
    with whole(learner, keep=trainer.is_global_zero):
        if trainer.is_global_zero:
            found["weights"] = weights_of(learner)
            learner.world_model.save(run.folder / "model")
    return found


class Start(pl.Callback):
    """What the optimiser of an unsharded run starts from."""

    def __init__(self, run: Run) -> None:
        self.run, self.moments = run, []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.run.kind == "one":
            self.moments = moments(trainer)


def moments(trainer: pl.Trainer) -> list[dict[str, Tensor]]:
    """What the optimiser has gathered for each weight, in its order."""
    (optimizer,) = trainer.optimizers
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        {slot: whole_tensor(value).clone() for slot, value in optimizer.state[p].items()}
        for p in parameters
        if p in optimizer.state
    ]


def own_batch(step: int, rank: int) -> tuple[dict[str, Any], list[str], torch.Generator]:
    """What a rank learns slowly: another batch on each."""
    generator = rng.stream(0, "own", step, rank)
    latents = torch.randn(1, 5, 5, 4, 6, generator=generator)
    return {"latents": latents, "num_context": 3}, [ACTIONS[rank]], generator


class Own(SlowLearner):
    """Each rank has a batch of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(*own_batch(self.global_step, self.global_rank))


FAST_STEPS = ((0, 3), (2, 1))
"""How often each rank learns its pair, before each of two slow steps."""


def make_fast(learner: SlowLearner) -> tuple[FastLearner, TemporalLoRA]:
    """Plain gradient descent on Θ, which keeps the scale of rounding."""
    lora = TemporalLoRA(learner.denoiser, r=2, alpha=2.0)
    settings = FastSettings(num_steps=1, learning_rate=0.5, optimizer="sgd")
    fast = FastLearner(learner.denoiser, lora, learner.schedule, learner.text, 3, settings)
    return fast, lora


def fast_pair(rank: int) -> Tensor:
    return torch.randn(1, 5, 5, 4, 6, generator=rng.stream(0, "pair", rank))


class FastPhases(pl.Callback):
    """Each rank learns its own memory, unequally often, then hands it to the slow step."""

    def __init__(self, learner: SlowLearner) -> None:
        self.fast, self.lora = make_fast(learner)
        self.memory: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.memory = self.fast.fresh(f"episode-{trainer.global_rank}")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        rank = trainer.global_rank
        with gathered(pl_module):
            for _ in range(FAST_STEPS[trainer.global_step][rank]):
                self.fast.learn([self.memory], fast_pair(rank), [""])
        self.lora.activate(self.memory.theta[None])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.lora.activate(None)


def slow_fast(run: Run) -> dict[str, Any]:
    """Two fast phases with a slow step after each; rank 0 saves the model and exports its memory."""
    learner = make_learner(run.data, optimizer=run.optimizer, cls=Own, **(run.learner or {}))
    phases, record = FastPhases(learner), Record()
    trainer = make_trainer(2, [record, phases], strategy=strategy(run.kind), devices=run.world)
    trainer.fit(learner, torch.utils.data.DataLoader(range(9)))
    theta, lora = phases.memory.theta, phases.lora
    found = {"losses": record.losses, "theta": theta, "names": sorted(learner.state_dict())}
    with whole(learner, keep=trainer.is_global_zero):
        if trainer.is_global_zero:
            found["weights"] = weights_of(learner)
            learner.world_model.save(run.folder / "model")
            names = [layer.name for layer in lora.layers]
            write_adapter(run.folder / "adapter", names, lora.state(theta), lora.r, lora.alpha)
    return found


def gradients(learner: SlowLearner, lora: TemporalLoRA, theta: Tensor | None) -> Any:
    """Of the slow loss through a Θ."""
    learner.zero_grad()
    with lora.use(theta):
        learner._loss(*own_batch(0, 0)).backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.requires_grad}


def learned(learner: SlowLearner) -> Any:
    """Gradients without and with Θ, and Θ after fast learning."""
    fast, lora = make_fast(learner)
    memory = fast.fresh("episode")
    for _ in range(2):
        fast.learn([memory], fast_pair(0), [""])
    theta = memory.theta[None]
    return gradients(learner, lora, None), gradients(learner, lora, theta), memory.theta


def compiled(data: Data) -> Any:
    """Both at once, in one block of the eight: tracing all of them takes minutes."""
    learner = make_learner(data)
    names = sorted(learner.state_dict())
    recompute_activations(learner.denoiser)
    speedups.blocks_of = lambda denoiser: [denoiser.unet.mid_block]
    compile_blocks(learner.denoiser, "eager")
    found = learned(learner)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert sorted(learner.state_dict()) == names
    return found


class Overtaken(pl.Callback):
    """After the first step another start claims the run; then every rank tries to delete and to write."""

    def __init__(self, checkpoint_io: FencedCheckpointIO, folder: Path) -> None:
        self.checkpoint_io, self.folder = checkpoint_io, folder
        self.refusals: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        own = self.folder / f"of-rank-{trainer.global_rank}.ckpt"
        own.touch()
        self.checkpoint_io.check()
        self.checkpoint_io.remove_checkpoint(own)
        assert not own.exists()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        own = self.folder / f"of-rank-{trainer.global_rank}.ckpt"
        own.touch()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            claim(self.folder)
        trainer.strategy.barrier()
        for write in (
            lambda: self.checkpoint_io.remove_checkpoint(own),
            lambda: self.checkpoint_io.save_checkpoint({}, own),
        ):
            try:
                write()
            except StaleAttempt as error:
                self.refusals.append(str(error))


def shared_attempt(run: Run) -> dict[str, Any]:
    """What each rank knows of the attempt that rank 0 has claimed, and what it may do."""
    fence = FencedCheckpointIO(None)
    overtaken = Overtaken(fence, run.folder)
    trainer = make_trainer(
        run.steps,
        [ShareAttempt(fence, run.folder), overtaken],
        strategy=strategy(run.kind),
        devices=run.world,
    )
    if trainer.is_global_zero:
        fence.attempt = claim(run.folder)
    trainer.fit(make_learner(run.data, cls=Same), make_datamodule(run.data))
    assert fence.attempt is not None
    return {
        "rank": trainer.global_rank,
        "number": fence.attempt.number,
        "refusals": overtaken.refusals,
    }


def sfv_fit(arguments: list[str]) -> None:
    assert main(["fit", *arguments]) == 0
