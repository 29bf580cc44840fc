"""Settings of the slow-fast loop; what each does is told in `docs/slow_fast_loop.md`."""

from dataclasses import dataclass, field
from typing import Literal

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.addressed_learner import AddressedSettings
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.training.replay import ReplayOrder, ThetaStore
from sfv.types import MemoryKind, Precision

InnerPairs = Literal["true", "generated"]
MemoryScope = Literal["episode", "scene"]
MemoryStart = Literal["fresh", "learned"]


@dataclass(frozen=True)
class SlowFastSettings:
    """The slow-fast loop (Algorithm 1b).

    Args:
        episodes_per_group: episodes in one fast phase, on each rank; at least 1.
        max_chunks: chunk pairs taken of each episode, from its start; at least 1, None takes all.
        memory: what the inner phase teaches: `temp_lora`, the paper's Θ by gradient steps, or `addressed`,
            written in closed form and read by pose, which needs `model.address`.
        addressed: how an addressed memory is written.
        lora: the shape of Θ.
        fast: how Θ learns.
        precision: arithmetic of the fast steps.
        seed: names the random streams.
        episodes_at_once: episodes of a group that learn in one batch, each its own Θ; at least 1, None
            takes the whole group. Fewer need less memory; numbers agree up to rounding.
        slow_batch_size: replay items of a slow batch, each with its own Θ_i; at least 1.
        inner_pairs: what Θ learns from: the `true` chunks, or the true context with the chunk that the
            model with Θ_i `generated` from it. The slow step is on the true pair in both cases.
        sampler: how `generated` chunks are sampled.
        replay_order: of the slow steps: `shuffled`, or `chronological`: episode by episode as learned.
        theta_store: how a Θ_i waits for its slow step: in RAM as `float32` or `bfloat16` (half of it,
            rounded), or on `disk` (exact; RAM holds one batch of them).
        memory_scope: what shares a Θ: the chunks of an `episode`, or all episodes of a group that have
            the same `scene`, which learn it one after the other (several episodes of one task).
        plain_share: share of slow batches that are trained without Θ, on the same pairs: ordinary slow
            learning mixed in. 0 to 1; which they are is drawn for each batch.
        start: Θ_0 of an episode: `fresh` (the base model exactly), or `learned`: one start for all, moved
            after each group by meta_learning_rate times the mean of Θ_end - Θ_0 (Reptile).
        meta_learning_rate: of the learned start; above 0, at most 1.
        keep_replays: so many of the newest checkpoints can be resumed from if they were made inside a
            slow phase; at least 2.
    """

    episodes_per_group: int = 2
    max_chunks: int | None = None
    memory: MemoryKind = "temp_lora"
    addressed: AddressedSettings = field(default_factory=AddressedSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    precision: Precision = "32"
    seed: int = 0
    episodes_at_once: int | None = None
    slow_batch_size: int = 1
    inner_pairs: InnerPairs = "true"
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    replay_order: ReplayOrder = "shuffled"
    theta_store: ThetaStore = "float32"
    memory_scope: MemoryScope = "episode"
    plain_share: float | int = 0.0
    start: MemoryStart = "fresh"
    meta_learning_rate: float | int = 0.1
    keep_replays: int = 2

    def __post_init__(self) -> None:
        if self.episodes_per_group < 1 or (self.max_chunks is not None and self.max_chunks < 1):
            raise ValueError(
                f"the slow-fast loop got episodes_per_group={self.episodes_per_group}, "
                f"max_chunks={self.max_chunks}; allowed: episodes_per_group >= 1, max_chunks >= 1 or "
                "null"
            )
        if self.episodes_at_once is not None and self.episodes_at_once < 1:
            raise ValueError(
                f"the slow-fast loop got episodes_at_once={self.episodes_at_once}; allowed: 1 or more, or "
                "null for the whole group"
            )
        if self.slow_batch_size < 1 or self.keep_replays < 2:
            raise ValueError(
                f"the slow-fast loop got slow_batch_size={self.slow_batch_size}, "
                f"keep_replays={self.keep_replays}; allowed: slow_batch_size >= 1, keep_replays >= 2 "
                "(the newest checkpoint, and the one before it while that is being written)"
            )
        if self.memory == "addressed" and (self.start, self.memory_scope) != ("fresh", "episode"):
            raise ValueError(
                f"the slow-fast loop got start={self.start}, memory_scope={self.memory_scope} with an "
                "addressed memory; allowed: fresh, episode: it has no Θ_0, and its poses are relative to "
                "the beginning of one episode"
            )
        if not 0 <= self.plain_share <= 1 or not 0 < self.meta_learning_rate <= 1:
            raise ValueError(
                f"the slow-fast loop got plain_share={self.plain_share}, "
                f"meta_learning_rate={self.meta_learning_rate}; allowed: 0 <= plain_share <= 1, "
                "0 < meta_learning_rate <= 1"
            )
