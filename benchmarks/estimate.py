"""How exact `sfv estimate` is: its peak of live bytes against what PyTorch's profiler saw in the real step.

    OMP_NUM_THREADS=1 python -m benchmarks.estimate --json FILE

Every row trains two slow steps, or lets Θ learn three chunk pairs, twice: on tensors without memory, and on
real ones on this CPU. The profiler reads the allocator, so it also sees what kernels need inside.
"""

import argparse
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.side_by_side import machine
from sfv.estimate.config import Plan, read_plan
from sfv.estimate.trace_fast import trace_fast
from sfv.estimate.trace_slow import fake, trace_slow
from sfv.estimate.verb import quietly
from sfv.files import write_json
from sfv.training.slow import SlowLearner

_CONFIGS = Path(__file__).parents[1] / "experiments" / "configs" / "doom"
_SHORT = ["--model.num_context=4", "--model.num_generated=4"]
CASES: dict[str, list[str]] = {
    "slow step, tiny, bf16, AdamW, average, batch 4, 16 frames": ["--config=tiny.yaml"],
    "slow step, tiny, fp32, AdamW, average, batch 2, 8 frames": [
        "--config=tiny.yaml",
        "--trainer.precision=32-true",
        "--data.batch_size=2",
        *_SHORT,
    ],
    "slow step, small (8x8 latents), bf16, AdamW, average, batch 1, 4 frames": [
        "--config=tiny.yaml",
        "--model.denoiser.init_args.preset=small",
        "--model.text.init_args.text_dim=384",
        "--data.batch_size=1",
        "--model.num_context=2",
        "--model.num_generated=2",
    ],
    "slow step, tiny, bf16, 2 micro-batches of 2, 8 frames": [
        "--config=tiny.yaml",
        "--data.batch_size=2",
        "--trainer.accumulate_grad_batches=2",
        *_SHORT,
    ],
    "fast steps, tiny, bf16, 2 episodes, 16 frames": ["--config=tiny_slow_fast.yaml"],
    "fast steps, tiny, fp32, 1 episode, 8 frames": [
        "--config=tiny_slow_fast.yaml",
        "--slow_fast.precision=32",
        "--slow_fast.episodes_at_once=1",
        *_SHORT,
    ],
}


@dataclass(frozen=True)
class Compared:
    """Peaks of one case, in bytes."""

    estimated: int
    measured: int

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimated / self.measured


def compare(arguments: list[str]) -> Compared:
    """Estimate and measure one case, both with a CPU's kernels.

    Args:
        arguments: of `sfv fit`; the config's name is that of a file of `experiments/configs/doom`.
    """
    found = [a.replace("--config=", f"--config={_CONFIGS}/") for a in arguments]
    with quietly():
        plan = read_plan(found, "cpu", (8, 8))
        run = _slow if plan.slow_fast is None else _fast
        with_shapes = plan.learner()
        with fake():
            with_shapes.to_empty(device="cpu")
            estimated = run(plan, with_shapes)
        learner = plan.learner().to_empty(device="cpu")
        for tensor in (*learner.parameters(), *learner.buffers()):
            tensor.data.zero_()
        kept = sum(t.numel() * t.element_size() for t in learner.parameters())
        measured = kept + peak_of(lambda: run(plan, learner))
    return Compared(estimated, measured)


def peak_of(work: Callable[[], Any]) -> int:
    """The most bytes that PyTorch's allocator gave out while `work` ran."""
    gc.collect()  # what came before would be freed inside, and subtracted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    results: Any = found.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _slow(plan: Plan, learner: SlowLearner) -> int:
    trainer = plan.config.trainer
    trace = trace_slow(
        learner,
        plan.batch,
        trainer.precision,
        plan.accumulate,
        plan.callbacks(),
        trainer.gradient_clip_val,
    )
    return max(trace.backward.total, trace.update.total)


def _fast(plan: Plan, learner: SlowLearner) -> int:
    channels, height, width = plan.latents
    assert plan.slow_fast is not None
    trace = trace_fast(learner, plan.slow_fast, (channels, plan.num_frames, height, width))
    return trace.working + sum(t.numel() * t.element_size() for t in learner.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimated against measured peak memory.")
    parser.add_argument("--quick", action="store_true", help="the two smallest cases")
    parser.add_argument("--json", type=Path, help="write ratios and context there")
    options = parser.parse_args()
    names = list(CASES)[1::4] if options.quick else list(CASES)
    found = {}
    for name in names:
        found[name] = compare(CASES[name])
        one = found[name]
        print(
            f"{name:<72}{one.estimated / 2**20:9.1f} MiB estimated{one.measured / 2**20:9.1f} MiB measured"
            f"{one.ratio:8.3f}",
            flush=True,
        )
    report = {
        "ratios": {name: one.ratio for name, one in found.items()},
        "context": {**machine(), "MiB measured": {n: f.measured / 2**20 for n, f in found.items()}},
    }
    if options.json is not None:
        write_json(options.json, report)
    else:
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
