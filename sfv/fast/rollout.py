"""Long videos, chunk by chunk: generate, learn, go on (Algorithm 1a)."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.diffusion.sampler import SamplerSettings, sample_chunk
from sfv.fast.learner import FastLearner, FastReport, autocast
from sfv.models.schedulers import make_scheduler
from sfv.models.world_model import WorldModel
from sfv.types import Precision

RolloutProtocol = Literal["long", "return", "next_chunk"]
"""Which frames are the model's own.

- `"long"`: all after the first context. Context and learned pairs are generated (the paper's rollouts).
- `"return"`: the true outbound video is shown and learned; the rest is generated.
- `"next_chunk"`: each chunk is generated from the true context, then the true chunk is shown and learned.
"""


@dataclass(frozen=True)
class Chunk:
    """One chunk of a rollout.

    Args:
        chunk_idx: place in the episode; chunk 0 is the given context, so the first is 1.
        action: the action that drove it.
        latents: its frames, `1 c g h w`; generated, or true where the protocol shows the truth.
        generated: whether the model made `latents`.
        learned: what fast learning on the pair did; None without a memory.
        seconds: wall-clock time of sampling and learning.
    """

    chunk_idx: int
    action: str
    latents: Float[Tensor, "1 c t h w"]
    generated: bool
    learned: FastReport | None
    seconds: float


class Rollout:
    """Generates chunk after chunk with one world model; optional fast learning between chunks.

    Args:
        model: Φ and what goes with it.
        sampler: which diffusion sampler, how many sampling steps, guidance.
        learner: trains Θ after each chunk; None generates without memory.
        seed: names the sampling noise: equal with and without memory.
        precision: arithmetic of sampling.
    """

    def __init__(
        self,
        model: WorldModel,
        sampler: SamplerSettings,
        learner: FastLearner | None = None,
        seed: int = 0,
        precision: Precision = "32",
    ) -> None:
        self.model, self.sampler, self.learner = model, sampler, learner
        self.seed, self.precision = seed, precision
        self._scheduler = make_scheduler(model.schedule, sampler.name, sampler.num_inference_steps)

    def run(
        self,
        episode: str,
        start: Float[Tensor, "1 c t h w"],
        actions: Sequence[str],
        *,
        protocol: RolloutProtocol = "long",
        truth: Float[Tensor, "1 c t2 h w"] | None = None,
        num_shown: int = 0,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> list[Chunk]:
        """Run a whole episode and return its chunks (without the start)."""
        chunks = []
        for chunk in self.stream(
            episode, start, actions, protocol=protocol, truth=truth, num_shown=num_shown
        ):
            chunks.append(chunk)
            if on_chunk is not None:
                on_chunk(chunk)
        return chunks

    def stream(
        self,
        episode: str,
        start: Float[Tensor, "1 c t h w"],
        actions: Sequence[str],
        *,
        protocol: RolloutProtocol = "long",
        truth: Float[Tensor, "1 c t2 h w"] | None = None,
        num_shown: int = 0,
    ) -> Iterator[Chunk]:
        """Yield chunks as they are made. Memory and time per chunk do not grow with the length.

        Args:
            episode: names the episode's random streams.
            start: X_0, clean context latents; at least f_p frames.
            actions: one action a chunk to make.
            protocol: which frames are the model's own.
            truth: the true latents of the chunks, in order, for the protocols that show them.
            num_shown: with `"return"`, the number of chunks whose truth is shown.

        Raises:
            ValueError: the start is shorter than f_p, or the truth does not cover the chunks shown.
        """
        num_shown = self._check(start, actions, protocol, truth, num_shown)
        window, num_new = self.model.num_context, self.model.num_generated
        if self.learner is not None:
            self.learner.begin(episode)
        context = start[:, :, -window:]
        for i, action in enumerate(actions):
            began = time.perf_counter()
            shown = None
            if i < num_shown:
                assert truth is not None
                shown = truth[:, :, i * num_new : (i + 1) * num_new]
            if shown is not None and protocol == "return":
                latents = shown
            else:
                latents = self._sample(episode, context, action, i)
            target = latents if shown is None else shown
            learned = None
            if self.learner is not None:
                learned = self.learner.learn(torch.cat([context, target], dim=2), i)
            context = torch.cat([context, target], dim=2)[:, :, -window:]
            yield Chunk(
                i + 1,
                action,
                latents,
                latents is not shown,
                learned,
                time.perf_counter() - began,
            )

    def _check(
        self,
        start: Tensor,
        actions: Sequence[str],
        protocol: RolloutProtocol,
        truth: Tensor | None,
        num_shown: int,
    ) -> int:
        model = self.model
        if start.shape[2] < model.num_context:
            raise ValueError(
                f"the start has {start.shape[2]} frames, but this model needs a context of "
                f"{model.num_context}; give a longer start"
            )
        num_shown = {"long": 0, "return": num_shown, "next_chunk": len(actions)}[protocol]
        available = 0 if truth is None else truth.shape[2]
        if available < num_shown * model.num_generated:
            raise ValueError(
                f"protocol {protocol!r} shows {num_shown} chunks of {model.num_generated} frames, but "
                f"the truth has {available} frames; give the true latents of these chunks"
            )
        return num_shown

    @torch.no_grad()
    def _sample(
        self, episode: str, context: Float[Tensor, "1 c t h w"], action: str, i: int
    ) -> Float[Tensor, "1 c t2 h w"]:
        generator = rng.stream(self.seed, "sample-noise", episode, i)
        shape = (*context.shape[:2], self.model.num_generated, *context.shape[3:])
        noise = torch.randn(shape, generator=generator).to(context)
        with autocast(context.device, self.precision):
            return sample_chunk(
                self.model.denoiser,
                self._scheduler,
                context,
                self.model.text([action]),
                self.model.text([""]),
                self.model.num_generated,
                self.sampler.guidance_scale,
                noise,
            )


def join(start: Tensor, chunks: Sequence[Chunk]) -> Float[Tensor, "1 c t h w"]:
    """Join the start and the chunks of a rollout in time."""
    return torch.cat([start, *(chunk.latents for chunk in chunks)], dim=2)
