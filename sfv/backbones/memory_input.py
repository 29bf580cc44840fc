"""How a denoiser reads an addressed memory: further input channels, and the prediction that r alone gives.

Given what is read, r and u, the clean latents of a channel are taken as normal around g·r with variance σ²,
where the gain g and σ² are those of a linear regression on training episodes, tabulated over u
(`calibrate`). Where nothing was written g = 0, and σ² is the channel's variance. With flow's
z_s = (1 - s) z_0 + s ε the best prediction of v = ε - z_0 from that alone has a closed form,

    y = z_s - (1-s) g r     d = (1-s)² σ² + s²     v̂ = y (s - (1-s) σ²) / d - g r

and what is left of v has variance σ²/d. So the network sees y/√d and predicts n, and v = v̂ + n σ/√d: EDM's
preconditioning (Karras et al., 2022, arXiv 2206.00364, section 5) with the memory as its prior. Where the
memory is sure, the network can only correct it; where it knows nothing, this is plain flow matching.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv.types import Reading

LEAST = 1e-3
"""Smallest u that the table tells from smaller ones."""
_LEAST_VARIANCE = 1e-3
_DECADES = math.log10(LEAST)
_BINS = 13


class MemoryInput(nn.Module):
    """Channels for r, u and a mask of the new frames, and the prior that r makes.

    Args:
        latent_channels: c.
        num_train_timesteps: T of the flow's schedule.
    """

    gain: Tensor
    variance: Tensor
    prior_variance: Tensor
    is_calibrated: Tensor

    def __init__(self, latent_channels: int, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        self.latent_channels, self.num_train_timesteps = latent_channels, num_train_timesteps
        uncertainty = torch.logspace(_DECADES, 0, _BINS)[:, None]
        self.register_buffer("gain", (1 - uncertainty).expand(-1, latent_channels).clone())
        self.register_buffer("variance", uncertainty.expand(-1, latent_channels).clone())
        self.register_buffer("prior_variance", torch.ones(latent_channels))
        self.register_buffer("is_calibrated", torch.tensor(False))
        self.reading: Reading | None = None

    @property
    def num_channels(self) -> int:
        """Input channels of the network: latents, r, u and the mask."""
        return 2 * self.latent_channels + 2

    @contextmanager
    def use(self, reading: Reading | None) -> Iterator[None]:
        """Inside, the denoiser sees this of its memory."""
        before, self.reading = self.reading, reading
        try:
            yield
        finally:
            self.reading = before

    @torch.no_grad()
    def calibrate(
        self,
        values: Float[Tensor, "n c h w"],
        uncertainty: Float[Tensor, " n"],
        latents: Float[Tensor, "n c h w"],
    ) -> None:
        """Fit gain and variance over u to frames that were read and what they are.

        Rows of the table that fewer than 16 frames fall into take those of the next more uncertain row; the
        last one those of a channel that nothing is known of. So a small group makes the denoiser cautious.

        Args:
            values: r of training frames.
            uncertainty: u of each.
            latents: what they are.
        """
        self.is_calibrated.fill_(True)
        spread = latents.float().square().mean(dim=(0, 2, 3))
        self.prior_variance.copy_(spread.clamp(min=_LEAST_VARIANCE))
        self.gain[-1], self.variance[-1] = 0, self.prior_variance
        place = self._place(uncertainty).round().long()
        for i in reversed(range(_BINS)):
            chosen = place == i
            if chosen.sum() >= 16:
                r, z = values[chosen].float(), latents[chosen].float()
                gain = (r * z).mean(dim=(0, 2, 3)) / r.square().mean(dim=(0, 2, 3)).clamp(min=1e-8)
                self.gain[i] = gain.clamp(0, 1)
                left = z - self.gain[i][:, None, None] * r
                self.variance[i] = left.square().mean(dim=(0, 2, 3)).clamp(min=_LEAST_VARIANCE)
            elif i + 1 < _BINS:
                self.gain[i], self.variance[i] = self.gain[i + 1], self.variance[i + 1]

    def prepare(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        num_context: int,
    ) -> tuple[Float[Tensor, "b i t h w"], "Prior"]:
        """What the network gets, and what makes a prediction of its output.

        Args:
            latents: clean context, then noised frames.
            timestep: s·T.
            num_context: f_p.
        """
        context, noisy = latents[:, :, :num_context], latents[:, :, num_context:].float()
        r, u = self._read(noisy)
        gain, variance = self._table(u)
        level = (timestep.float() / self.num_train_timesteps).view(-1, 1, 1, 1, 1)
        mean = gain * r
        rest = noisy - (1 - level) * mean
        spread = (1 - level).square() * variance + level.square()
        prior = Prior(rest * (level - (1 - level) * variance) / spread - mean, variance / spread)
        uncertainty = u[:, None, :, None, None].expand_as(r[:, :1])
        new = torch.cat([rest / spread.sqrt(), r, uncertainty, torch.ones_like(r[:, :1])], dim=1)
        nothing = context.new_zeros(len(context), self.num_channels, *context.shape[2:])
        nothing[:, : self.latent_channels] = context
        return torch.cat([nothing, new.to(nothing)], dim=2), prior

    def _read(
        self, noisy: Float[Tensor, "b c g h w"]
    ) -> tuple[Float[Tensor, "b c g h w"], Float[Tensor, "b g"]]:
        """Values and uncertainty of the batch; samples of one episode stand side by side."""
        if self.reading is None:
            return torch.zeros_like(noisy), noisy.new_ones(len(noisy), noisy.shape[2])
        values, uncertainty = self.reading.values, self.reading.uncertainty
        if noisy.shape[2] != values.shape[2] or len(noisy) % len(values):
            raise ValueError(
                f"a reading of {len(values)} episodes and {values.shape[2]} frames was handed over, but "
                f"the batch has {len(noisy)} samples of {noisy.shape[2]} new frames; read the frames that "
                "are to be generated"
            )
        each = len(noisy) // len(values)
        return (
            values.to(noisy).repeat_interleave(each, dim=0),
            uncertainty.to(noisy).repeat_interleave(each, dim=0),
        )

    def _place(self, uncertainty: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Where in the table, from 0 to its last row."""
        share = 1 - uncertainty.clamp(LEAST, 1).log10() / _DECADES
        return share * (_BINS - 1)

    def _table(
        self, uncertainty: Float[Tensor, "b g"]
    ) -> tuple[Float[Tensor, "b c g 1 1"], Float[Tensor, "b c g 1 1"]]:
        """Gain and variance, linear between the rows; at u = 1 those of an unknown channel."""
        place = self._place(uncertainty)
        low = place.floor().long().clamp(max=_BINS - 2)
        part = (place - low)[..., None]
        unknown = (uncertainty >= 1)[..., None]
        found = []
        nothing = torch.zeros_like(self.prior_variance)
        for table, without in ((self.gain, nothing), (self.variance, self.prior_variance)):
            row = torch.lerp(table[low], table[low + 1], part.to(table))
            row = torch.where(unknown, without, row)
            found.append(row.transpose(1, 2)[..., None, None])
        return found[0], found[1]


class Prior:
    """The prediction that the reading alone gives, and how far the network may move it.

    Args:
        prediction: v̂ of the new frames.
        variance: of what is left of v.
    """

    def __init__(
        self, prediction: Float[Tensor, "b c g h w"], variance: Float[Tensor, "b c g 1 1"]
    ) -> None:
        self._prediction, self._scale = prediction, variance.sqrt()

    def apply(self, output: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """The network's output as a prediction of v; context frames, which nobody reads, stay."""
        num_context = output.shape[2] - self._prediction.shape[2]
        new = self._prediction + self._scale * output[:, :, num_context:].float()
        return torch.cat([output[:, :, :num_context].to(new), new], dim=2)
