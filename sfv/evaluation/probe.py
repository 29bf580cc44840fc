"""Does Θ hold its episode? Its denoising loss on the episode's frames, on another's, and without Θ.

A memory that has merely adapted to the world helps with any episode. One that holds its own
episode helps with that one more. The noise belongs to the probed frames alone, so the losses with
and without Θ, and with another Θ, differ in nothing but Θ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.diffusion.objective import masked_conditional_loss
from sfv.fast.learner import FastLearner
from sfv.fast.memory import Memory
from sfv.fast.modes import autocast, frozen


@dataclass(frozen=True)
class ProbedEpisode:
    """The chunk pairs of one episode.

    Args:
        name: names its noise.
        pairs: context and generated latents of each chunk, joined in time.
        actions: one a pair.
    """

    name: str
    pairs: Float[Tensor, "n c t h w"]
    actions: Sequence[str]


@dataclass(frozen=True)
class ProbeLosses:
    """Losses of one memory, each a mean over pairs and noise.

    Attributes:
        own: on the frames of its own episode.
        other: on the frames of the other one.
        base_own: on its own frames without Θ (with the learned start, where there is one).
        base_other: on the other frames without Θ.
    """

    own: float
    other: float
    base_own: float
    base_other: float

    @property
    def gain_own(self) -> float:
        """Share of the loss on its own frames that Θ takes away; below 0 it harms."""
        return 1 - self.own / self.base_own

    @property
    def gain_other(self) -> float:
        """The same on the other episode's frames: what is adaptation, not memory."""
        return 1 - self.other / self.base_other

    @property
    def held(self) -> float:
        """`gain_own - gain_other`: above 0, Θ holds its episode."""
        return self.gain_own - self.gain_other


def learn_episode(learner: FastLearner, episode: ProbedEpisode) -> Memory:
    """Learn an episode's pairs one after the other, as a rollout with its truth shown does."""
    memory = learner.fresh(episode.name)
    for pair, action in zip(episode.pairs, episode.actions, strict=True):
        learner.learn([memory], pair[None], [action])
    return memory


@torch.no_grad()
def probe_loss(
    learner: FastLearner, theta: Float[Tensor, " p"] | None, episode: ProbedEpisode, num_draws: int
) -> float:
    """Mean loss of the learner's own rule on an episode's pairs, on noise fixed by the episode.

    Noise levels lie evenly over the range that the learner draws from, so that few draws suffice.

    Args:
        learner: its denoiser, schedule and rule are used; nothing is learned.
        theta: Θ; None leaves it out.
        episode: whose frames are probed.
        num_draws: noise levels a pair.

    Raises:
        ValueError: no pairs, or no draws.
    """
    if not len(episode.pairs) or num_draws < 1:
        raise ValueError(
            f"a probe of episode {episode.name!r} with {len(episode.pairs)} pairs and {num_draws} "
            "noise draws; give at least one of each"
        )
    rule = learner.rule
    with torch.inference_mode(False), frozen(learner.denoiser):
        total = 0.0
        device = next(learner.denoiser.parameters()).device
        given = None if theta is None else theta[None].to(device)
        for i, (pair, action) in enumerate(zip(episode.pairs, episode.actions, strict=True)):
            latents = pair[None].expand(num_draws, -1, -1, -1, -1).to(device, copy=True)
            generator = rng.stream(learner.seed, "memory-probe", episode.name, i)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            text = learner.text([action if rule.uses_action else ""])
            with learner.weights.use(given), autocast(latents.device, learner.precision):
                losses = masked_conditional_loss(
                    learner.denoiser,
                    latents,
                    text.expand(num_draws, -1, -1),
                    noise,
                    _levels(learner, num_draws).to(latents.device),
                    learner.num_context if rule.clean_context else 0,
                    learner.schedule,
                )
            total += float(losses.mean())
    return total / len(episode.pairs)


def probe_memories(
    learner: FastLearner,
    memories: Sequence[Memory],
    episodes: Sequence[ProbedEpisode],
    num_draws: int = 4,
) -> list[ProbeLosses]:
    """Probe every memory on its own episode and on the next one's (the last: on the first one's).

    Args:
        learner: what made the memories.
        memories: one an episode.
        episodes: of the memories, at least two; neighbours must be different episodes.
        num_draws: noise levels a pair.

    Raises:
        ValueError: fewer than two episodes, or not one memory for each.
    """
    if len(episodes) < 2 or len(memories) != len(episodes):
        raise ValueError(
            f"{len(memories)} memories and {len(episodes)} episodes; a probe compares each memory with "
            "another episode, so give at least two, and one memory for each"
        )
    base = [probe_loss(learner, learner.start, episode, num_draws) for episode in episodes]
    found = []
    for i, memory in enumerate(memories):
        j = (i + 1) % len(episodes)
        own, other = (probe_loss(learner, memory.theta, episodes[k], num_draws) for k in (i, j))
        found.append(ProbeLosses(own, other, base[i], base[j]))
    return found


def _levels(learner: FastLearner, num: int) -> Tensor:
    """Timesteps in the middle of `num` equal parts of the learner's range."""
    low, high = learner.settings.low, learner.settings.high
    steps = learner.schedule.num_train_timesteps
    shares = [low + (high - low) * (i + 0.5) / num for i in range(num)]
    places = torch.tensor([min(steps - 1, round(share * steps)) for share in shares])
    return learner.schedule.timestep_at(places)
