"""Four processes on two nodes, one of them slow: they train as one process would, and stop together."""

from types import SimpleNamespace

import pytest
import torch

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.training.fit import parse
from tests.cluster.conftest import TINY
from tests.cluster.lab import wait_for

RANKS, STEPS = 4, 2


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
            batch = batches[rank][step]
            generator = rng.stream(learner.seed, "slow-noise", step, step, rank)
            drop = torch.rand(1, generator=generator) < learner.text_dropout
            action = "" if drop else batch["actions"][0]
            timestep = draw_timesteps(1, learner.schedule, generator)
            noise = torch.randn(batch["latents"].shape, generator=generator)
            loss = masked_conditional_loss(
                learner.denoiser, batch["latents"], learner.text([action]), noise, timestep,
                learner.num_context, learner.schedule,
            )  # fmt: skip
            (loss / RANKS).backward()
            found[rank, step] = loss.item()
        optimizer.step()
        scheduler.step()
    return found, {name: value.detach() for name, value in learner.denoiser.named_parameters()}


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
