"""Fast learning of one chunk pair on tensors without memory: what it needs besides what is there anyway."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from sfv.estimate.trace_slow import Meter
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import ReplayMemory, SlowFastSettings, make_learner


@dataclass(frozen=True)
class FastTrace:
    """Learning one chunk pair of each of some episodes together, in bytes.

    Args:
        episodes: that learn in one batch.
        theta: one Θ in float32.
        num_layers: layers that Θ acts on.
        working: peak, on top of Φ and its optimiser: all Θ, their optimisers, activations.
        flops_step: of one fast step on one pair of one episode.
        flops_probe: of the forward passes on held-out noise around them.
    """

    episodes: int
    theta: int
    num_layers: int
    working: int
    flops_step: int
    flops_probe: int

    def flops(self, num_steps: int) -> int:
        """To learn one pair with K = `num_steps`."""
        return self.flops_probe + num_steps * self.flops_step


def trace_fast(
    learner: SlowLearner, settings: SlowFastSettings, latents: tuple[int, int, int, int]
) -> FastTrace:
    """Learn pairs as the loop does, and measure once the optimisers and the guard have their state.

    Args:
        learner: as it is in the loop.
        settings: of the loop.
        latents: c, t, h, w of a pair.
    """
    num = min(settings.episodes_at_once or settings.episodes_per_group, settings.episodes_per_group)
    with settings.lora.adapt(learner.denoiser) as lora:
        meter, flops = Meter(), []
        for tensor in (*learner.parameters(), *learner.buffers()):
            meter.add(tensor.data)
        before = meter.live
        with meter:
            memories: list[Any] = []
            for num_steps in (1, 1, 0):
                fast = make_learner(
                    learner,
                    lora,
                    replace(settings, fast=replace(settings.fast, num_steps=num_steps)),
                )
                memories = memories or [fast.fresh(f"episode {i}") for i in range(num)]
                started = meter.flops
                fast.learn(memories, torch.zeros(num, *latents), ["walk"] * num)
                flops.append((meter.flops - started) // num)
        return FastTrace(
            num,
            4 * lora.num_weights,
            len(lora.layers),
            meter.peak - before,
            flops[1] - flops[2],
            flops[2],
        )


@contextmanager
def replaying(learner: SlowLearner, settings: SlowFastSettings) -> Iterator[tuple[Any, int]]:
    """Inside, slow steps run with a Θ as in the loop: gives the callback for it, and the numbers in Θ."""
    with settings.lora.adapt(learner.denoiser) as lora:
        yield ReplayMemory(make_learner(learner, lora, settings)), lora.num_weights
