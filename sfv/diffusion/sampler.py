"""Generating one chunk: clean context in front, only the new frames denoised (docs/method.md, 2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.diffusion.schedule import NoiseSchedule
from sfv.types import Denoiser

Start = Literal["context", "noise"]
SamplerName = Literal["ddim", "dpmsolver++"]
FLOW_STEPS, DIFFUSION_STEPS = 8, 50


@runtime_checkable
class Scheduler(Protocol):
    """The part of diffusers' schedulers that sampling uses; they satisfy it as they are."""

    timesteps: Tensor
    num_inference_steps: int | None
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps and forget everything about earlier samples."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class SamplerSettings:
    """How chunks are sampled.

    Args:
        name: DDIM (deterministic) or DPM-Solver++ (second order: good from about 15 steps). On flow DDIM is
            Euler's rule (`sfv.diffusion.flow.FlowEuler`).
        num_inference_steps: denoiser calls a chunk; null takes 8 for flow and 50 for other predictions.
        guidance_scale: classifier-free guidance; 1 means none, and costs no second forward pass.
        start: what new frames are sampled from. `noise` is pure noise (the paper's). But a schedule without
            zero terminal SNR leaves some signal at its last timestep, which the denoiser has learned to
            read; `context` puts the newest context frame there instead of nothing (`starting_point`).

    Raises:
        ValueError: if a number is out of its range.
    """

    name: SamplerName = "ddim"
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    start: Start = "context"

    def __post_init__(self) -> None:
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps}; it must be at least 1"
            )
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(
                f"guidance_scale is {self.guidance_scale}; it must be 0 or more (1 = no guidance)"
            )

    def steps(self, schedule: NoiseSchedule) -> int:
        """Denoiser calls a chunk for a model of this schedule."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        return FLOW_STEPS if schedule.is_flow else DIFFUSION_STEPS


@dataclass(frozen=True)
class SamplingStep:
    """One sampling step that has been taken.

    Args:
        step_idx: its place, from 0.
        timestep: t, the noise level that it began at; a whole number but for flow.
        noisy: the new frames before it, as the denoiser saw them.
        prediction: of the denoiser for them, after guidance.
        latents: all frames after it, context in front.
    """

    step_idx: int
    timestep: int | float
    noisy: Float[Tensor, "b c g h w"]
    prediction: Float[Tensor, "b c g h w"]
    latents: Float[Tensor, "b c t h w"]


def starting_point(
    start: Start,
    context: Float[Tensor, "b c p h w"],
    noise: Float[Tensor, "b c g h w"],
    schedule: NoiseSchedule,
) -> Float[Tensor, "b c g h w"]:
    """What the new frames are sampled from.

    In training the last timestep T-1 holds √ᾱ z_0, from which brightness and layout can be read. From
    pure noise the denoiser reads grey, and every chunk comes out darker and flatter than the one before
    (Lin et al., 2023, arXiv 2305.08891). The newest context frame is a better guess at z_0 than nothing.

    Args:
        start: see `SamplerSettings`.
        context: clean latents, the newest frame last.
        noise: standard normal.
        schedule: gives √ᾱ of T-1; 0 with zero terminal SNR and for flow, where both starts are the same.
    """
    if start == "noise":
        return noise
    last = torch.full(noise.shape[:1], schedule.last_timestep, device=noise.device)
    return schedule.add_noise(context[:, :, -1:].expand_as(noise), noise, last)


OnStep = Callable[[SamplingStep], None]


@torch.no_grad()
def sample_chunk(
    denoiser: Denoiser,
    scheduler: Scheduler,
    context: Float[Tensor, "b c p h w"],
    text: Float[Tensor, "b n d"],
    null_text: Float[Tensor, "b n d"],
    num_generated: int,
    guidance_scale: float,
    noise: Float[Tensor, "b c g h w"],
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c g h w"]:
    """Generate the frames that follow `context` under an action.

    Args:
        denoiser: Φ, or Φ+Θ.
        scheduler: already told its number of steps (`make_scheduler` does that); its state from
            earlier chunks is forgotten first, so one scheduler serves a whole rollout.
        context: the clean latents of the chunk before, f_p frames.
        text: token states of the action.
        null_text: token states of "no text"; unused at guidance 1.
        num_generated: f_g.
        guidance_scale: 1 means none.
        noise: the starting point of the new frames (`starting_point`).
        on_step: called after each step; what it raises ends the sampling.

    Raises:
        ValueError: if the scheduler has no steps, or `noise` is not `num_generated` frames.
    """
    if noise.shape[2] != num_generated:
        raise ValueError(f"noise has {noise.shape[2]} frames, but num_generated is {num_generated}")
    if scheduler.num_inference_steps is None:
        raise ValueError(
            "the scheduler does not know its number of steps: call "
            "scheduler.set_timesteps(num_inference_steps) once before sampling"
        )
    scheduler.set_timesteps(scheduler.num_inference_steps)
    new = noise * scheduler.init_noise_sigma
    for step_idx, timestep in enumerate(scheduler.timesteps):
        level = timestep.item()
        scaled = scheduler.scale_model_input(new, timestep)
        prediction = _predict(denoiser, context, scaled, level, text, null_text, guidance_scale)
        new = scheduler.step(prediction.to(new.dtype), timestep, new, return_dict=False)[0]
        if on_step is not None:
            latents = torch.cat([context, new], dim=2)
            on_step(SamplingStep(step_idx, level, scaled, prediction, latents))
    return new


def _predict(
    denoiser: Denoiser,
    context: Float[Tensor, "b c p h w"],
    new: Float[Tensor, "b c g h w"],
    timestep: int | float,
    text: Float[Tensor, "b n d"],
    null_text: Float[Tensor, "b n d"],
    guidance_scale: float,
) -> Float[Tensor, "b c g h w"]:
    """The denoiser's output for the new frames, with classifier-free guidance when it is not 1."""
    num_context = context.shape[2]
    latents = torch.cat([context, new], dim=2)
    if guidance_scale == 1.0:
        steps = torch.full((len(latents),), timestep, device=latents.device)
        return denoiser(latents, steps, text, num_context)[:, :, num_context:]
    steps = torch.full((2 * len(latents),), timestep, device=latents.device)
    # The two stand side by side: in a batch of episodes, samples of one episode must (FastWeights.use).
    texts = torch.stack([null_text, text], dim=1).flatten(0, 1)
    both = denoiser(latents.repeat_interleave(2, dim=0), steps, texts, num_context)
    without, with_text = both[0::2, :, num_context:], both[1::2, :, num_context:]
    return without + guidance_scale * (with_text - without)
