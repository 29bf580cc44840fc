"""The forward process: the signal that latents keep at each timestep, and what is predicted of it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from sfv.diffusion.flow import shift_level

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "v_prediction", "flow_prediction"]
Latents = Float[Tensor, "b c t h w"]
Timestep = Real[Tensor, " b"]
"""Whole numbers 0 .. T-1; for `flow_prediction` s·T, a real number in (0, T] (`sfv.diffusion.flow`)."""


@dataclass(frozen=True)
class NoiseSchedule:
    """ᾱ_t of the forward process and what the denoiser predicts; field names are diffusers'.

    Args:
        num_train_timesteps: number of timesteps T; valid timesteps are 0 .. T-1.
        beta_start: noise variance β of the first timestep (unused by `squaredcos_cap_v2` and flow).
        beta_end: noise variance β of the last timestep (unused by `squaredcos_cap_v2` and flow).
        beta_schedule: how β grows in between; `scaled_linear` is linear in √β, ModelScopeT2V's.
        prediction_type: what the denoiser is trained to output; ε is the paper's. `flow_prediction` is flow
            matching, which also noises in its own way: (1 - s) z_0 + s ε, target ε - z_0.
        zero_terminal_snr: rescale so that the last timestep holds no signal at all
            (Lin et al., 2023); needs `v_prediction`. Flow has no signal there anyway.
        shift: of the noise levels of flow, see `sfv.diffusion.flow.shift_level`; 1 is none.

    Raises:
        ValueError: if the fields do not make a schedule.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: PredictionType = "epsilon"
    zero_terminal_snr: bool = False
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise ValueError(
                f"num_train_timesteps is {self.num_train_timesteps}; it must be at least 2"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start={self.beta_start} and beta_end={self.beta_end} must satisfy "
                "0 < beta_start <= beta_end < 1"
            )
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "zero_terminal_snr=True needs prediction_type='v_prediction', got 'epsilon': the "
                "last timestep holds no signal, so ε says nothing about the clean frames there. "
                "Set prediction_type: v_prediction or zero_terminal_snr: false"
            )
        if self.zero_terminal_snr and self.is_flow:
            raise ValueError(
                "zero_terminal_snr=True changes ᾱ, which prediction_type='flow_prediction' does not "
                "have; its last timestep holds no signal anyway. Set zero_terminal_snr: false"
            )
        if not 0 < self.shift < math.inf or (self.shift != 1 and not self.is_flow):
            raise ValueError(
                f"shift is {self.shift} with prediction_type={self.prediction_type!r}; it must be above 0, "
                "and 1 unless prediction_type is flow_prediction"
            )

    @property
    def is_flow(self) -> bool:
        """Whether frames are noised along straight lines instead of by ᾱ."""
        return self.prediction_type == "flow_prediction"

    @property
    def last_timestep(self) -> int:
        """The timestep with the most noise: T-1, or T for flow."""
        return self.num_train_timesteps - (0 if self.is_flow else 1)

    def timestep_at(self, index: Int[Tensor, "*n"]) -> Real[Tensor, "*n"]:
        """The timestep at a place 0 (least noise) .. T-1: the place itself; for flow s·T, s shifted."""
        if not self.is_flow:
            return index
        level = (index + 1).to(torch.float64) / self.num_train_timesteps
        return (shift_level(level, self.shift) * self.num_train_timesteps).float()

    def alphas_cumprod(self, device: torch.device | None = None) -> Float[Tensor, " s"]:
        """ᾱ_t for every timestep, on `device` (default CPU); cached, so never write to it.

        Raises:
            ValueError: flow has none.
        """
        if self.is_flow:
            raise ValueError("prediction_type 'flow_prediction' has no ᾱ; use coefficients()")
        return _alphas_cumprod(self, device or torch.device("cpu"))

    def add_noise(self, latents: Latents, noise: Latents, timestep: Timestep) -> Latents:
        """z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε for every frame; for flow (1-s) z_0 + s ε."""
        signal, sigma = self.coefficients(timestep)
        return (signal * latents + sigma * noise).to(latents.dtype)

    def target(self, latents: Latents, noise: Latents, timestep: Timestep) -> Latents:
        """What the denoiser should output: ε, v = √ᾱ_t ε - √(1-ᾱ_t) z_0, or for flow ε - z_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.is_flow:
            return noise - latents
        signal, sigma = self.coefficients(timestep)
        return (signal * noise - sigma * latents).to(latents.dtype)

    def to_noise(self, prediction: Latents, noisy: Latents, timestep: Timestep) -> Latents:
        """The noise ε that a prediction stands for."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, sigma = self.coefficients(timestep)
        if self.is_flow:
            return (noisy + signal * prediction).to(noisy.dtype)
        return (signal * prediction + sigma * noisy).to(noisy.dtype)

    def to_clean(self, prediction: Latents, noisy: Latents, timestep: Timestep) -> Latents:
        """The clean latents z_0 that a prediction stands for."""
        signal, sigma = self.coefficients(timestep)
        if self.prediction_type == "epsilon":
            return ((noisy - sigma * prediction) / signal).to(noisy.dtype)
        if self.is_flow:
            return (noisy - sigma * prediction).to(noisy.dtype)
        return (signal * noisy - sigma * prediction).to(noisy.dtype)

    def coefficients(
        self, timestep: Timestep
    ) -> tuple[Float[Tensor, "b 1 1 1 1"], Float[Tensor, "b 1 1 1 1"]]:
        """How much of the frames and of the noise there is: √ᾱ_t and √(1-ᾱ_t), for flow 1-s and s."""
        if self.is_flow:
            level = (timestep.float() / self.num_train_timesteps).view(-1, 1, 1, 1, 1)
            return 1 - level, level
        alpha_bar = self.alphas_cumprod(timestep.device)[timestep].view(-1, 1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@lru_cache(maxsize=16)
def _alphas_cumprod(schedule: NoiseSchedule, device: torch.device) -> Float[Tensor, " s"]:
    betas = _betas(schedule)
    if schedule.zero_terminal_snr:
        betas = _without_terminal_signal(betas)
    return torch.cumprod(1 - betas, dim=0).to(device)


def _betas(schedule: NoiseSchedule) -> Float[Tensor, " s"]:
    start, end, num = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
    match schedule.beta_schedule:
        case "linear":
            return torch.linspace(start, end, num, dtype=torch.float32)
        case "scaled_linear":
            return torch.linspace(start**0.5, end**0.5, num, dtype=torch.float32) ** 2
        case "squaredcos_cap_v2":
            return _cosine_betas(num)


def _cosine_betas(num: int, max_beta: float = 0.999) -> Float[Tensor, " s"]:
    """Nichol & Dhariwal, 2021, eq. 17."""

    def signal_power(fraction: float) -> float:
        return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = range(num)
    betas = [min(1 - signal_power((i + 1) / num) / signal_power(i / num), max_beta) for i in steps]
    return torch.tensor(betas, dtype=torch.float32)


def _without_terminal_signal(betas: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
    """Shift and scale √ᾱ so that the last is 0 and the first stays (Lin et al., 2023, alg. 1)."""
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    alphas_cumprod = ((signal - last) * first / (first - last)) ** 2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas
