"""`sfv estimate`: memory, compute and days of a config of `sfv fit`, without a GPU, data or weights."""

import argparse
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from sfv.estimate.budget import Budget
from sfv.estimate.config import Plan, read_plan
from sfv.estimate.trace_fast import FastTrace, replaying, trace_fast
from sfv.estimate.trace_slow import SlowTrace, fake, trace_slow
from sfv.files import write_json
from sfv.training.slow import SlowLearner

_GIB = 2**30


def estimate(args: Sequence[str]) -> None:
    """Print what a run needs; see `parser`.

    Raises:
        ValueError: an option is out of its range, or the config is wrong.
    """
    options, config = parser().parse_known_args(args)
    _check(options)
    budget = budget_of(config, options)
    print(describe(budget, options))
    if budget.peak() + options.reserve * _GIB > options.memory * _GIB:
        print(advise(config, budget, options))
    if options.json is not None:
        write_json(options.json, as_json(budget, options))


def parser() -> argparse.ArgumentParser:
    """The command line; what it does not know goes to the config, as in `sfv fit`."""
    p = argparse.ArgumentParser(
        prog="sfv estimate",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Memory of one GPU, compute and days of a config of `sfv fit`. The real training step "
        "runs on tensors without memory, so neither GPU nor data nor weights are needed. Options of "
        "`sfv fit` change the config: --data.batch_size 1, --slow_fast.episodes_at_once 1.",
    )
    p.add_argument("--config", required=True, help="YAML of a run")
    _add_machine(p)
    _add_sizes(p)
    p.add_argument("--json", type=Path, help="write the numbers there too, in bytes")
    return p


def _add_machine(p: argparse.ArgumentParser) -> None:
    p.add_argument("--gpus", type=int, default=1, help="processes, one GPU each")
    p.add_argument("--memory", type=float, default=80.0, help="of one GPU, in GiB")
    p.add_argument(
        "--reserve",
        type=float,
        default=3.0,
        help="GiB of it that are not ours: CUDA itself, NCCL, scratch of kernels, gaps",
    )
    p.add_argument(
        "--strategy",
        choices=("ddp", "fsdp"),
        help="ddp: weights whole on every GPU; fsdp: in shards (FSDP2, block by block); none: the config's",
    )
    p.add_argument(
        "--utilisation", type=float, default=0.4, help="share of --peak that is reached, 0 to 1"
    )
    p.add_argument(
        "--peak",
        type=float,
        default=989.0,
        help="TFLOP/s of one GPU in the run's precision; 989 is an H100's in bfloat16",
    )


def _add_sizes(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--latents",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the latents; none: those of the shards, or else the preset's",
    )
    p.add_argument("--tokens", type=int, help="of an action; none: the text encoder's")
    p.add_argument(
        "--chunks", type=int, default=10, help="pairs of an episode, if max_chunks is null"
    )
    p.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="whose kernels and precision rules the step follows",
    )


def budget_of(config: Sequence[str], options: argparse.Namespace) -> Budget:
    """Trace a config.

    Args:
        config: what the config is changed by.
        options: of `parser`.
    """
    size = None if options.latents is None else (options.latents[0], options.latents[1])
    arguments = [f"--config={options.config}", *config]
    with quietly():
        plan = read_plan(arguments, options.device, size, options.tokens)
        slow, fast = trace(plan)
    return Budget(plan, slow, fast, options.gpus, options.strategy or plan.strategy, options.chunks)


def trace(plan: Plan) -> tuple[SlowTrace, FastTrace | None]:
    """Run fast learning, if the config has any, and slow steps on tensors without memory."""
    trainer, loop, learner = plan.config.trainer, plan.slow_fast, plan.learner()
    settings = (trainer.precision, plan.accumulate)
    clip = trainer.gradient_clip_val
    with fake():
        learner.to_empty(device="cpu")
        if loop is None:
            slow = trace_slow(learner, plan.batch, *settings, plan.callbacks(), clip)
            return slow, None
        channels, height, width = plan.latents
        fast = trace_fast(learner, loop, (channels, plan.num_frames, height, width))
        with replaying(learner, loop) as (callback, num):
            slow = trace_slow(
                learner,
                lambda: {**plan.batch(), "memory": torch.zeros(plan.batch_size, num)},
                *settings,
                [*plan.callbacks(), callback],
                clip,
            )
        return slow, fast


