"""Several processes learn what one process learns."""

import shutil

import pytest
import torch
from diffusers import UNet3DConditionModel
from peft import PeftModel

from sfv import rng
from sfv.cli import main
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.models.world_model import WorldModel
from sfv.training.checkpoints import FileOrFolder, newest_checkpoint
from tests.training.make import make_learner, same, weights_of
from tests.training.rank_jobs import (
    FAST_STEPS,
    Run,
    adam,
    fast_pair,
    fused,
    make_fast,
    own_batch,
    same_batches,
    sfv_fit,
    slow,
    slow_fast,
)
from tests.training.ranks import on_ranks
from tests.training.test_fit import TINY, flags

QUICK = [
    "--checkpoint_every=1",
    "--trainer.accelerator=cpu",
    "--trainer.val_check_interval=1",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--data.batch_size=1",
]
pytestmark = pytest.mark.slow
STEPS = 2


def joined(data, ranks):
    """Slow learning in one process: each step on the batches of all ranks, with the noise they drew."""
    learner = make_learner(data)
    optimizer = adam(learner.parameters())
    losses = []
    for step in range(STEPS):
        latents, actions, noises, timesteps = [], [], [], []
        for rank, seen in enumerate(ranks):
            batch = seen["batches"][step]
            generator = rng.stream(7, "slow-noise", step, step, rank)
            drop = torch.rand(len(batch["actions"]), generator=generator) < 0.1
            actions += ["" if d else a for d, a in zip(drop, batch["actions"], strict=True)]
            timesteps.append(draw_timesteps(len(drop), learner.schedule, generator))
            noises.append(torch.randn(batch["latents"].shape, generator=generator))
            latents.append(batch["latents"])
        loss = masked_conditional_loss(
            learner.denoiser, torch.cat(latents), learner.text(actions), torch.cat(noises),
            torch.cat(timesteps), 3, learner.schedule,
        ).mean()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, weights_of(learner)


def test_two_ranks_learn_slowly_as_one_with_the_joined_batch(data, tmp_path):
    ddp = on_ranks(2, slow, tmp_path / "ddp", Run(data, "ddp", 2, STEPS, tmp_path))
    shards = on_ranks(2, slow, tmp_path / "shards", Run(data, "folder", 2, STEPS, tmp_path))
    first, second = ({key for b in rank["batches"] for key in b["keys"]} for rank in ddp)
    assert len(first) == len(second) == 3 and not first & second, "each window once"
    losses, weights = joined(data, ddp)
    mean = [sum(pair) / 2 for pair in zip(*(rank["losses"] for rank in ddp), strict=True)]
    assert mean == pytest.approx(losses, rel=1e-5)
    for before, after in zip(ddp, shards, strict=True):
        assert before["shards"] == 0 and after["shards"] > 5
        assert before["losses"] == pytest.approx(after["losses"], rel=1e-6)
        close(before["weights"], after["weights"])
        close(before["weights"], weights)


def close(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "worlds"), [("folder", (1, 4)), ("file", (4,))])
def test_a_run_of_two_ranks_goes_on_with_one_and_with_four(data, tmp_path, kind, worlds):
    """Also in one process without any shards; weights, moments and the losses that follow are the same."""
    first = on_ranks(
        2, same_batches, tmp_path / "first", Run(data, kind, 2, 2, tmp_path / "run", ema=True)
    )
    saved = newest_checkpoint(tmp_path / "run")
    assert saved.is_dir() == (kind == "folder")
    straight = same_batches(Run(data, "one", 1, 3, tmp_path / "straight", ema=True))
    assert first[0]["losses"] == pytest.approx(straight["losses"][:2], rel=1e-5)
    for world, how in ((1, "one"), *((world, kind) for world in worlds)):
        out = tmp_path / f"{how}-{world}"
        run = Run(data, how, world, 3, out, resume=saved, ema=True)
        rest = (
            [same_batches(run)] if how == "one" else on_ranks(world, same_batches, out / "r", run)
        )
        for a, b in zip(rest[0]["start"], first[0]["optimizer"], strict=how == "one"):
            assert same(a, b)
        for rank in rest:
            assert rank["losses"] == pytest.approx(straight["losses"][2:], rel=1e-5)
            assert rank["scores"] == pytest.approx(straight["scores"][2:], rel=1e-5)
        close(rest[0]["weights"], straight["weights"])
        model = WorldModel.load(out / "model")
        close(model.denoiser.state_dict(), parts(straight["weights"], "denoiser."))
        close(model.text.state_dict(), parts(straight["weights"], "text."))


def parts(weights, start):
    return {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}


