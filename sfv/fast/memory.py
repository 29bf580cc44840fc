"""A memory: Θ of one episode, with all that its learning and its rollout go on from."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.fast.settings import FastOptimizer

_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class Exam:
    """One pair of each episode to learn or to be measured on.

    Args:
        pairs: context and generated latents, joined in time.
        actions: one an episode.
        chunk_idx: the pairs' places in their episodes, which name their noise.
    """

    pairs: Float[Tensor, "e c t h w"]
    actions: list[str]
    chunk_idx: list[int]


@dataclass(frozen=True)
class FirstPair:
    """The first pair that an episode learned, which the guard goes on watching.

    Args:
        latents: the pair.
        action: what leads from its context to its generated frames.
        chunk_idx: its place in the episode.
        loss: on held-out noise, before the pair was learned.
    """

    latents: Float[Tensor, "1 c t h w"]
    action: str
    chunk_idx: int
    loss: float


@dataclass(eq=False)
class Memory:
    """The state of one episode; fast learning changes it in place.

    Args:
        episode: names the episode's random streams.
        theta: Θ, in fp32 whatever the denoiser's precision is.
        optimizer: of `theta` alone.
        num_chunks: chunk pairs learned so far; with `episode` it is the position in all random streams.
        context: the newest frames, which the next chunk follows; None outside a rollout.
        history: earlier pairs, where the rule replays them.
        first: what the guard watches; None where it is not asked to.
        undone_in_row: chunks that the guard undid one after another, up to now; see `is_stuck`.
    """

    episode: str
    theta: Float[Tensor, " p"] = field(repr=False)
    optimizer: torch.optim.Optimizer = field(repr=False)
    num_chunks: int = 0
    context: Tensor | None = field(default=None, repr=False)
    history: list[Tensor] = field(default_factory=list, repr=False)
    first: FirstPair | None = field(default=None, repr=False)
    undone_in_row: int = 0

    def optimizer_state(self) -> dict[str, Tensor]:
        """A copy of what the optimiser has gathered; empty before the first step."""
        state = self.optimizer.state.get(self.theta, {})
        return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}

    @torch.no_grad()
    def put_back(self, theta: Float[Tensor, " p"], optimizer_state: dict[str, Tensor]) -> None:
        """Return Θ and the optimiser to an earlier state."""
        self.theta.copy_(theta)
        self.optimizer.state.pop(self.theta, None)
        if optimizer_state:
            self.optimizer.state[self.theta] = dict(optimizer_state)

    def is_stuck(self, undone: bool, limit: int) -> bool:
        """Count a chunk; whether the guard has undone this many in a row, then the count begins anew.

        Args:
            undone: the guard undid it.
            limit: `FastSettings.reset_after`.
        """
        count = self.undone_in_row + 1 if undone else 0
        self.undone_in_row = count % limit
        return count >= limit

    def extras(self) -> dict[str, Tensor]:
        """Everything beside Θ that going on needs, on the CPU."""
        found = {f"{_OPTIMIZER}{name}": value for name, value in self.optimizer_state().items()}
        if self.context is not None:
            found["context"] = self.context
        if self.first is not None:
            found["first.latents"] = self.first.latents
            found["first.action"] = torch.tensor(
                list(self.first.action.encode()), dtype=torch.uint8
            )
            found["first.chunk_idx"] = torch.tensor(self.first.chunk_idx)
            found["first.loss"] = torch.tensor(self.first.loss, dtype=torch.float64)
        if self.undone_in_row:
            found["undone_in_row"] = torch.tensor(self.undone_in_row)
        if self.history:
            found["history"] = torch.cat(self.history)
        return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}

    def restore(self, extras: dict[str, Tensor]) -> None:
        """Take over what `extras` gave."""
        device = self.theta.device
        optimizer_state = {
            name.removeprefix(_OPTIMIZER): value.to("cpu" if name.endswith("step") else device)
            for name, value in extras.items()
            if name.startswith(_OPTIMIZER)
        }
        self.put_back(self.theta, {name: v.clone() for name, v in optimizer_state.items()})
        self.context = extras["context"].to(device) if "context" in extras else None
        self.history = (
            list(torch.split(extras["history"].to(device), 1)) if "history" in extras else []
        )
        self.undone_in_row = int(extras.get("undone_in_row", 0))
        if "first.latents" in extras:
            self.first = FirstPair(
                extras["first.latents"].to(device),
                bytes(extras["first.action"].tolist()).decode(),
                int(extras["first.chunk_idx"]),
                float(extras["first.loss"]),
            )


def make_optimizer(
    kind: FastOptimizer, theta: Float[Tensor, " p"], learning_rate: float
) -> torch.optim.Optimizer:
    """The optimiser of one Θ."""
    match kind:
        case "adam":
            return torch.optim.Adam([theta], lr=learning_rate)
        case "sgd":
            return torch.optim.SGD([theta], lr=learning_rate)
