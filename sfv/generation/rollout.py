"""Long videos, chunk by chunk: generate, learn, go on (Algorithm 1a); many at once if asked to."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sfv.diffusion.sampler import OnStep, SamplerSettings
from sfv.fast.protocol import EpisodeMemory, FastReport, MemoryLearner, Poses
from sfv.generation.chunk_sampler import ChunkSampler
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
        learned: what fast learning on the pair did; None without a memory, or where the pair was not to be
            learned (`FastSettings.own_chunks`).
        seconds: wall-clock time of sampling and learning; videos made at once share it equally.
        memory: the episode's memory, which the next chunk changes; None without one.
    """

    chunk_idx: int
    action: str
    generated: Float[Tensor, "1 c t h w"]
    shown: Float[Tensor, "1 c t h w"] | None
    learned: FastReport | None
    seconds: float
    memory: EpisodeMemory | None = field(default=None, repr=False)

    @property
    def kept(self) -> Float[Tensor, "1 c t h w"]:
        """The frames that the rollout went on with."""
        return self.generated if self.shown is None else self.shown


@dataclass(frozen=True)
class Request:
    """One video to make.

    Args:
        episode: names the episode's random streams.
        start: X_0, clean context latents; at least f_p frames.
        actions: one action a chunk to make.
        shown: true latents of the first chunks, a multiple of f_g frames.
        memory: a memory to go on with, changed in place; None begins with a fresh one. The chunks are
            counted from where it is, so a rollout that was cut in two draws the noise of a whole one.
        first_chunk: where the count begins without a memory.
        poses: recorded ones, for an addressed memory: that of the start's last frame, then one a frame.
            None integrates the actions.
        predict_shown: generate also the chunks that are shown, from the true frames before them, as a
            measurement of next chunks needs. False only learns them.
    """

    episode: str
    start: Float[Tensor, "1 c t h w"]
    actions: Sequence[str]
    shown: Float[Tensor, "1 c t2 h w"] | None = None
    memory: EpisodeMemory | None = None
    first_chunk: int = 0
    poses: Float64[Tensor, "n 4"] | None = None
    predict_shown: bool = True

    def shown_chunk(self, chunk: int, num_frames: int) -> Float[Tensor, "1 c g h w"] | None:
        """The true frames of a chunk to make, counted from 0; None where they are not shown."""
        begin = chunk * num_frames
        if self.shown is None or begin >= self.shown.shape[2]:
            return None
        return self.shown[:, :, begin : begin + num_frames]

    def poses_of(self, chunk: int, num_frames: int) -> Float64[Tensor, "g 4"] | None:
        """Recorded poses of a chunk to make, counted from 0, with that of the frame before."""
        if self.poses is None:
            return None
        return self.poses[chunk * num_frames : (chunk + 1) * num_frames + 1]


@dataclass(eq=False)
class _Journey:
    """A video on its way."""

    request: Request
    context: Tensor
    memory: EpisodeMemory | None
    first_chunk: int
    num_made: int = 0

    @property
    def is_done(self) -> bool:
        return self.num_made == len(self.request.actions)

    @property
    def action(self) -> str:
        return self.request.actions[self.num_made]

    @property
    def chunk_idx(self) -> int:
        return self.first_chunk + self.num_made


