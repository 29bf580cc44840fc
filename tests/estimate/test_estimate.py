"""The estimate: against the profiler, against hand counts, and what it tells the user."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.estimate import CASES, compare
from sfv.cli import main
from sfv.diffusion.schedule import NoiseSchedule
from sfv.estimate.budget import Budget
from sfv.estimate.config import read_plan
from sfv.estimate.trace_fast import FastTrace
from sfv.estimate.trace_slow import Meter, Peak, SlowTrace, fake
from sfv.estimate.verb import budget_of, changes, parser

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
TINY = f"--config={CONFIGS / 'doom' / 'tiny.yaml'}"
LOOP = f"--config={CONFIGS / 'doom' / 'tiny_slow_fast.yaml'}"
SHORT = ["--model.num_context=2", "--model.num_generated=2", "--data.batch_size=1"]
GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if "fp32" in name])  # the smallest
def test_the_estimate_is_what_the_profiler_measures(case):
    found = compare(CASES[case])
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.measured > 100 * 2**20


def test_the_meter_counts_storages_while_they_live():
    meter = Meter()
    with meter:
        a = torch.zeros(256, 1024)  # 1 MiB
        view = a[1:].view(-1)
        b = a + 1
        del a
        assert meter.live == 2 * 2**20, "a view keeps its storage alive"
        del view
        assert meter.live == 2**20
        c = b @ b.T
        del b, c
    assert (meter.live, meter.peak) == (0, 2 * 2**20)
    assert meter.flops == 2 * 256 * 256 * 1024


def test_gradients_are_told_apart_at_the_peak():
    layer = torch.nn.Linear(512, 512, bias=False)
    meter = Meter()
    meter.add(layer.weight.data)
    meter.watch_gradients(layer)
    with meter:
        layer(torch.zeros(1, 512)).sum().backward()
        assert meter.gradients == 2**20
        layer.weight.grad = None
        assert meter.gradients == 0
    assert meter.live == 2**20


def test_fake_tensors_leave_nothing_behind():
    """The schedule is cached for the process; a cached fake tensor would break every run after."""
    plan = read_plan([TINY], "cpu")
    learner = plan.learner()
    with fake():
        schedule = learner.schedule
        schedule.add_noise(*[torch.zeros(1, 1, 1, 1, 1)] * 2, torch.tensor([3]))
    assert type(learner.schedule.alphas_cumprod()) is torch.Tensor
    assert learner.schedule.alphas_cumprod()[3] == NoiseSchedule().alphas_cumprod()[3]


def budget(gpus=4, strategy="ddp", loop=False):
    """Made-up traces whose sums can be done by hand: 8 GiB of weights."""
    slow = SlowTrace(
        parameters=9 * GIB,
        trained=8 * GIB,
        optimizer=16 * GIB,
        other=8 * GIB,
        backward=Peak((9 + 16 + 8 + 2 + 20) * GIB, 2 * GIB),
        update=Peak((9 + 16 + 8 + 8 + 4) * GIB, 8 * GIB),
        block=1 * GIB,
        flops=10**15,
    )
    fast = FastTrace(1, GIB, 204, 12 * GIB, 2 * 10**14, 10**14)
    plan = read_plan([LOOP if loop else TINY], "cuda", (8, 8))
    return Budget(plan, slow, fast if loop else None, gpus, strategy)


def test_ddp_keeps_everything_on_every_gpu():
    found = budget()
    assert sum(found.kept().values()) == (9 + 16 + 8 + 8) * GIB
    assert sum(found.phases()["slow step"].values()) == (2 + 20) * GIB
    assert sum(found.phases()["update"].values()) == (8 + 4) * GIB
    assert found.peak() == (41 + 22) * GIB
    assert budget(gpus=1).peak() == (41 - 8 + 22) * GIB, "one process has no buckets"


def test_shards_divide_what_is_trained_and_gather_blocks():
    found = budget(strategy="fsdp")
    assert sum(found.kept().values()) == (1 + 2 + 4 + 2) * GIB
    assert sum(found.phases()["slow step"].values()) == GIB // 2 + (20 + 3) * GIB
    assert sum(found.phases()["update"].values()) == (2 + 1) * GIB
    assert budget(strategy="fsdp", loop=True).phases()["fast step"]["gathered weights"] == 8 * GIB


def test_the_loop_adds_memories_and_fast_steps():
    found = budget(loop=True)
    settings = found.plan.slow_fast
    assert (settings.episodes_per_group, settings.max_chunks, settings.fast.num_steps) == (2, 8, 4)
    assert found.replay() == 2 * 8 * GIB
    assert found.flops() == 10**15 + 10**14 + 4 * 2 * 10**14
    assert found.phases()["fast step"]["Θ, its optimiser, activations"] == 12 * GIB
    assert found.hours(1000, 0.5) == pytest.approx(512 * found.flops() / 0.5e15 / 3600)


def test_the_strategy_is_the_configs_unless_it_is_given():
    sharded = "--trainer.strategy.class_path=pytorch_lightning.strategies.ModelParallelStrategy"
    assert read_plan([TINY, sharded]).strategy == "fsdp"
    assert read_plan([TINY, "--trainer.strategy=fsdp"]).strategy == "fsdp"
    assert (
        read_plan([TINY, "--trainer.strategy=ddp"]).strategy == read_plan([TINY]).strategy == "ddp"
    )


def test_micro_batches_multiply_the_compute():
    plan = read_plan([TINY, "--trainer.accumulate_grad_batches=3"], "cuda", (8, 8))
    assert dataclasses.replace(budget(), plan=plan).flops() == 3 * 10**15


def test_the_longest_window_counts():
    buckets = "--data.buckets=[[1,7],[12,20],[8,8]]"
    plan = read_plan([TINY, buckets], "cuda", (3, 5))
    assert (plan.num_frames, plan.num_context, plan.latents) == (32, 12, (16, 3, 5))
    assert plan.batch()["latents"].shape == (4, 16, 32, 3, 5)


def test_the_size_is_that_of_the_shards(config_data):
    plan = read_plan([TINY, f"--data.train={config_data.train}"])
    assert plan.latents == (16, 2, 4)
    assert plan.latents_from == f"of {config_data.train}"
    assert read_plan([TINY]).latents == (16, 8, 8)


def test_changes_keep_the_batch_together():
    found = changes(read_plan([TINY, "--trainer.precision=32-true"]))
    assert found[0] == ["--trainer.precision=bf16-mixed"]
    assert found[1:3] == [
        ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"],
        ["--data.batch_size=1", "--trainer.accumulate_grad_batches=4"],
    ]
    assert ["--slow_fast.episodes_at_once=1"] in changes(read_plan([LOOP]))


@pytest.mark.slow
def test_what_does_not_fit_is_told_what_to_change(tmp_path, capsys):
    file = tmp_path / "numbers.json"
    options = ["--memory=0.01", "--reserve=0", f"--json={file}"]
    assert main(["estimate", TINY, *SHORT, "--data.batch_size=2", *options]) == 0
    printed, numbers = capsys.readouterr().out, json.loads(file.read_text())
    assert f"DOES NOT FIT: {numbers['peak'] / GIB:.1f} of 0.01 GiB" in printed
    smaller, recompute = printed.split("what to change:\n")[1].splitlines()
    assert smaller.startswith("  and --data.batch_size=1 --trainer.accumulate_grad_batches=2: ")
    assert recompute.startswith("  and --model.activation_checkpointing=true: ")
    assert smaller.endswith("not enough") and recompute.endswith("not enough")
    assert numbers["kept"]["optimiser state"] == pytest.approx(2 * numbers["kept"]["weights"], 1e-2)
    phases = [sum(phase.values()) for phase in numbers["phases"].values()]
    assert numbers["peak"] == sum(numbers["kept"].values()) + max(phases)


@pytest.mark.slow
def test_the_papers_model_is_traced_whole():
    """1.41B weights: the sizes that can be counted by hand, where nothing of the kind is allocated."""
    options = parser().parse_args([f"--config={CONFIGS / 'paper' / 'slow.yaml'}", "--gpus=64"])
    found = budget_of(["--data.buckets=null"], options)
    weights = 4 * 1_411_233_860
    assert found.plan.batch()["latents"].shape == (2, 4, 32, 32, 32)
    assert found.plan.num_tokens == 77
    assert found.slow.trained == found.slow.parameters == weights
    assert found.slow.optimizer == pytest.approx(2 * weights, rel=1e-5)
    assert found.slow.backward.gradients == found.slow.update.gradients == weights
    # Half-precision copies of the weights stay for the backward pass, beside the activations.
    assert found.phases()["slow step"]["activations"] > weights / 2
    assert found.phases()["update"]["scratch of the optimiser"] < 1.2 * weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utilisation=40"], "--utilisation is 40.0; allowed: above 0, at most 1"),
        (["--gpus=0"], "--gpus is 0; it has to be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message, capsys):
    assert main(["estimate", TINY, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--data.batch_sise=2", "--model.num_context=many", "--gpu=3"])
def test_a_typo_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["estimate", TINY, wrong])
    assert stopped.value.code == 2
    assert wrong.split("=")[0].split(".")[-1].lstrip("-") in capsys.readouterr().err


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["estimate", "--help"])
    assert stopped.value.code == 0
    assert "usage: sfv estimate" in capsys.readouterr().out
    assert all(action.help for action in parser()._actions)
