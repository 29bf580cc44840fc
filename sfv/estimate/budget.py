"""From traces to a budget: bytes of one GPU by strategy, and the compute of a run."""

from dataclasses import dataclass
from typing import Literal

from sfv.estimate.config import Plan
from sfv.estimate.trace_fast import FastTrace
from sfv.estimate.trace_slow import Peak, SlowTrace

Strategy = Literal["ddp", "fsdp"]
Rows = dict[str, int]


@dataclass(frozen=True)
class Budget:
    """What one GPU of a run needs, in bytes.

    Args:
        plan: the config.
        slow: one slow micro-batch.
        fast: learning one chunk pair of some episodes; None without the loop.
        gpus: processes, one GPU each.
        strategy: Φ whole on every GPU (`ddp`), or in shards (`fsdp`).
        chunks: chunk pairs of an episode, where the config takes all of them.
    """

    plan: Plan
    slow: SlowTrace
    fast: FastTrace | None
    gpus: int
    strategy: Strategy
    chunks: int = 10

    def kept(self) -> Rows:
        """What stays from one slow step to the next."""
        slow, shards = self.slow, self._shards
        rows = {
            "weights": slow.trained // shards + slow.parameters - slow.trained,
            "optimiser state": slow.optimizer // shards,
            "average of the weights, batch": slow.other // shards,
            "frozen codec and text encoder": self.plan.frozen,
            "DDP's copy of the gradients": 0 if self._is_sharded else self._buckets,
        }
        return {name: size for name, size in rows.items() if size}

    def phases(self) -> dict[str, Rows]:
        """What each phase needs besides, at its largest moment."""
        phases = {"slow step": self._slow_step(), "update": self._update()}
        if self.fast is not None:
            phases["fast step"] = {
                "gradients": self.slow.trained // self._shards,  # freed in the next slow step
                "Θ, its optimiser, activations": self.fast.working,
                # Ranks take different numbers of fast steps, so Φ is gathered for all of them.
                "gathered weights": self.slow.trained if self._is_sharded else 0,
            }
        return phases

    def largest(self) -> str:
        """The phase that decides the peak."""
        phases = self.phases()
        return max(phases, key=lambda name: sum(phases[name].values()))

    def peak(self) -> int:
        """Bytes at the largest moment of all."""
        return sum(self.kept().values()) + sum(self.phases()[self.largest()].values())

    def replay(self) -> int:
        """Bytes of main memory, a process, for the Θ of one group's chunk pairs."""
        loop = self.plan.slow_fast
        if loop is None or self.fast is None:
            return 0
        theta = {"float32": self.fast.theta, "bfloat16": self.fast.theta // 2, "disk": 0}
        pairs = loop.episodes_per_group * (loop.max_chunks or self.chunks)
        return pairs * theta[loop.theta_store]

    def flops(self) -> int:
        """Of one slow step on each GPU, with the fast learning of its chunk pairs."""
        loop = self.plan.slow_fast
        fast = 0
        if self.fast is not None and loop is not None:
            fast = self.fast.flops(loop.fast.num_steps)
        return (self.slow.flops + fast) * self.plan.accumulate

    def hours(self, peak: float | int, utilisation: float | int) -> float:
        """Of the whole run, without loading, validation and checkpoints.

        Args:
            peak: TFLOP/s of a GPU.
            utilisation: the share of it that is reached, 0 to 1.
        """
        return self.plan.max_steps * self.flops() / (peak * 1e12 * utilisation) / 3600

    @property
    def _is_sharded(self) -> bool:
        return self.strategy == "fsdp"

    @property
    def _shards(self) -> int:
        return self.gpus if self._is_sharded else 1

    @property
    def _buckets(self) -> int:
        return self.slow.trained if self.gpus > 1 else 0

    def _slow_step(self) -> Rows:
        peak = self.slow.backward
        return {
            "gradients": peak.gradients // self._shards,
            "activations": self._working(peak),
            # The block at hand, the next one, which is on its way, and a whole gradient.
            "gathered weights": 3 * self.slow.block if self._is_sharded else 0,
        }

    def _update(self) -> Rows:
        peak = self.slow.update
        return {
            "gradients": peak.gradients // self._shards,
            "scratch of the optimiser": self._working(peak) // self._shards,
        }

    def _working(self, peak: Peak) -> int:
        """What a phase needs on top of gradients and of what is kept."""
        slow = self.slow
        return peak.total - peak.gradients - slow.parameters - slow.optimizer - slow.other
