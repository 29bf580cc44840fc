"""The rule that learns from the whole episode: a bounded, uniform sample of all earlier pairs."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfv import rng
from sfv.fast.memory import Memory


def replayed(
    memory: Memory, pair: Float[Tensor, "1 c t h w"], num: int, seed: int, step: int
) -> Float[Tensor, "n c t h w"]:
    """Draw a pair for each of `num` noise draws, from those kept and the newest."""
    generator = rng.stream(seed, "fast-replay", memory.episode, memory.num_chunks, step)
    known = [*memory.history, pair]
    chosen = torch.randint(len(known), (num,), generator=generator)
    return torch.cat([known[int(i)] for i in chosen])


def remember(memory: Memory, pair: Float[Tensor, "1 c t h w"], capacity: int, seed: int) -> None:
    """Keep the pair, or not: every pair so far is among the `capacity` kept with equal chance.

    Reservoir sampling (Vitter, 1985, algorithm R).
    """
    if len(memory.history) < capacity:
        memory.history.append(pair)
        return
    generator = rng.stream(seed, "fast-reservoir", memory.episode, memory.num_chunks)
    place = int(torch.randint(memory.num_chunks + 1, (), generator=generator))
    if place < capacity:
        memory.history[place] = pair


def every_other_backward(
    latents: Float[Tensor, "e n c t h w"], before: int
) -> Float[Tensor, "e n c t h w"]:
    """Turn every other draw around in time.

    Args:
        latents: of draws.
        before: draws that came earlier; the very first draw is not turned.
    """
    draws = torch.arange(before, before + latents.shape[1], device=latents.device)
    return torch.where((draws % 2 == 1).view(1, -1, 1, 1, 1, 1), latents.flip(3), latents)
