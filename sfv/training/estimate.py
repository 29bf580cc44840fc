"""`sfv estimate`: memory, compute and days of a config of `sfv fit`, found without a GPU, data or weights."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sfv.training.plan import Plan, read_plan
from sfv.training.trace import Peak, SlowTrace, fake, trace_slow
from sfv.training.trace_fast import FastTrace, replaying, trace_fast

Strategy = Literal["ddp", "fsdp"]
_GIB = 2**30
_DAY = 86400


@dataclass(frozen=True)
class Estimate:
    """What one GPU of a run needs.

    Args:
        plan: the config.
        slow: one slow micro-batch.
        fast: learning one chunk pair; None without the loop.
        gpus: processes, one GPU each.
        strategy: how Φ is kept: whole on every GPU, or in shards.
    """

    plan: Plan
    slow: SlowTrace
    fast: FastTrace | None
    gpus: int
    strategy: Strategy

    def kept(self) -> dict[str, int]:
        """Bytes on a GPU from one step to the next."""
        slow, shards = self.slow, self.gpus if self.strategy == "fsdp" else 1
        untrained = slow.parameters - slow.trained
        rows = {
            "weights Φ": slow.trained // shards + untrained,
            "optimiser": slow.optimizer // shards,
            "average of weights": slow.other // shards,
            "frozen codec and text": self.plan.frozen,
        }
        return {name: size for name, size in rows.items() if size > 2**20}

    def phases(self) -> dict[str, dict[str, int]]:
        """Bytes of each phase at its largest moment, on top of what is kept."""
        slow = self.slow
        phases = {
            "slow step": self._phase(slow.backward, self._gathered(slow.block)),
            "update": self._phase(slow.update, {}),
        }
        if self.fast is not None:
            whole = self._gathered(slow.trained) if self.strategy == "fsdp" else {}
            gradients = self._gradients(slow.trained)  # of the last slow step: freed in the next
            phases["fast step"] = {**gradients, "Θ and activations": self.fast.working, **whole}
        return phases

    def peak(self) -> int:
        """Bytes at the largest moment of all."""
        return sum(self.kept().values()) + max(sum(p.values()) for p in self.phases().values())

    def replay(self) -> int:
        """Bytes of main memory, a process, for the Θ of one group's chunk pairs."""
        loop = self.plan.slow_fast
        if loop is None or self.fast is None:
            return 0
        return loop.episodes_per_group * (loop.max_chunks or self.num_chunks) * self.fast.theta

    num_chunks: int = 10
    """Chunk pairs of an episode where the config takes all."""

    def flops(self) -> int:
        """Of a slow step on each GPU, with the fast steps that come before it."""
        flops = self.slow.flops * self.plan.accumulate
        if self.fast is not None and self.plan.slow_fast is not None:
            fast = self.fast.flops(self.plan.slow_fast.fast.num_steps)
            flops += fast * self.plan.accumulate
        return flops

    def days(self, peak: float | int, utilisation: float | int) -> float:
        """Of the whole run.

        Args:
            peak: TFLOP/s of a GPU.
            utilisation: share of it that is reached, 0 to 1.
        """
        steps = int(self.plan.config.trainer.max_steps)
        return steps * self.flops() / (peak * 1e12 * utilisation) / _DAY

    def _phase(self, peak: Peak, gathered: dict[str, int]) -> dict[str, int]:
        slow = self.slow
        kept = slow.parameters + slow.optimizer + slow.other
        working = peak.total - peak.gradients - kept
        if self.strategy == "fsdp" and not gathered:
            working //= self.gpus  # the update touches shards alone
        name = "activations" if gathered or self.strategy == "ddp" else "scratch"
        return {**self._gradients(peak.gradients), name: working, **gathered}

    def _gradients(self, size: int) -> dict[str, int]:
        if self.strategy == "fsdp":
            return {"gradients": size // self.gpus}
        bucketed = self.gpus > 1  # DDP copies gradients into buckets that stay
        rows = {"gradients": size}
        return {**rows, "DDP's buckets": self.slow.trained} if bucketed else rows

    def _gathered(self, size: int) -> dict[str, int]:
        if self.strategy == "ddp":
            return {}
        # The block at hand, the next one on its way, and the first one's gradient.
        return {"gathered blocks": 3 * size if size == self.slow.block else size}
