"""The fast learner: trains Θ on the chunk pair that has just been made (Algorithm 1a, eq. 3).

"No input-output format, both chunks noised and supervised, no action": each fast step noises the
joined chunks S = X ++ Y on every frame and descends the plain denoising loss with respect to Θ alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfv import rng
from sfv.diffusion.objective import all_frames_loss, draw_timesteps
from sfv.diffusion.schedule import NoiseSchedule
from sfv.types import FastWeights, Precision


@dataclass(frozen=True)
class FastSettings:
    """How Θ learns. What the paper leaves open is listed in `CHOICES.md`.

    Args:
        num_steps: K, fast gradient steps a chunk.
        learning_rate: α, of Adam (paper: 1e-4 at full size).
        draws_per_step: noise draws averaged in one fast step; they share one forward pass.
        low: lower end of the noise levels drawn, as a fraction of the schedule.
        high: upper end, as a fraction; 1.0 is pure noise.
        keep_optimizer: keep Adam's state over the chunks of an episode.
        probe_draws: fixed held-out noise draws that measure `fast/gain`; 0 measures nothing.
    """

    num_steps: int = 2
    learning_rate: float = 1e-4
    draws_per_step: int = 1
    low: float = 0.0
    high: float = 1.0
    keep_optimizer: bool = True
    probe_draws: int = 1

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.draws_per_step < 1 or self.probe_draws < 0:
            raise ValueError(
                f"fast learning got num_steps={self.num_steps}, draws_per_step={self.draws_per_step}, "
                f"probe_draws={self.probe_draws}; allowed: num_steps >= 0, draws_per_step >= 1, "
                "probe_draws >= 0"
            )
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(
                f"fast learning got the noise range low={self.low}, high={self.high}; "
                "allowed: 0 <= low < high <= 1"
            )


@dataclass(frozen=True)
class FastReport:
    """What learning one chunk did: mean training loss, and the drop on held-out noise (NaN: unmeasured)."""

    loss: float
    gain: float


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze Φ and switch dropout off inside; gradients accumulated so far stay as they are."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    was_training = module.training
    module.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        module.train(was_training)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bfloat16 for `"bf16"`; full precision for `"32"`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class FastLearner:
    """Trains Θ inside a denoiser, one chunk pair after the other.

    Args:
        denoiser: ε_{Φ+Θ}; Φ is frozen while this learns.
        weights: Θ, low-rank weights inside `denoiser`.
        schedule: the noise schedule that Φ was trained with.
        null_text: gives the token states of "no text", `1 n d`; asked anew for every pair, because a
            learned text encoder changes between fast phases.
        settings: K, α and the like.
        seed: names the noise streams.
        precision: arithmetic of the forward pass; Θ and its Adam stay in float32.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        weights: FastWeights,
        schedule: NoiseSchedule,
        null_text: Callable[[], Float[Tensor, "1 n d"]],
        settings: FastSettings,
        seed: int = 0,
        precision: Precision = "32",
    ) -> None:
        self.denoiser: Any = denoiser  # a module that is a Denoiser; mypy has no type for "both"
        self.weights, self.schedule = weights, schedule
        self.null_text, self.settings, self.seed, self.precision = (
            null_text,
            settings,
            seed,
            precision,
        )
        self._episode = ""
        self._optimizer = self._fresh_optimizer()

    def begin(self, episode: str) -> None:
        """Start an episode: Θ fresh, Adam fresh.

        Args:
            episode: names the episode's random streams.
        """
        self._episode = episode
        self.weights.reset(rng.stream(self.seed, "theta0", episode))
        self._optimizer = self._fresh_optimizer()

    def learn(self, pair: Float[Tensor, "1 c t h w"], chunk_idx: int) -> FastReport:
        """Take K steps on one pair S = X ++ Y.

        Args:
            pair: context and generated latents, joined in time.
            chunk_idx: place of the pair in its episode; names its noise.
        """
        parameters = list(self.weights.parameters())
        if not self.settings.keep_optimizer:
            self._optimizer = self._fresh_optimizer()
        probe = self._noise("fast-probe", chunk_idx, 0, pair, self.settings.probe_draws)
        losses = []
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.denoiser):
            pair = pair.clone()  # tensors made in inference mode cannot be trained on
            before = self._probe_loss(pair, probe)
            for parameter in parameters:
                parameter.requires_grad_(True)
            for step in range(self.settings.num_steps):
                noise = self._noise(
                    "fast-noise", chunk_idx, step, pair, self.settings.draws_per_step
                )
                loss = self._loss(pair, *noise)
                gradients = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                self._optimizer.step()
                losses.append(loss.detach())
            self._optimizer.zero_grad(set_to_none=True)
            for parameter in parameters:
                parameter.requires_grad_(False)
            after = self._probe_loss(pair, probe)
        mean = float(torch.stack(losses).mean()) if losses else float("nan")
        return FastReport(loss=mean, gain=before - after)

    def _loss(
        self,
        pair: Float[Tensor, "1 c t h w"],
        noise: Float[Tensor, "b c t h w"],
        timestep: Tensor,
    ) -> Float[Tensor, ""]:
        num = noise.shape[0]
        with autocast(pair.device, self.precision):
            with torch.no_grad():
                text = self.null_text().expand(num, -1, -1)
            return all_frames_loss(
                self.denoiser,
                pair.expand(num, -1, -1, -1, -1),
                text,
                noise,
                timestep,
                self.schedule,
            ).mean()

    @torch.no_grad()
    def _probe_loss(self, pair: Float[Tensor, "1 c t h w"], probe: tuple[Tensor, Tensor]) -> float:
        return float(self._loss(pair, *probe)) if self.settings.probe_draws else float("nan")

    def _noise(
        self, purpose: str, chunk_idx: int, step: int, pair: Tensor, num: int
    ) -> tuple[Tensor, Tensor]:
        generator = rng.stream(self.seed, purpose, self._episode, chunk_idx, step)
        settings = self.settings
        timestep = draw_timesteps(num, self.schedule, generator, settings.low, settings.high)
        noise = torch.randn((num, *pair.shape[1:]), generator=generator)
        return noise.to(pair), timestep.to(pair.device)

    def _fresh_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(list(self.weights.parameters()), lr=self.settings.learning_rate)
