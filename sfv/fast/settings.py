"""How Θ learns: numbers, and the rules of the paper's ablations."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.fast.temporal_lora import LoRAInit, TemporalLoRA
from sfv.types import FastWeights, LoRATargets

FastOptimizer = Literal["adam", "sgd"]
UpdateRule = Literal[
    "pair", "text_style", "whole_history", "single_frame", "both_ways", "clean_context", "retrace"
]
"""What Θ learns from: see `RULES`."""
_ALPHA = "alpha"


@dataclass(frozen=True)
class Rule:
    """One update rule; the learner has one code path for all.

    Args:
        clean_context: the context stays clean and only the generated frames are supervised.
        uses_action: the action is given; otherwise "no text".
        replays: each noise draw takes its pair from the whole episode so far.
        context_frames: frames of context kept, for generating as for learning; None keeps f_p.
        both_ways: every other noise draw sees the pair backward in time.
    """

    clean_context: bool = False
    uses_action: bool = False
    replays: bool = False
    context_frames: int | None = None
    both_ways: bool = False


RULES: dict[UpdateRule, Rule] = {
    # The paper's (eq. 3): both chunks noised and supervised, no action, the newest pair alone.
    "pair": Rule(),
    # Temp-LoRA as for text: an input, an output, and the action that leads from one to the other.
    "text_style": Rule(clean_context=True, uses_action=True),
    # "No local rule": learns from all chunks so far.
    "whole_history": Rule(replays=True),
    # "No chunk input": one frame of context.
    "single_frame": Rule(context_frames=1),
    # Ours: who walks back sees the way out in reverse.
    "both_ways": Rule(both_ways=True),
    # Ours: the network learns in the state in which it samples.
    "clean_context": Rule(clean_context=True),
    # Ours: both at once.
    "retrace": Rule(clean_context=True, both_ways=True),
}
"""The rows of the paper's Table 4, and one of ours; its last row, no fast learning, is a rollout without a
learner."""


@dataclass(frozen=True)
class FastSettings:
    """How Θ learns. What the paper leaves open is listed in `CHOICES.md`.

    Args:
        num_steps: K, fast gradient steps a chunk.
        learning_rate: α (paper: 1e-4 with Adam at full size).
        draws_per_step: noise draws averaged in one fast step; they share one forward pass.
        low: lower end of the noise levels drawn, as a fraction of the schedule.
        high: upper end, as a fraction; 1.0 is pure noise.
        keep_optimizer: keep the optimiser's state over the chunks of an episode.
        probe_draws: fixed held-out noise draws that measure `fast/gain`; 0 measures nothing.
        optimizer: `adam` (the paper's) or `sgd` (plain, keeps no state).
        rule: what Θ learns from: `pair` is the paper's, the others are its ablations.
        history: earlier pairs that `whole_history` keeps, a uniform sample of the episode so far.
        guard: learning one chunk is undone if held-out noise says that it made the loss larger by more
            than this share: on the pair it learned, or on the episode's first pair against the loss
            before all learning. Losses that are no numbers undo it too, also where nothing is probed.
            None lets everything pass.
        reset_after: where the guard undid this many chunks in a row, Θ goes back to Θ_0: what it had
            learned before is worth nothing any more where no update improves on it. None: never.
        activation_checkpointing: the backward pass computes layers again instead of keeping what it needs:
            much less memory for one more forward pass a step; changes no number.
        own_chunks: learn also the chunks that the model made itself (Algorithm 1a). False learns only
            frames that were shown: a true way out, what an agent sees; an open rollout learns nothing.
    """

    num_steps: int = 2
    learning_rate: float = 1e-4
    draws_per_step: int = 1
    low: float = 0.0
    high: float = 1.0
    keep_optimizer: bool = True
    probe_draws: int = 1
    optimizer: FastOptimizer = "adam"
    rule: UpdateRule = "pair"
    history: int = 16
    guard: float | None = 0.1
    reset_after: int | None = None
    activation_checkpointing: bool = False
    own_chunks: bool = True

    def __post_init__(self) -> None:
        for name, given, allowed in (
            ("rule", self.rule, tuple(RULES)),
            ("optimizer", self.optimizer, get_args(FastOptimizer)),
        ):
            if given not in allowed:
                raise ValueError(
                    f"fast learning got {name}={given!r}; allowed: {', '.join(allowed)}"
                )
        if self.num_steps < 0 or self.draws_per_step < 1 or self.probe_draws < 0:
            raise ValueError(
                f"fast learning got num_steps={self.num_steps}, draws_per_step={self.draws_per_step}, "
                f"probe_draws={self.probe_draws}; allowed: num_steps >= 0, draws_per_step >= 1, "
                "probe_draws >= 0"
            )
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(
                f"fast learning got the noise range low={self.low}, high={self.high}; "
                "allowed: 0 <= low < high <= 1"
            )
        if not 0 < self.learning_rate < inf or self.history < 1:
            raise ValueError(
                f"fast learning got learning_rate={self.learning_rate}, history={self.history}; "
                "allowed: learning_rate > 0, history >= 1"
            )
        if self.guard is not None and not 0 <= self.guard < inf:
            raise ValueError(
                f"fast learning got guard={self.guard}; allowed: 0 or more (0.1 lets a loss grow by "
                "a tenth), or null for none"
            )
        if self.reset_after is not None and self.reset_after < 1:
            raise ValueError(
                f"fast learning got reset_after={self.reset_after}; allowed: 1 or more, or null for never"
            )


@dataclass(frozen=True)
class LoRASettings:
    """The shape of Θ.

    Args:
        r: rank (paper: 32).
        alpha: scale; Θ's update is multiplied by alpha / r.
        targets: which layers carry Θ.
        init: how its A is drawn; B starts at zero.
    """

    r: int = 32
    alpha: float = 32.0
    targets: LoRATargets = "temporal"
    init: LoRAInit = "kaiming"

    def adapt(self, denoiser: Any) -> TemporalLoRA:
        """Put the place for such a Θ into a denoiser."""
        return TemporalLoRA(denoiser, self.r, self.alpha, self.targets, self.init)

    def state(self, weights: FastWeights, start: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """A learned Θ_0 as a world model keeps it: its scale belongs to it."""
        return {**weights.state(start), _ALPHA: torch.tensor(float(self.alpha))}

    def theta(self, weights: FastWeights, start: Mapping[str, Tensor]) -> Float[Tensor, " p"]:
        """The learned Θ_0 that a world model keeps.

        Raises:
            ValueError: it was learned with another shape or scale than this.
        """
        if float(start[_ALPHA]) != self.alpha:
            raise ValueError(
                f"the model's learned start of memories has alpha = {float(start[_ALPHA])}, but lora.alpha "
                f"is {self.alpha}; set it to that"
            )
        return weights.theta({name: value for name, value in start.items() if name != _ALPHA})
