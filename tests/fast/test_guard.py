import copy
import math

import pytest
import torch

from sfv import rng
from sfv.diffusion.objective import all_frames_loss
from sfv.fast.guard import Outcome, did_harm
from sfv.fast.temporal_lora import TemporalLoRA
from tests.fast.test_learner import ACTION, distance, make_learner, pair_at

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "harm"),
    [
        # trained, before, after, first, reference
        ((1.0, 1.0, 0.9, 1.0, 1.0), False),
        ((1.0, 1.0, 1.49, 1.0, 1.0), False),
        ((1.0, 1.0, 1.51, 1.0, 1.0), True),
        ((1.0, 1.0, 0.9, 1.49, 1.0), False),
        ((1.0, 1.0, 0.9, 1.51, 1.0), True),
        ((NAN, 1.0, 0.9, 1.0, 1.0), True),
        ((1.0, 1.0, NAN, 1.0, 1.0), True),
        ((1.0, 1.0, 0.9, INF, 1.0), True),
    ],
)
def test_learning_is_undone_when_a_loss_grew_beyond_the_margin(losses, harm):
    assert did_harm(Outcome(*losses), 0.5, measured=True, finite=True) == harm


def test_without_probes_only_numbers_that_are_none_undo_learning():
    unknown = (NAN, NAN, NAN, NAN)
    assert not did_harm(Outcome(1.0, *unknown), 0.5, measured=False, finite=True)
    assert did_harm(Outcome(1.0, *unknown), 0.5, measured=False, finite=False)
    assert did_harm(Outcome(INF, *unknown), 0.5, measured=False, finite=True)


@pytest.fixture
def lora(world):
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as adapter:
        yield adapter


def harm_of(world, lora, memory, pair):
    """How many times larger Θ makes the loss on a pair, on noise that nobody else draws."""
    generator = rng.stream(0, "test-guard")
    timestep = torch.randint(1000, (8,), generator=generator)
    noise = torch.randn((8, *pair.shape[1:]), generator=generator)
    losses = []
    for theta in (memory.theta[None], None):
        with torch.no_grad(), lora.use(theta):
            text = world.text([""] * 8)
            inputs = (pair.expand(8, -1, -1, -1, -1), text, noise, timestep, world.schedule)
            losses.append(float(all_frames_loss(world.denoiser, *inputs).mean()))
    return losses[0] / losses[1]


