"""The slow learner Φ as a LightningModule: wiring only, the mathematics is in `sfv.diffusion`."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from sfv import rng
from sfv.backbones.recompute import recompute_activations
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss, noise_context
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.address import Address
from sfv.models.world_model import WorldModel
from sfv.training.sharding import shard
from sfv.training.speedups import compile_blocks


class SlowLearner(pl.LightningModule):
    """Learns world dynamics by masked conditional video diffusion (eq. 1, 2).

    Args:
        denoiser: ε_Φ, a `sfv.types.Denoiser`; all of it is trained.
        codec: a `sfv.types.FrameCodec`; frozen.
        text: a `sfv.types.TextEncoder`; a learned one (the action table) is trained along.
        schedule: diffusion noise schedule and what the denoiser predicts.
        num_context: f_p, clean frames in front, in frames.
        num_generated: f_g, frames to generate, in frames.
        address: of addressed memories, which the model keeps; None has none.
        optimizer: called with the parameters to train. Paper: Adam, learning rate 5e-6 at batch 128.
        lr_scheduler: called with the optimiser, stepped once a slow step; none keeps the rate constant.
        text_dropout: share of samples whose action is replaced by "no text", which fast learning and
            guidance need; 0 to 1.
        context_noise: largest deviation of the noise on the context frames in training, in units of the
            latents; every sample draws its own from 0 to this. In a rollout the context is what the
            model made itself: one that knows clean context alone drifts. 0 is the paper's.
        context_dropout: share of slow steps without context and action: every frame is noised and
            supervised, as when Θ learns (eq. 3). A pretrained video model knows that state; one trained
            from scratch with clean context alone does not, and Θ then learns the state instead of the
            episode. 0 is the paper's.
        init_from: folder of a trained world model whose Φ (and learned text) training starts from.
        seed: names the noise streams.
        activation_checkpointing: the backward pass computes layers of the denoiser again instead of keeping
            their activations: less memory, more time, equal numbers.
        compile_backend: of `torch.compile`, for the denoiser's blocks: `inductor`, say; null leaves them.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        codec: nn.Module,
        text: nn.Module,
        schedule: NoiseSchedule = NoiseSchedule(),  # noqa: B008 (frozen)
        num_context: int = 8,
        num_generated: int = 8,
        address: Address | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        text_dropout: float = 0.1,
        context_noise: float = 0.0,
        context_dropout: float = 0.0,
        init_from: str | None = None,
        seed: int = 0,
        activation_checkpointing: bool = False,
        compile_backend: str | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= text_dropout <= 1.0:
            raise ValueError(f"text_dropout is {text_dropout}; allowed: 0 to 1")
        if not 0.0 <= context_noise < float("inf"):
            raise ValueError(f"context_noise is {context_noise}; allowed: 0 and above")
        if not 0.0 <= context_dropout < 1.0:
            raise ValueError(f"context_dropout is {context_dropout}; allowed: 0 to below 1")
        self.world_model = WorldModel(denoiser, codec, text, schedule, num_context, num_generated)
        self.world_model.address = address
        if init_from is not None:
            self.world_model.load_weights(init_from)
        # Registered here so that Lightning moves, trains and saves them.
        self.denoiser, self.codec, self.text = denoiser, codec, text
        self.codec.requires_grad_(False)
        self.schedule, self.num_context, self.num_generated = schedule, num_context, num_generated
        self.text_dropout, self.context_noise, self.seed = text_dropout, context_noise, seed
        self.context_dropout = context_dropout
        self.make_optimizer: Callable[..., Any] = optimizer
        self.make_scheduler: Callable[..., Any] | None = lr_scheduler
        self.activation_checkpointing = activation_checkpointing
        self.compile_backend = compile_backend
        self._configured = False
        self._latent_sizes: set[tuple[int, int]] = set()
        self.windows_of: Callable[[dict[str, Any]], Iterable[dict[str, Any]]] = _as_it_is
        """Makes the windows to score from a validation batch; the slow-fast loop scores whole episodes."""

    def configure_model(self) -> None:
        """Prepare the denoiser once; shard what is trained where the strategy has a mesh for it."""
        if self._configured:
            return
        self._configured = True
        if self.activation_checkpointing:
            recompute_activations(self.world_model.denoiser)
        if self.compile_backend is not None:
            compile_blocks(self.denoiser, self.compile_backend)
        if self.device_mesh is not None:
            shard((self.denoiser, self.text), self.device_mesh["data_parallel"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Float[Tensor, ""]:
        self._note_sizes([batch["latents"].shape[3:]])
        place = self.global_step, batch_idx, self.global_rank
        generator = rng.stream(self.seed, "slow-noise", *place)
        drop = torch.rand(len(batch["actions"]), generator=generator) < self.text_dropout
        actions = ["" if d else a for d, a in zip(drop, batch["actions"], strict=True)]
        if self.context_dropout and self._drops_context(place):
            actions, batch = [""] * len(actions), batch | {"num_context": 0}
        elif self.context_noise:
            draws = rng.stream(self.seed, "context-noise", *place)
            latents = batch["latents"]
            noisy = noise_context(latents, batch["num_context"], self.context_noise, draws)
            batch = batch | {"latents": noisy}
        loss = self._loss(batch, actions, generator)
        self.log("slow/loss", loss, prog_bar=True, batch_size=len(actions))
        return loss

    def _drops_context(self, place: tuple[int, int, int]) -> bool:
        generator = rng.stream(self.seed, "context-dropout", *place)
        return bool(torch.rand((), generator=generator) < self.context_dropout)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score on noise that is the same in every validation."""
        generator = rng.stream(self.seed, "val-noise", batch_idx, self.global_rank)
        total, size = torch.zeros((), device=self.device), 0
        for windows in self.windows_of(batch):
            num = len(windows["actions"])
            total += num * self._loss(windows, windows["actions"], generator)
            size += num
        self.log("val/loss", total / size, prog_bar=True, sync_dist=True, batch_size=size)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def save(self, folder: Path) -> None:
        """Write the world model."""
        self.world_model.save(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sizes of the frames of training."""
        checkpoint["latent_sizes"] = sorted(self._latent_sizes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sizes of before; older checkpoints have none."""
        self._note_sizes(checkpoint.get("latent_sizes", []))

    def _note_sizes(self, sizes: Iterable[Sequence[int]]) -> None:
        """The model keeps the size of its training frames, if they have one size."""
        self._latent_sizes |= {(height, width) for height, width in sizes}
        if self._latent_sizes:
            (height, width), *others = self._latent_sizes
            factor = self.world_model.codec.spatial_factor
            size = None if others else (height * factor, width * factor)
            self.world_model.frame_size = size

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout, which can only draw from the global generator, by the slow step."""
        torch.manual_seed(
            rng.seed_of(self.seed, "dropout", self.global_step, batch_idx, self.global_rank)
        )

    def _loss(
        self,
        batch: dict[str, Any],
        actions: list[str],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        latents = batch["latents"]
        timestep = draw_timesteps(len(actions), self.schedule, generator)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return masked_conditional_loss(
            self.world_model.denoiser,
            latents,
            self.text(actions),
            noise,
            timestep.to(latents.device),
            batch["num_context"],
            self.schedule,
        ).mean()


def _as_it_is(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [batch]