class Rollout:
    """Generates chunk after chunk with one world model; optional fast learning between chunks.

    Args:
        model: Φ and what goes with it.
        sampler: which diffusion sampler, how many sampling steps, guidance.
        learner: teaches the memory after each chunk; None generates without memory.
        seed: names the sampling noise: equal with and without memory.
        precision: arithmetic of sampling.
    """

    def __init__(
        self,
        model: WorldModel,
        sampler: SamplerSettings,
        learner: MemoryLearner | None = None,
        seed: int = 0,
        precision: Precision = "32",
    ) -> None:
        self.model, self.learner = model, learner
        self._sampler = ChunkSampler(model, sampler, seed, precision)
        self._num_context = model.num_context if learner is None else learner.num_context

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
        return self.run_many([Request(episode, start, actions, shown)], on_chunk)[0]

    def run_many(
        self, requests: Sequence[Request], on_chunk: Callable[[Chunk], None] | None = None
    ) -> list[list[Chunk]]:
        """Make several videos at once and return each one's chunks; see `stream_many`."""
        chunks: list[list[Chunk]] = [[] for _ in requests]
        for made in self.stream_many(requests):
            for which, chunk in made:
                chunks[which].append(chunk)
                if on_chunk is not None:
                    on_chunk(chunk)
        return chunks

    def stream(self, request: Request, on_step: OnStep | None = None) -> Iterator[Chunk]:
        """Yield chunks as they are made. Memory and time per chunk do not grow with the length.

        Without `shown`, everything after the start is the model's own: the paper's long videos.
        With it, the first chunks are predicted from the true context, then the truth is shown: it is
        what fast learning sees and what the next chunk follows. Showing all chunks is the paper's
        next-chunk protocol; showing the way out alone makes the way back a test of memory.

        Args:
            request: the video.
            on_step: called after each sampling step; what it raises ends the rollout, and leaves the
                model and the memory as they were before the chunk.

        Raises:
            ValueError: the start is shorter than f_p, or `shown` is no whole number of chunks or longer
                than the actions.
        """
        for made in self.stream_many([request], on_step):
            yield made[0][1]

    def stream_many(
        self, requests: Sequence[Request], on_step: OnStep | None = None
    ) -> Iterator[list[tuple[int, Chunk]]]:
        """Make several videos in one batch: yield a chunk of each, with its request's place.

        Each has its own Θ, optimiser and noise, so that up to rounding it comes out as it would alone.
        Videos that are complete leave the batch, and the others go on.

        Raises:
            ValueError: as `stream`, or the starts differ in size.
        """
        for request in requests:
            self._check(request)
        sizes = {tuple(r.start.shape[1:2] + r.start.shape[3:]) for r in requests}
        if len(sizes) > 1:
            raise ValueError(
                f"videos made at once must have equal latents (channels, height, width), got "
                f"{sorted(sizes)}; make them one after the other"
            )
        journeys = [self._begin(request) for request in requests]
        while going := [(i, journey) for i, journey in enumerate(journeys) if not journey.is_done]:
            chunks = self._advance([journey for _, journey in going], on_step)
            yield [(i, chunk) for (i, _), chunk in zip(going, chunks, strict=True)]

    def _begin(self, request: Request) -> _Journey:
        memory = request.memory
        if memory is None and self.learner is not None:
            memory = self.learner.fresh(request.episode, request.start)
        first = request.first_chunk if memory is None else memory.num_chunks
        return _Journey(request, request.start[:, :, -self._num_context :], memory, first)

    def _advance(self, going: Sequence[_Journey], on_step: OnStep | None) -> list[Chunk]:
        """Sample one chunk of each video, learn it, move on."""
        began = time.perf_counter()
        num_new = self.model.num_generated
        shown = [journey.request.shown_chunk(journey.num_made, num_new) for journey in going]
        generated = self._generate(going, shown, on_step)
        kept = [new if true is None else true for new, true in zip(generated, shown, strict=True)]
        contexts = torch.cat([journey.context for journey in going])
        pairs = torch.cat([contexts, torch.cat(kept)], dim=2)
        actions = [journey.action for journey in going]
        reports: Sequence[FastReport | None] = [None] * len(going)
        memories = [journey.memory for journey in going if journey.memory is not None]
        if self.learner is not None:
            own = [true is None for true in shown]
            reports = self.learner.learn_allowed(
                memories, pairs, actions, self._num_context, own, self._poses(going)
            )
        contexts = pairs[:, :, -self._num_context :]
        for journey, context in zip(going, torch.split(contexts, 1), strict=True):
            journey.context = context
            journey.num_made += 1
            if journey.memory is not None:
                journey.memory.context = context
        seconds = (time.perf_counter() - began) / len(going)
        cases = zip(going, actions, generated, shown, reports, strict=True)
        return [
            Chunk(journey.chunk_idx, action, new, true, report, seconds, journey.memory)
            for journey, action, new, true, report in cases
        ]

    def _generate(
        self,
        going: Sequence[_Journey],
        shown: Sequence[Float[Tensor, "1 c g h w"] | None],
        on_step: OnStep | None,
    ) -> list[Float[Tensor, "1 c g h w"]]:
        """A chunk of each video; what is shown and not to be predicted stands for itself."""
        wanted = [
            journey
            for journey, true in zip(going, shown, strict=True)
            if true is None or journey.request.predict_shown
        ]
        made = iter(torch.split(self._sample(wanted, on_step), 1) if wanted else ())
        return [
            next(made) if true is None or journey.request.predict_shown else true
            for journey, true in zip(going, shown, strict=True)
        ]

    def _check(self, request: Request) -> None:
        start, actions, shown = request.start, request.actions, request.shown
        window, num_new = self._num_context, self.model.num_generated
        if start.shape[2] < window:
            raise ValueError(
                f"the start has {start.shape[2]} frames, but this model needs a context of {window}; "
                "give a longer start"
            )
        if request.poses is not None and len(request.poses) != len(actions) * num_new + 1:
            raise ValueError(
                f"{len(request.poses)} poses are given for {len(actions)} chunks of {num_new} frames; give "
                "one a frame, and in front that of the start's last frame"
            )
        num_shown = 0 if shown is None else shown.shape[2]
        if num_shown % num_new or num_shown > len(actions) * num_new:
            raise ValueError(
                f"{num_shown} true frames are to be shown, but there are {len(actions)} chunks of "
                f"{num_new} frames; show a whole number of them, at most all"
            )
        channels = self.model.denoiser.latent_channels
        if start.shape[1] != channels:
            raise ValueError(
                f"the start has {start.shape[1]} latent channels, but this model has {channels}; give a "
                "start that this model's codec encoded"
            )
        if request.memory is not None and self.learner is not None:
            expected = (channels, window + num_new, *start.shape[3:])
            self.learner.check_pairs(request.memory, expected)

    def _sample(
        self, going: Sequence[_Journey], on_step: OnStep | None
    ) -> Float[Tensor, "e c t h w"]:
        context = torch.cat([journey.context for journey in going])
        names = [(journey.request.episode, journey.chunk_idx) for journey in going]
        with self._with_memory(going):
            return self._sampler(context, [journey.action for journey in going], names, on_step)

    def _with_memory(self, going: Sequence[_Journey]) -> AbstractContextManager[None]:
        if self.learner is None:
            return nullcontext()
        memories = [journey.memory for journey in going if journey.memory is not None]
        return self.learner.acting(memories, [j.action for j in going], self._poses(going))

    def _poses(self, going: Sequence[_Journey]) -> Poses:
        num = self.model.num_generated
        return [journey.request.poses_of(journey.num_made, num) for journey in going]


def join(start: Tensor, chunks: Sequence[Chunk]) -> Float[Tensor, "1 c t h w"]:
    """Join the start and the frames that a rollout went on with."""
    return torch.cat([start, *(chunk.kept for chunk in chunks)], dim=2)
