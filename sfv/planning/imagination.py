"""What would happen under an action: imagined by a world model (and Θ), or filmed by the engine itself."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.protocol import EpisodeMemory, FastReport, MemoryLearner
from sfv.generation.chunk_sampler import ChunkSampler
from sfv.models.world_model import WorldModel
from sfv.planning.environment import Environment, video_of
from sfv.types import Precision

Video = Float[Tensor, "t 3 height width"]


@dataclass(frozen=True)
class Imagined:
    """One imagined chunk.

    Args:
        frames: in [0, 1].
        state: what goes on from it without a look at the world: latents, or the engine's state.
    """

    frames: Video
    state: Any


@runtime_checkable
class Imagination(Protocol):
    """Imagines one episode, chunk by chunk."""

    def begin(self, episode: str, given: Video, memory: EpisodeMemory | None) -> None:
        """Start an episode.

        Args:
            episode: names the noise.
            given: the first frames.
            memory: Θ to go on with; None begins with a fresh one, where there is any.
        """
        ...

    def imagine(self, actions: Sequence[str]) -> list[Imagined]:
        """The next chunk under each action; nothing moves on."""
        ...

    def keep(self, action: str, imagined: Imagined | None, seen: Video | None) -> FastReport | None:
        """Move on by a chunk, and learn it.

        Args:
            action: what was done.
            imagined: the chunk, where it was imagined.
            seen: the true frames of the chunk; None where nobody looks: the imagined ones count.
        """
        ...

    @property
    def memory(self) -> EpisodeMemory | None:
        """Θ as it stands."""
        ...


class WorldImagination:
    """A world model, with or without fast learning.

    Args:
        world: Φ and what goes with it.
        sampler: how chunks are sampled.
        learner: trains Θ after each chunk; None imagines without memory.
        seed: names the noise; candidates of one chunk share it, so that they differ by action alone.
        precision: arithmetic of sampling.
    """

    def __init__(
        self,
        world: WorldModel,
        sampler: SamplerSettings,
        learner: MemoryLearner | None,
        seed: int = 0,
        precision: Precision = "32",
    ) -> None:
        self.world, self.learner = world, learner
        self._sampler = ChunkSampler(world, sampler, seed, precision)
        self._num_context = world.num_context if learner is None else learner.num_context
        self._memory: EpisodeMemory | None = None
        self._context = torch.zeros(0)
        self._episode, self._chunk = "", 0

    @property
    def memory(self) -> EpisodeMemory | None:
        return self._memory

    def begin(self, episode: str, given: Video, memory: EpisodeMemory | None) -> None:
        if len(given) < self._num_context:
            raise ValueError(
                f"{len(given)} frames are given, but this model needs a context of {self._num_context}; "
                "give the task more given actions"
            )
        size = (given.shape[2], given.shape[3])
        self.world.check_frame_size(size, f"task {episode}", "give a model of that size")
        self._episode, self._chunk = episode, 0
        self._context = self.world.encode(given[None])[:, :, -self._num_context :]
        self._memory = memory
        if memory is None and self.learner is not None:
            self._memory = self.learner.fresh(episode, self._context)

    def imagine(self, actions: Sequence[str]) -> list[Imagined]:
        num = len(actions)
        context = self._context.expand(num, -1, -1, -1, -1)
        with self._with_memory(actions):
            latents = self._sampler(context, actions, [(self._episode, self._chunk)] * num)
        videos = self.world.decode(latents)
        return [
            Imagined(video, one) for video, one in zip(videos, torch.split(latents, 1), strict=True)
        ]

    def keep(self, action: str, imagined: Imagined | None, seen: Video | None) -> FastReport | None:
        if seen is not None:
            new = self.world.encode(seen[None])
        else:
            assert imagined is not None
            new = imagined.state
        pair = torch.cat([self._context, new], dim=2)
        report = None
        if self.learner is not None and self._memory is not None:
            memories, own = [self._memory], [seen is None]
            [report] = self.learner.learn_allowed(memories, pair, [action], self._num_context, own)
        self._context = pair[:, :, -self._num_context :]
        if self._memory is not None:
            self._memory.context = self._context
        self._chunk += 1
        return report

    def _with_memory(self, actions: Sequence[str]) -> AbstractContextManager[None]:
        if self.learner is None or self._memory is None:
            return nullcontext()
        return self.learner.acting([self._memory] * len(actions), actions)


class TrueImagination:
    """The engine as its own world model: a chunk is what it would film. The ceiling of every plan.

    Args:
        environment: the one in which plans are executed; each look ahead is taken back.
    """

    memory: EpisodeMemory | None = None

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._ahead: Any = None

    def begin(self, episode: str, given: Video, memory: EpisodeMemory | None) -> None:
        del episode, given, memory
        self._ahead = None

    def imagine(self, actions: Sequence[str]) -> list[Imagined]:
        world, found = self.environment, []
        now = world.save()
        for action in actions:
            world.load(now if self._ahead is None else self._ahead)
            frames = video_of(world.perform(action))
            found.append(Imagined(frames, world.save()))
        world.load(now)
        return found

    def keep(self, action: str, imagined: Imagined | None, seen: Video | None) -> FastReport | None:
        del action
        self._ahead = imagined.state if seen is None and imagined is not None else None
        return None