SETTINGS = [
    ({"trainer": {"precision": "bf16-mixed"}}, {}, 1e-3),
    (
        {"trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}},
        {
            "optimizer": fused,
            "learner": {"activation_checkpointing": True},
        },
        1e-5,
    ),
]


@pytest.mark.parametrize(("shared", "sharded", "rtol"), SETTINGS, ids=["bf16", "all-others"])
def test_two_ranks_with_shards_and_these_settings_learn_what_one_process_learns(
    data, tmp_path, shared, sharded, rtol
):
    """What only saves time or memory is on in the sharded run alone; bfloat16 sums in another order."""
    one = same_batches(Run(data, "one", 1, 2, tmp_path / "one", **shared))
    two = Run(data, "folder", 2, 2, tmp_path / "two", **shared, **sharded)
    for rank in on_ranks(2, same_batches, tmp_path / "out", two):
        assert rank["losses"] == pytest.approx(one["losses"], rel=rtol)
    assert len(one["losses"]) == (4 if "accumulate_grad_batches" in shared["trainer"] else 2)
    saved = WorldModel.load(tmp_path / "two" / "model").denoiser.state_dict()
    for name, weight in parts(one["weights"], "denoiser.").items():
        torch.testing.assert_close(saved[name], weight, rtol=1e-5, atol=rtol / 3)


def test_sfv_fit_goes_on_in_one_process_with_what_two_began(config_data, tmp_path):
    out = tmp_path / "run"
    config = TINY.with_name("tiny_fsdp.yaml")
    command = [*flags(config_data, config), f"--out={out}", *QUICK]
    on_ranks(2, sfv_fit, tmp_path / "began", [*command, "--trainer.max_steps=2"])
    assert newest_checkpoint(out).is_dir()
    began = WorldModel.load(out / "model").denoiser.state_dict()
    newest, before = out / "checkpoints/newest.ckpt", out / "checkpoints/newest.previous.ckpt"
    shutil.copytree(before, tmp_path / "first step")
    alone = ["--trainer.devices=1", "--trainer.strategy=auto"]
    assert main(["fit", *command, "--trainer.max_steps=2", *alone]) == 0
    close(WorldModel.load(out / "model").denoiser.state_dict(), began)
    assert main(["fit", *command, "--trainer.max_steps=2", *alone, "--model.text_dropout=0.2"]) == 2
    shutil.rmtree(newest)
    shutil.move(tmp_path / "first step", newest)
    assert main(["fit", *command, "--trainer.max_steps=2", *alone]) == 0
    assert torch.load(newest, weights_only=True)["global_step"] == 2, "a file, where a folder was"
    assert FileOrFolder().load_checkpoint(before)["global_step"] == 1


def one_process(data):
    """Both ranks' fast and slow learning in one process without any sharding."""
    learner = make_learner(data)
    fast, lora = make_fast(learner)
    optimizer = adam(learner.parameters())
    memories = [fast.fresh(f"episode-{rank}") for rank in range(2)]
    for step, steps in enumerate(FAST_STEPS):
        optimizer.zero_grad()
        for rank, memory in enumerate(memories):
            for _ in range(steps[rank]):
                fast.learn([memory], fast_pair(rank), [""])
        for rank, memory in enumerate(memories):
            with lora.use(memory.theta[None]):
                (learner._loss(*own_batch(step, rank)) / 2).backward()
        optimizer.step()
    return learner, lora, [memory.theta for memory in memories]


@pytest.mark.parametrize("kind", ["ddp", "folder"])
def test_each_rank_learns_its_memory_at_its_own_pace_and_all_share_phi(data, tmp_path, kind):
    """Θ stays private, Φ is shared; a gathering inside the fast phase would hang."""
    ranks = on_ranks(2, slow_fast, tmp_path / "out", Run(data, kind, 2, 2, tmp_path))
    learner, lora, thetas = one_process(data)
    for rank, theta in zip(ranks, thetas, strict=True):
        torch.testing.assert_close(rank["theta"], theta, rtol=1e-4, atol=1e-6)
        assert rank["names"] == sorted(learner.state_dict())
    close(ranks[0]["weights"], weights_of(learner))
    assert float((thetas[0] - thetas[1]).abs().max()) > 1e-2
    check_exports(tmp_path, learner, lora, thetas[0])


@torch.no_grad()
def check_exports(folder, learner, lora, theta):
    """The saved model is Φ, and diffusers and peft alone make Φ+Θ of the two folders."""
    saved = WorldModel.load(folder / "model")
    close(saved.denoiser.state_dict(), learner.denoiser.state_dict())
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size < 3e6
    unet = UNet3DConditionModel.from_pretrained(folder / "model" / "unet")
    adapted = PeftModel.from_pretrained(unet, folder / "adapter").eval()
    latents, timestep, text = torch.randn(1, 5, 5, 4, 6), torch.tensor([400]), learner.text([""])
    theirs = adapted(latents, timestep, text).sample
    with lora.use(theta[None]):
        ours = learner.denoiser.eval()(latents, timestep, text, 3)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    base = learner.denoiser(latents, timestep, text, 3)
    assert not torch.allclose(ours, base, rtol=1e-3, atol=1e-4)
