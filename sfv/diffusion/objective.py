"""What the slow and the fast learner minimise (docs/method.md, sections 1 and 3)."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from sfv.diffusion.schedule import NoiseSchedule
from sfv.types import Denoiser


def noise_targets(
    latents: Float[Tensor, "b c t h w"],
    noise: Float[Tensor, "b c t h w"],
    timestep: Real[Tensor, " b"],
    num_context: int,
    schedule: NoiseSchedule,
) -> Float[Tensor, "b c t h w"]:
    """Noise the frames after the context; the context stays clean, bit for bit (eq. 1)."""
    _check_context(num_context, latents.shape[2])
    noisy = schedule.add_noise(latents[:, :, num_context:], noise[:, :, num_context:], timestep)
    return torch.cat([latents[:, :, :num_context], noisy], dim=2)


def with_noise(
    samples: Float[Tensor, "b _ _ h w"], largest: float, generator: torch.Generator
) -> Float[Tensor, "b _ _ h w"]:
    """Add Gaussian noise, to every sample of a deviation of its own, uniform from 0 to `largest`.

    Args:
        samples: latents, or frames of videos.
        largest: in units of `samples`.
        generator: on the CPU; draws the deviations, then the noise.
    """
    level = largest * torch.rand(len(samples), 1, 1, 1, 1, generator=generator)
    noise = level * torch.randn(samples.shape, generator=generator)
    return samples + noise.to(samples)


def noise_context(
    latents: Float[Tensor, "b c t h w"],
    num_context: int,
    largest: float,
    generator: torch.Generator,
) -> Float[Tensor, "b c t h w"]:
    """Add Gaussian noise to the context frames, so that training sees context as flawed as a rollout's.

    Not in the paper; as in GameNGen (arXiv 2408.14837, section 3.2.1), but the model is not told the level.

    Args:
        latents: z_0, context frames then target frames; the latter stay as they are.
        num_context: f_p.
        largest: every sample draws its deviation uniformly from 0 to this.
        generator: on the CPU; draws the deviations, then the noise.
    """
    context = with_noise(latents[:, :, :num_context], largest, generator)
    return torch.cat([context, latents[:, :, num_context:]], dim=2)


def with_offset(
    noise: Float[Tensor, "b c t h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "b c t h w"]:
    """Offset noise: ε moves whole channels of a sample, so that the denoiser learns to set brightness.

    ε' = ε + strength · o, with o standard normal, one a sample and channel and the same in all frames. Not
    in the paper. Where the last timestep keeps some signal, plain ε hardly changes a channel's mean, so the
    mean is read off the noised frames (Guttenberg, 2023, "Diffusion with offset noise"; DIAMOND, arXiv
    2405.12399). Zero terminal SNR and flow leave no signal there to read.

    Args:
        noise: ε, standard normal.
        strength: 0 is off, the default everywhere; 0.1 is usual, DIAMOND takes 0.3.
        generator: on the CPU.

    Raises:
        ValueError: the strength is below 0.
    """
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength of the offset noise is {strength}; allowed: 0 (off) and above")
    offset = torch.randn(*noise.shape[:2], 1, 1, 1, generator=generator)
    return noise + strength * offset.to(noise)


def masked_conditional_loss(
    denoiser: Denoiser,
    latents: Float[Tensor, "b c t h w"],
    text: Float[Tensor, "b n d"],
    noise: Float[Tensor, "b c t h w"],
    timestep: Real[Tensor, " b"],
    num_context: int,
    schedule: NoiseSchedule,
) -> Float[Tensor, " b"]:
    """The slow learner's loss (eq. 1, 2), per sample: mean over the generated frames alone.

    Args:
        denoiser: Φ, or Φ+Θ in the slow-fast loop.
        latents: z_0, context frames then target frames.
        text: token states of the action.
        noise: ε; the part under the context frames is not used.
        timestep: t, one a sample.
        num_context: f_p; 0 noises and supervises every frame.
        schedule: how frames are noised and what is predicted: ε, v or flow.

    Raises:
        ValueError: if no frame is left to generate.
    """
    noisy = noise_targets(latents, noise, timestep, num_context, schedule)
    prediction = denoiser(noisy, timestep, text, num_context)
    target = schedule.target(latents, noise, timestep)
    error = (prediction - target)[:, :, num_context:].float()
    return error.square().flatten(1).mean(dim=1)


def all_frames_loss(
    denoiser: Denoiser,
    latents: Float[Tensor, "b c t h w"],
    text: Float[Tensor, "b n d"],
    noise: Float[Tensor, "b c t h w"],
    timestep: Real[Tensor, " b"],
    schedule: NoiseSchedule,
) -> Float[Tensor, " b"]:
    """The fast learner's local rule (eq. 3), per sample: every frame noised and supervised.

    Args:
        denoiser: Φ+Θ.
        latents: S, the chunk's input and output frames joined in time.
        text: token states of "no text" (`""`); the paper leaves the action out.
        noise: ε for all frames.
        timestep: t, one a sample.
        schedule: ᾱ and the prediction type.
    """
    return masked_conditional_loss(denoiser, latents, text, noise, timestep, 0, schedule)


def draw_timesteps(
    num: int,
    schedule: NoiseSchedule,
    generator: torch.Generator,
    low: float = 0.0,
    high: float = 1.0,
) -> Real[Tensor, " b"]:
    """Draw t uniformly from a part of the schedule (for flow: s uniformly, before its shift).

    Args:
        num: how many, one a sample.
        schedule: gives the number of timesteps T.
        generator: see `sfv.rng.stream`; the result lies on its device.
        low: first timestep as a fraction of T; 0 is the least noise.
        high: end (excluded) as a fraction of T; 1 is the most noise.

    Raises:
        ValueError: if [low, high) is no range inside [0, 1] that holds a timestep.
    """
    total = schedule.num_train_timesteps
    first, end = round(low * total), round(high * total)
    if not 0 <= first < end <= total:
        raise ValueError(
            f"timestep range low={low}, high={high} must satisfy 0 <= low < high <= 1 and hold at "
            f"least one of the {total} timesteps"
        )
    index = torch.randint(first, end, (num,), generator=generator, device=generator.device)
    return schedule.timestep_at(index)


def _check_context(num_context: int, num_frames: int) -> None:
    if not 0 <= num_context < num_frames:
        raise ValueError(
            f"num_context is {num_context} in a window of {num_frames} frames; it must be from 0 "
            f"to {num_frames - 1}, so that a frame is left to generate. Use longer windows or "
            "fewer context frames"
        )