def describe(budget: Budget, options: argparse.Namespace) -> str:
    """The report, as text."""
    plan, largest = budget.plan, budget.largest()
    rows = {**budget.kept(), **{n: s for n, s in budget.phases()[largest].items() if s}}
    rows = {
        name: size
        for name, size in rows.items()
        if size >= 0.005 * _GIB or size > budget.peak() / 100
    }
    peak, reserve = budget.peak() / _GIB, options.reserve
    fits = peak + reserve <= options.memory
    others = ", ".join(
        f"{name} {sum((*budget.kept().values(), *rows.values())) / _GIB:.1f}"
        for name, rows in budget.phases().items()
        if name != largest
    )
    lines = [
        f"{options.config} on {budget.gpus} GPUs, {budget.strategy}, {plan.config.trainer.precision}",
        f"{plan.batch_size} x {plan.accumulate} windows a GPU and slow step, "
        f"{plan.batch_size * plan.accumulate * budget.gpus} together; {plan.num_frames} frames of latents "
        f"{'x'.join(map(str, plan.latents))} ({plan.latents_from}); {plan.num_tokens} tokens an action",
        "",
        f"GiB of one GPU at the largest moment, which is in the {largest}",
        *(f"  {name:<32}{size / _GIB:8.2f}" for name, size in rows.items()),
        f"  {'peak':<32}{peak:8.2f}   ({others})",
        f"  {'reserve':<32}{reserve:8.2f}",
        f"{'fits' if fits else 'DOES NOT FIT'}: {peak + reserve:.1f} of {options.memory:g} GiB",
    ]
    if budget.fast is not None:
        lines += ["", *_fast_lines(budget, budget.fast)]
    return "\n".join([*lines, "", *_compute_lines(budget, options)])


def advise(config: Sequence[str], budget: Budget, options: argparse.Namespace) -> str:
    """What to change, each change traced, until one fits."""
    lines, tried = ["what to change:"], list(config)
    if budget.strategy == "ddp" and budget.gpus > 1:
        options = argparse.Namespace(**{**vars(options), "strategy": "fsdp"})
        budget = replace(budget, strategy="fsdp")
        lines.append(_change("--strategy fsdp", budget, options))
    for change in changes(budget.plan):
        if "fits" in lines[-1].split("GiB")[-1]:
            break
        tried += change
        budget = budget_of(tried, options)
        lines.append(_change(f"and {' '.join(change)}", budget, options))
    return "\n".join(lines)


def changes(plan: Plan) -> list[list[str]]:
    """Options of `sfv fit` that save memory and keep what is learned, the cheapest first."""
    found, loop = [], plan.slow_fast
    if str(plan.config.trainer.precision).startswith("32"):
        found.append(["--trainer.precision=bf16-mixed"])
    if loop is not None and (loop.episodes_at_once or loop.episodes_per_group) > 1:
        found.append(["--slow_fast.episodes_at_once=1"])
    size = plan.batch_size
    while loop is None and size % 2 == 0:
        size //= 2
        factor = plan.accumulate * plan.batch_size // size
        found.append([f"--data.batch_size={size}", f"--trainer.accumulate_grad_batches={factor}"])
    if "activation_checkpointing" in inspect.signature(SlowLearner).parameters:
        found.append(["--model.activation_checkpointing=true"])
    return found


def as_json(budget: Budget, options: argparse.Namespace) -> dict[str, object]:
    """The numbers, in bytes, floating-point operations and hours."""
    return {
        "kept": budget.kept(),
        "phases": budget.phases(),
        "peak": budget.peak(),
        "replay": budget.replay(),
        "flops": budget.flops(),
        "max_steps": budget.plan.max_steps,
        "hours": budget.hours(options.peak, options.utilisation),
    }


def _fast_lines(budget: Budget, fast: FastTrace) -> list[str]:
    loop = budget.plan.slow_fast
    assert loop is not None
    chunks = loop.max_chunks or budget.chunks
    return [
        f"Θ: {fast.theta // 4:,} numbers in {fast.num_layers} layers, {fast.theta / 2**20:.1f} MiB; "
        f"{fast.episodes} episodes learn together",
        f"main memory, a process: {budget.replay() / _GIB:.2f} GiB for the Θ of {loop.episodes_per_group} "
        f"episodes x {chunks} chunks",
    ]


def _compute_lines(budget: Budget, options: argparse.Namespace) -> list[str]:
    slow = budget.slow.flops * budget.plan.accumulate / 1e12
    extra = budget.flops() / 1e12 - slow
    fast = f" + {extra:.3g} of fast learning" if extra else ""
    hours = budget.hours(options.peak, options.utilisation)
    return [
        f"compute, a slow step on one GPU: {slow:.3g} TFLOP{fast}",
        f"{budget.plan.max_steps} slow steps at {options.utilisation:.0%} of {options.peak:g} TFLOP/s: "
        f"{hours:.3g} hours ({hours / 24:.2g} days), without loading, validation and checkpoints",
    ]


def _change(what: str, budget: Budget, options: argparse.Namespace) -> str:
    need = budget.peak() / _GIB + options.reserve
    verdict = "fits" if need <= options.memory else "not enough"
    return f"  {what}: {need:.1f} GiB, {verdict}"


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.utilisation <= 1:
        raise ValueError(f"--utilisation is {options.utilisation}; allowed: above 0, at most 1")
    for name in ("gpus", "memory", "peak", "chunks"):
        if getattr(options, name) <= 0:
            raise ValueError(f"--{name} is {getattr(options, name)}; it has to be above 0")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Lightning's remarks on a training that is none off the screen."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
