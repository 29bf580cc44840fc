"""What carries an episode: the calls that every kind of memory answers.

A rollout, the planner, the playground, the benchmark and the slow-fast loop know these calls alone. Kinds:
`sfv.fast.learner.FastLearner` (Temp-LoRA, gradient steps) and
`sfv.fast.addressed_learner.AddressedLearner` (closed form, read by pose).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

Poses = Sequence[Float64[Tensor, "n 4"] | None]
"""Recorded poses of a chunk of each episode: that of the frame before, then one a frame (x, y, z, yaw)."""


@dataclass(frozen=True)
class FastReport:
    """What learning one chunk did.

    Args:
        loss: mean training loss (`fast/loss`); NaN without a step. Of an addressed memory: the mean squared
            error of what it said of the chunk before it was written.
        gain: the drop of the loss on held-out noise (`fast/gain`); NaN where unmeasured, 0 if undone.
        drift: ‖ΔW‖ over all layers together (`fast/drift`): how far Θ has moved the network.
        undone: the guard took the chunk's learning back.
        seconds: wall-clock time; episodes that learn in one batch share it equally.
        layers: ‖ΔW‖ of each adapted layer.
    """

    loss: float
    gain: float
    drift: float = 0.0
    undone: bool = False
    seconds: float = 0.0
    layers: dict[str, float] = field(default_factory=dict, repr=False)


@runtime_checkable
class EpisodeMemory(Protocol):
    """The state of one episode; learning changes it in place.

    Attributes:
        episode: names the episode's random streams.
        num_chunks: chunks that went by; with `episode` the position in all random streams.
        context: the newest frames, which the next chunk follows; None outside a rollout.
    """

    episode: str
    num_chunks: int
    context: Tensor | None


@runtime_checkable
class MemoryLearner(Protocol):
    """Makes memories, lets them act on the denoiser, and teaches them chunk after chunk.

    Attributes:
        denoiser: ε_Φ, frozen while a memory learns.
        num_context: context frames that it works with; at most the model's f_p.
        seed: names the noise streams.
    """

    denoiser: Any
    num_context: int
    seed: int

    def fresh(self, episode: str, context: Float[Tensor, "1 c t h w"]) -> Any:
        """Start an episode.

        Args:
            episode: names the episode's random streams.
            context: the clean frames that it begins with.
        """
        ...

    def acting(
        self, memories: Sequence[Any], actions: Sequence[str], poses: Poses | None = None
    ) -> AbstractContextManager[None]:
        """Inside, each memory acts on the samples of its episode, which stand side by side in a batch.

        Args:
            memories: at least one.
            actions: of the chunk to generate, one an episode.
            poses: recorded poses of that chunk, where the world has them.
        """
        ...

    def learn(
        self,
        memories: Sequence[Any],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int | None = None,
        poses: Poses | None = None,
    ) -> list[FastReport]:
        """Learn one pair of each episode: context and new frames, joined in time."""
        ...

    def learn_allowed(
        self,
        memories: Sequence[Any],
        pairs: Float[Tensor, "e c t h w"],
        actions: Sequence[str],
        num_context: int,
        own: Sequence[bool],
        poses: Poses | None = None,
    ) -> list[FastReport | None]:
        """Learn as `learn`; the settings say what becomes of chunks that the model made itself (`own`)."""
        ...

    def before(
        self,
        memory: Any,
        pair: Float[Tensor, "1 c t h w"],
        action: str,
        poses: Float64[Tensor, "n 4"] | None = None,
    ) -> Float[Tensor, " p"]:
        """What a slow step on the next pair needs of the memory as it is now, as a row of numbers."""
        ...

    def activate(
        self, rows: Float[Tensor, "b p"] | None, latents: Float[Tensor, "b c t h w"]
    ) -> None:
        """Hand rows of `before` to the denoiser until the next call; None: no memory."""
        ...

    def check_pairs(self, memory: Any, expected: tuple[int, ...]) -> None:
        """Refuse a memory that cannot go on with pairs of this size (channels, frames, height, width)."""
        ...

    def store(self, memory: Any) -> Any:
        """A copy of a memory, for a file."""
        ...

    def restore(self, stored: Any) -> Any:
        """Take up a stored episode where it was left."""
        ...

    def lend(self, memory: Any, to: Any) -> Any:
        """A copy of what a memory has learned, for the episode of another and its place in it.

        Args:
            memory: stays as it is.
            to: whose episode goes on with the copy; itself, for a copy to go on with.
        """
        ...

    def num_bytes(self) -> int:
        """Bytes of one memory."""
        ...
