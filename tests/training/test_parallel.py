"""Several processes learn what one process learns."""

import pytest
import torch

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from tests.training.make import make_learner, weights_of
from tests.training.rank_jobs import Run, adam, slow
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


@pytest.mark.parametrize("kind", ["ddp", "folder"])
def test_two_ranks_learn_slowly_as_one_with_the_joined_batch(data, tmp_path, kind):
    ranks = on_ranks(2, slow, tmp_path / "out", Run(data, kind, 2, STEPS, tmp_path))
    first, second = ({key for b in r["batches"] for key in b["keys"]} for r in ranks)
    assert len(first) == len(second) == 2 + 1 and not first & second, "own batches"
    losses, weights = joined(data, ranks)
    mean = [sum(pair) / 2 for pair in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert mean == pytest.approx(losses, rel=1e-5)
    for rank in ranks:
        assert (rank["shards"] > 5) == (kind == "folder")
        assert rank["weights"].keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(rank["weights"][name], value, rtol=1e-4, atol=1e-5)
