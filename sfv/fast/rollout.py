"""Long videos, chunk by chunk: generate, learn, go on (Algorithm 1a)."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.diffusion.sampler import SamplerSettings, sample_chunk
from sfv.fast.learner import FastLearner, FastReport, autocast
from sfv.models.schedulers import make_scheduler
from sfv.models.world_model import WorldModel
from sfv.types import Precision


@dataclass(frozen=True)
class Chunk:
    """One chunk of a rollout.

    Args:
        chunk_idx: place in the episode; chunk 0 is the given context, so the first is 1.
        action: the action that drove it.
        generated: what the model made of context and action, `1 c g h w`.
        shown: the true frames that were shown, learned and went on with instead; None where the
            rollout went on with `generated`.
        learned: what fast learning on the pair did; None without a memory.
        seconds: wall-clock time of sampling and learning.
    """

    chunk_idx: int
    action: str
    generated: Float[Tensor, "1 c t h w"]
    shown: Float[Tensor, "1 c t h w"] | None
    learned: FastReport | None
    seconds: float

    @property
    def kept(self) -> Float[Tensor, "1 c t h w"]:
        """The frames that the rollout went on with."""
        return self.generated if self.shown is None else self.shown


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
        shown: Float[Tensor, "1 c t2 h w"] | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> list[Chunk]:
        """Run a whole episode and return its chunks (without the start); see `stream`."""
        chunks = []
        for chunk in self.stream(episode, start, actions, shown=shown):
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
        shown: Float[Tensor, "1 c t2 h w"] | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks as they are made. Memory and time per chunk do not grow with the length.

        Without `shown`, everything after the start is the model's own: the paper's long videos.
        With it, the first chunks are predicted from the true context, then the truth is shown: it is
        what fast learning sees and what the next chunk follows. Showing all chunks is the paper's
        next-chunk protocol; showing the way out alone makes the way back a test of memory.

        Args:
            episode: names the episode's random streams.
            start: X_0, clean context latents; at least f_p frames.
            actions: one action a chunk to make.
            shown: true latents of the first chunks, a multiple of f_g frames.

        Raises:
            ValueError: the start is shorter than f_p, or `shown` is no whole number of chunks or longer
                than the actions.
        """
        self._check(start, actions, shown)
        window, num_new = self.model.num_context, self.model.num_generated
        if self.learner is not None:
            self.learner.begin(episode)
        truth = () if shown is None else torch.split(shown, num_new, dim=2)
        context = start[:, :, -window:]
        for i, action in enumerate(actions):
            began = time.perf_counter()
            generated = self._sample(episode, context, action, i)
            true = truth[i] if i < len(truth) else None
            pair = torch.cat([context, generated if true is None else true], dim=2)
            learned = None if self.learner is None else self.learner.learn(pair, i)
            context = pair[:, :, -window:]
            yield Chunk(i + 1, action, generated, true, learned, time.perf_counter() - began)

    def _check(self, start: Tensor, actions: Sequence[str], shown: Tensor | None) -> None:
        window, num_new = self.model.num_context, self.model.num_generated
        if start.shape[2] < window:
            raise ValueError(
                f"the start has {start.shape[2]} frames, but this model needs a context of {window}; "
                "give a longer start"
            )
        num_shown = 0 if shown is None else shown.shape[2]
        if num_shown % num_new or num_shown > len(actions) * num_new:
            raise ValueError(
                f"{num_shown} true frames are to be shown, but there are {len(actions)} chunks of "
                f"{num_new} frames; show a whole number of them, at most all"
            )

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
    """Join the start and the frames that a rollout went on with."""
    return torch.cat([start, *(chunk.kept for chunk in chunks)], dim=2)
