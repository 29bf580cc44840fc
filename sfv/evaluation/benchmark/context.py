"""Other contexts than the newest f_p frames: a longer one, or one with a past chunk found by its pose.

Both only choose other frames for the same Φ, which was trained with f_p of them. They are the baselines
without learning, and may be joined with a Θ that has learned before.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.settings import FastSettings
from sfv.generation.chunk_sampler import ChunkSampler
from sfv.models.world_model import WorldModel
from sfv.types import Precision

Pick = Callable[[int], Sequence[int]]
"""From the number of frames so far to the frames of the context, in order."""

FORWARD_AND_BACKWARD = 3
"""Cost of a training step in forward passes: the backward pass counts twice."""


def bought_frames(world: WorldModel, sampler: SamplerSettings, fast: FastSettings) -> int:
    """Context frames that cost as much as fast learning does, at every sampling step of a chunk.

    Counted in frames that pass the denoiser; that attention over time grows faster is left out.
    """
    probes = (2 if fast.guard is None else 3) * fast.probe_draws
    steps = FORWARD_AND_BACKWARD * fast.num_steps * fast.draws_per_step
    learning = (steps + probes) * (world.num_context + world.num_generated)
    calls = sampler.steps(world.schedule) * (1 if sampler.guidance_scale == 1 else 2)
    return learning // calls


def long_context(num_context: int, bought: int) -> Pick:
    """The newest frames: f_p and as many more as were bought and exist."""
    return lambda now: range(max(0, now - num_context - bought), now)


def retrieval(
    poses: Sequence[tuple[float, float, float, float]], num_context: int, num_generated: int
) -> Pick:
    """The past chunk whose poses come nearest to those of the chunk to make, then the newest f_p frames.

    Args:
        poses: of every frame of the episode, also those to come: the actions tell them.
        num_context: f_p.
        num_generated: f_g, also the length of the past chunk.
    """
    apart = pose_distances(np.asarray(poses, dtype=np.float64))

    def pick(now: int) -> Sequence[int]:
        newest = range(now - num_context, now)
        starts = range(now - num_context - num_generated + 1)
        if not len(starts):
            return newest
        to_make = slice(now, now + num_generated)
        costs = [apart[to_make, s : s + num_generated].min(axis=1).mean() for s in starts]
        best = int(np.argmin(costs))
        return [*range(best, best + num_generated), *newest]

    return pick


def pose_distances(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances `t t` between poses: way plus turn, each in units of the walk's typical frame."""
    way = np.linalg.norm(poses[:, None, :3] - poses[None, :, :3], axis=2)
    turn = np.abs((poses[:, None, 3] - poses[None, :, 3] + 180) % 360 - 180)
    return np.asarray(way / _typical(way) + turn / _typical(turn))


def _typical(distances: NDArray[np.float64]) -> float:
    """Median change from one frame to the next where there is any; 1 where there never is."""
    steps = np.diagonal(distances, 1)
    moving = steps[steps > 0]
    return float(np.median(moving)) if len(moving) else 1.0


class ContextRollout:
    """Generates chunk after chunk, each after the frames that `pick` chooses; noise as `Rollout`'s.

    Args:
        world: Φ and what goes with it.
        sampler: how chunks are sampled.
        seed: names the sampling noise.
        precision: arithmetic.
    """

    def __init__(
        self, world: WorldModel, sampler: SamplerSettings, seed: int, precision: Precision
    ) -> None:
        self._sampler = ChunkSampler(world, sampler, seed, precision)

    def run(
        self,
        episode: str,
        past: Float[Tensor, "1 c t h w"],
        actions: Sequence[str],
        first_chunk: int,
        pick: Pick,
    ) -> Float[Tensor, "1 c t2 h w"]:
        """Go on from `past`, which is kept whole.

        Args:
            episode: names the noise.
            past: everything so far.
            actions: one a chunk.
            first_chunk: place of the first chunk to make in the episode.
            pick: chooses the context.

        Returns:
            the new frames.
        """
        given = past.shape[2]
        for i, action in enumerate(actions):
            chosen: Int[Tensor, " n"] = torch.tensor(list(pick(past.shape[2])))
            new = self._sampler(past[:, :, chosen], [action], [(episode, first_chunk + i)])
            past = torch.cat([past, new], dim=2)
        return past[:, :, given:]
