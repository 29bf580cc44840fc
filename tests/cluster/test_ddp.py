"""Four processes on two nodes, one of them slow: they train as one process would, and stop together."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.training.fit import parse
from sfv.training.replay import SlowBatch, collate
from sfv.training.slow_fast import with_memories
from tests.cluster.conftest import TINY
from tests.cluster.lab import wait_for
from tests.training.make import make_data

RANKS, STEPS = 4, 2
SLOW_FAST = TINY.with_name("tiny_slow_fast.yaml")
ONE = SlowBatch((0,))


def batches_of(datamodule, rank):
    """What one of four ranks trains on."""
    datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=RANKS)
    stream = iter(datamodule.train_dataloader())
    return [next(stream) for _ in range(STEPS)]


def joined(flags):
    """One process takes the ranks' batches together: losses by rank and step, and the weights.

    Each rank's noise is drawn from its own stream, as training does.
    """
    cli = parse(flags)
    learner = cli.model
    batches = [batches_of(cli.datamodule, rank) for rank in range(RANKS)]
    made = learner.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    found = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(RANKS):
            found[rank, step] = backward(learner, batches[rank][step], step, step, rank)
        optimizer.step()
        scheduler.step()
    return found, weights_of(learner)


def backward(learner, batch, step, batch_idx, rank):
    """One rank's share of the gradients of a slow step; its loss."""
    generator = rng.stream(learner.seed, "slow-noise", step, batch_idx, rank)
    drop = torch.rand(1, generator=generator) < learner.text_dropout
    action = "" if drop else batch["actions"][0]
    timestep = draw_timesteps(1, learner.schedule, generator)
    noise = torch.randn(batch["latents"].shape, generator=generator)
    loss = masked_conditional_loss(
        learner.denoiser, batch["latents"], learner.text([action]), noise, timestep,
        learner.num_context, learner.schedule,
    )  # fmt: skip
    (loss / RANKS).backward()
    return loss.item()


def weights_of(learner):
    return {name: value.detach() for name, value in learner.denoiser.named_parameters()}


def joined_loop(flags, steps):
    """The same for the slow-fast loop: every rank learns an episode of its own in each group."""
    cli = parse(flags)
    learner, optimizer = cli.model, cli.model.configure_optimizers()
    settings, streams, found = cli.config_init.slow_fast, [], {}
    for rank in range(RANKS):
        cli.datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=RANKS)
        streams.append(iter(cli.datamodule.train_dataloader()))
    step = group = 0
    while step < steps:
        items = []
        with with_memories(cli.trainer, learner, settings) as phase:
            for rank in range(RANKS):
                phase.replay.begin(group + 1)
                courses = phase.courses([next(streams[rank])], group)
                phase.learn(courses, lambda reports: None)
                items.append(phase.replay.items)
            for place in range(len(items[0])):
                optimizer.zero_grad()
                for rank in range(RANKS):
                    batch = collate(items[rank], replace(ONE, items=(place,)), learner.num_context)
                    with phase.learner.weights.use(batch["memory"]):
                        found[rank, step] = backward(learner, batch, step, place, rank)
                optimizer.step()
                step += 1
                if step == steps:
                    break
            group += 1
    return found, weights_of(learner)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_and_a_slow_rank_holds_nothing_up(lab, runs, submitted):
    runs.gate("ddp", f"train-{STEPS - 1}-3", "requeue")
    options = ["--nodes=2", "--tasks-per-node=2"]
    command = runs.command("ddp", STEPS + 1, *options, **{"trainer.val_check_interval": 5})
    job = submitted(command)
    runs.reached("ddp", f"train-{STEPS - 1}-3")
    lab.run("timeout", "2", "scancel", "--signal=USR1", f"{job}.0", check=False)
    wait_for("requeue", lambda: lab.state(job) == "PENDING")
    lab.run("scancel", job)
    log = (runs.out("ddp") / f"slurm-{job}.out").read_text()
    assert f"asked to stop, saved slow step {STEPS};" in log

    expected, weights = joined([f"--config={TINY}", *runs.flags("ddp", STEPS + 1)])
    for rank in range(RANKS):
        rows = [line.split() for line in runs.losses("ddp", rank)]
        measured = {
            (rank, int(step) - 1): float.fromhex(loss) for step, _, loss in rows if step != "val"
        }
        assert measured == pytest.approx(
            {k: v for k, v in expected.items() if k[0] == rank}, rel=1e-5
        )
    saved = torch.load(runs.out("ddp") / "checkpoints" / "newest.ckpt", weights_only=True)
    trained = saved["state_dict"]
    for name, value in weights.items():
        torch.testing.assert_close(trained[f"denoiser.{name}"], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_nodes_run_the_slow_fast_loop_as_one_process(lab, runs, submitted, tmp_path):
    """Θ stays with its rank and episodes, Φ is shared: through a group of episodes and into the next."""
    data = make_data(tmp_path / "many", 16, 8, (2, 4), 8, num_train=8)
    runs = replace(runs, data=data)
    changes = {
        "model.init_from": "null",
        "checkpoint_every": 4,
        "slow_fast.episodes_per_group": 1,
        "slow_fast.precision": "32",
        "slow_fast.fast.num_steps": 1,
        "trainer.val_check_interval": 1.0,
    }
    steps = 4
    command = runs.command("loop", steps, "--nodes=2", "--tasks-per-node=2", **changes)
    command[command.index(str(TINY))] = str(SLOW_FAST)
    job = submitted(command)
    assert lab.wait(job, seconds=300) == "COMPLETED", (
        runs.out("loop") / f"slurm-{job}.out"
    ).read_text()
    expected, weights = joined_loop(
        [f"--config={SLOW_FAST}", *runs.flags("alone", steps, **changes)], steps
    )
    for rank in range(RANKS):
        rows = [line.split() for line in runs.losses("loop", rank)]
        measured = {
            (rank, int(row[0]) - 1): float.fromhex(row[-1]) for row in rows if row[0] != "val"
        }
        assert measured == pytest.approx(
            {k: v for k, v in expected.items() if k[0] == rank}, rel=1e-5
        )
    saved = torch.load(runs.out("loop") / "checkpoints" / "newest.ckpt", weights_only=True)
    for name, value in weights.items():
        torch.testing.assert_close(
            saved["state_dict"][f"denoiser.{name}"], value, rtol=1e-4, atol=1e-5
        )