@pytest.fixture
def skilled(world, latents):
    """A world model that has learned a little of faint latents: there is something to lose."""
    model, faint = copy.copy(world), 0.1 * latents[..., :2, :4]
    model.denoiser = copy.deepcopy(world.denoiser).requires_grad_(True)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=2e-3)
    for step in range(40):
        generator = rng.stream(0, "test-skill", step)
        clean = faint[:, :, step % 6 :][:, :, :5].expand(4, -1, -1, -1, -1)
        timestep = torch.randint(1000, (4,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        text = world.text([""] * 4)
        loss = all_frames_loss(model.denoiser, clean, text, noise, timestep, world.schedule).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    model.denoiser.requires_grad_(False)
    return model, faint


@pytest.mark.slow
def test_thirty_times_the_learning_rate_collapses_without_the_guard_and_holds_with_it(skilled):
    world, faint = skilled
    harm, undone = {}, {}
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        for rate, guard in ((3e-3, 0.1), (0.09, None), (0.09, 0.1)):
            learner = make_learner(world, lora, num_steps=2, learning_rate=rate, guard=guard)
            memory, reports = learner.fresh("a"), []
            for i in range(4):
                reports += learner.learn([memory], pair_at(faint, i), [ACTION])
            assert all(report.gain == 0.0 for report in reports if report.undone)
            harm[rate, guard] = harm_of(world, lora, memory, pair_at(faint, 0))
            undone[rate, guard] = sum(report.undone for report in reports)
    print(harm, undone)
    assert undone[3e-3, 0.1] == 0, "what learns well is left alone"
    assert harm[3e-3, 0.1] < 1
    assert undone[0.09, None] == 0
    assert harm[0.09, None] > 1.5
    assert undone[0.09, 0.1] > 0
    assert harm[0.09, 0.1] < 1.15


def test_a_chunk_that_is_undone_leaves_theta_and_adam_as_they_were(world, lora, latents):
    """And its neighbour in the batch learns on as if alone."""
    settings = {"guard": 0.5, "learning_rate": 1e-3, "rule": "whole_history"}
    learner = make_learner(world, lora, **settings)
    good, bad, alone = (learner.fresh(name) for name in ("good", "bad", "good"))
    pair = pair_at(latents, 0)
    learner.learn([good, bad], torch.cat([pair, pair]), [ACTION] * 2)
    learner.learn([alone], pair, [ACTION])
    before, moments = bad.theta.clone(), bad.optimizer_state()
    broken = torch.full_like(pair, NAN)
    reports = learner.learn([good, bad], torch.cat([pair + 1, broken]), [ACTION] * 2)
    learner.learn([alone], pair + 1, [ACTION])
    assert [report.undone for report in reports] == [False, True]
    assert torch.equal(bad.theta, before)
    after = bad.optimizer_state()
    assert all(torch.equal(after[name], moments[name]) for name in moments)
    assert bad.num_chunks == 2
    way = distance(alone.theta, learner.fresh("good").theta)
    assert distance(good.theta, alone.theta) < 1e-2 * way


@pytest.mark.parametrize(
    ("broken", "back"), [("01101", False), ("0111", True), ("01110", False), ("111111", True)]
)
def test_theta_goes_back_to_its_start_where_the_guard_keeps_undoing(
    world, lora, latents, broken, back
):
    """Chunk by chunk: 1 is undone. Only three in a row, and not the chunk that follows, leave Θ_0."""
    settings = {"guard": 0.5, "learning_rate": 1e-3}
    learners = [make_learner(world, lora, **settings, reset_after=n) for n in (3, None)]
    memory, plain = (learner.fresh("a") for learner in learners)
    start = memory.theta.clone()
    for i, undone in enumerate(broken):
        pair = pair_at(latents, 0) * (NAN if undone == "1" else 1)
        (report,) = learners[0].learn([memory], pair, [ACTION])
        learners[1].learn([plain], pair, [ACTION])
        assert report.undone == (undone == "1"), i
    assert torch.equal(memory.theta, start) == (back or "0" not in broken)
    if back:
        assert memory.optimizer_state() == {} and memory.undone_in_row == 0
        assert torch.equal(plain.theta, start) == ("0" not in broken), "off by default"


def test_how_often_the_guard_undid_in_a_row_is_kept_with_the_memory(world, lora, latents):
    learner = make_learner(world, lora, guard=0.5, learning_rate=1e-3, reset_after=2)
    memory = learner.fresh("a")
    learner.learn([memory], pair_at(latents, 0), [ACTION])
    learner.learn([memory], pair_at(latents, 0) * NAN, [ACTION])
    copy = learner.lend(memory, memory)
    assert copy.undone_in_row == 1 and torch.equal(copy.theta, memory.theta)
    learner.learn([copy], pair_at(latents, 0) * NAN, [ACTION])
    assert torch.equal(copy.theta, learner.fresh("a").theta)
    assert not torch.equal(memory.theta, copy.theta)


def test_the_guard_changes_nothing_where_nothing_is_undone(world, lora, latents):
    thetas = []
    for guard in (None, 0.5):
        learner = make_learner(world, lora, learning_rate=1e-4, guard=guard)
        memory = learner.fresh("a")
        for i in range(2):
            learner.learn([memory], pair_at(latents, i), [ACTION])
        thetas.append(memory.theta)
    assert torch.equal(*thetas)
