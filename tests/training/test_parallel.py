"""Several processes learn what one process learns."""

import pytest
import torch

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.models.world_model import WorldModel
from sfv.training.run_folder import newest_checkpoint
from tests.training.make import make_learner, same, weights_of
from tests.training.rank_jobs import Run, adam, same_batches, slow
from tests.training.ranks import on_ranks

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


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_run_of_two_ranks_goes_on_with_one_and_with_four(data, tmp_path, kind):
    """Also in one process without any shards; weights, moments and the losses that follow are the same."""
    first = on_ranks(
        2, same_batches, tmp_path / "first", Run(data, kind, 2, 2, tmp_path / "run", ema=True)
    )
    saved = newest_checkpoint(tmp_path / "run")
    assert saved.is_dir() == (kind == "folder")
    straight = same_batches(Run(data, "one", 1, 4, tmp_path / "straight", ema=True))
    assert first[0]["losses"] == pytest.approx(straight["losses"][:2], rel=1e-5)
    for world, how in ((1, "one"), (1, kind), (4, kind)):
        out = tmp_path / f"{how}-{world}"
        run = Run(data, how, world, 4, out, resume=saved, ema=True)
        rest = (
            [same_batches(run)] if how == "one" else on_ranks(world, same_batches, out / "r", run)
        )
        for a, b in zip(rest[0]["start"], first[0]["optimizer"], strict=how == "one"):
            assert same(a, b)
        for rank in rest:
            assert rank["losses"] == pytest.approx(straight["losses"][2:], rel=1e-5)
            assert rank["scores"] == pytest.approx(straight["scores"][1:], rel=1e-5)
        close(rest[0]["weights"], straight["weights"])
        model = WorldModel.load(out / "model")
        close(model.denoiser.state_dict(), parts(straight["weights"], "denoiser."))
        close(model.text.state_dict(), parts(straight["weights"], "text."))


def parts(weights, start):
    return {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
