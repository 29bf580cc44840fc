"""Flow matching: straight ways from frames to noise, and Euler steps along them.

    z_s = (1 - s) z_0 + s ε,   dz/ds = ε - z_0 = v,   s from 0 (frames) to 1 (noise)

Rectified flow (Liu et al., 2022, arXiv 2209.03003), with the shifted levels of Stable Diffusion 3 (Esser et
al., 2024, arXiv 2403.03206, eq. 23). A timestep is s·T, a real number in (0, T], as diffusers'
`FlowMatchEulerDiscreteScheduler` counts it and pretrained flow models expect it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def shift_level(level: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """Move noise levels s in [0, 1] towards noise: s' = a s / (1 + (a - 1) s).

    Args:
        level: s.
        shift: a; 1 changes nothing, more than 1 spends more steps on high noise. Large latents keep more
            signal at equal s, so they take a larger one (SD3: 3 at 1024 x 1024 pixels).
    """
    return shift * level / (1 + (shift - 1) * level)


class FlowEuler:
    """Euler steps of a flow, a `sfv.diffusion.sampler.Scheduler`.

    Steps are evenly spaced in s before the shift, from pure noise to clean frames: n steps begin at
    1, (n-1)/n, ..., 1/n. DDIM's rule, z' = (1 - s') ẑ_0 + s' ε̂, is the same step on this noising.

    Args:
        num_train_timesteps: T.
        shift: of the levels, see `shift_level`.
        num_inference_steps: denoiser calls a chunk.
    """

    init_noise_sigma = 1.0

    def __init__(self, num_train_timesteps: int, shift: float, num_inference_steps: int) -> None:
        self._num_train_timesteps, self._shift = num_train_timesteps, shift
        self.set_timesteps(num_inference_steps)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """See `Scheduler`."""
        self.num_inference_steps: int | None = num_inference_steps
        even = torch.linspace(1, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64)
        levels = shift_level(even, self._shift).float()
        self.timesteps = levels * self._num_train_timesteps
        self._steps = torch.cat([levels, levels.new_zeros(1)]).diff()

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """See `Scheduler`: nothing to scale."""
        return sample

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool = False
    ) -> tuple[Tensor, ...]:
        """z_{s'} = z_s + (s' - s) v, to the next level.

        Raises:
            ValueError: `timestep` is none of `timesteps`.
        """
        places = (self.timesteps == timestep).nonzero()
        if len(places) != 1:
            raise ValueError(
                f"timestep {float(timestep)} is none of {self.timesteps.tolist()}; give one of the "
                "scheduler's timesteps"
            )
        return (sample + float(self._steps[places[0, 0]]) * model_output,)
