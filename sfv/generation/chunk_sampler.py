"""The next chunk of a video: noise drawn by name, sampled on the world model's device."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.diffusion.sampler import OnStep, SamplerSettings, sample_chunk, starting_point
from sfv.fast.modes import autocast
from sfv.models.schedulers import make_scheduler
from sfv.models.world_model import WorldModel
from sfv.storage.weight_files import is_finite
from sfv.types import Precision

Name = tuple[str, int]
"""An episode and the place of a chunk in it: what the chunk's noise hangs on, whoever samples it."""


class ChunkSampler:
    """Samples the frames that follow a context, for one chunk or a batch of them.

    Args:
        world: Φ and what goes with it.
        settings: which diffusion sampler, how many sampling steps, guidance.
        seed: names the noise, which is drawn on the CPU and so the same for every device.
        precision: arithmetic.
    """

    def __init__(
        self,
        world: WorldModel,
        settings: SamplerSettings,
        seed: int = 0,
        precision: Precision = "32",
    ) -> None:
        self.world, self.settings = world, settings
        self.seed, self.precision = seed, precision
        steps = settings.steps(world.schedule)
        self._scheduler = make_scheduler(world.schedule, settings.name, steps)

    @torch.no_grad()
    def __call__(
        self,
        context: Float[Tensor, "e c p h w"],
        actions: Sequence[str],
        names: Sequence[Name],
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "e c g h w"]:
        """Sample one chunk behind each context.

        Args:
            context: clean latents, on any device.
            actions: one a chunk.
            names: one a chunk; equal names have equal noise.
            on_step: called after each sampling step; what it raises ends the sampling.

        Returns:
            the new frames, on the CPU.

        Raises:
            ValueError: a generated number is NaN or infinite; names the chunk.
        """
        world, settings = self.world, self.settings
        shape = (context.shape[1], world.num_generated, *context.shape[3:])
        noise = torch.stack([self._noise(name, shape) for name in names])
        context = context.to(world.device)
        begin = starting_point(settings.start, context, noise.to(context), world.schedule)
        with autocast(context.device, self.precision):
            made = sample_chunk(
                world.denoiser,
                self._scheduler,
                context,
                world.text(list(actions)),
                world.text([""]).expand(len(actions), -1, -1),
                world.num_generated,
                settings.guidance_scale,
                begin,
                on_step,
            )
        made = made.cpu()
        for name, latents in zip(names, made, strict=True):
            _check_made(name, latents)
        return made

    def _noise(self, name: Name, shape: tuple[int, ...]) -> Float[Tensor, "c g h w"]:
        return torch.randn(shape, generator=rng.stream(self.seed, "sample-noise", *name))


def _check_made(name: Name, latents: Float[Tensor, "c g h w"]) -> None:
    if not is_finite(latents):
        episode, chunk = name
        raise ValueError(
            f"chunk {chunk + 1} of {episode} came out as NaN or infinite: the start, the weights or what "
            "the memory has learned are out of range; give another start, a smaller fast learning rate, or "
            "a model from before its training diverged"
        )
