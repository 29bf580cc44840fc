import pytest
import torch
from torch.nn import functional as F

from sfv import rng
from sfv.fast.learner import FastLearner, FastSettings, frozen
from sfv.models.temporal_lora import TemporalLoRA, base_state_dict


@pytest.fixture
def lora(world):
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as adapter:
        yield adapter


def make_learner(world, lora, **settings):
    return FastLearner(
        world.denoiser,
        lora,
        world.schedule,
        lambda: world.text([""]),
        FastSettings(**{"num_steps": 3, "learning_rate": 1e-2, **settings}),
        seed=5,
    )


def forward(world, latents):
    with torch.no_grad():
        return world.denoiser(latents, torch.tensor([500]), world.text(["turn left"]), 3)


def test_a_fresh_memory_is_the_base_model_exactly(world, latents):
    pair = latents[:, :, :5]
    base = forward(world, pair)
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        learner = make_learner(world, lora)
        learner.begin("a")
        assert torch.equal(forward(world, pair), base)
        learner.learn(pair, 0)
        assert not torch.equal(forward(world, pair), base)
        learner.begin("b")
        assert torch.equal(forward(world, pair), base)


def test_learning_changes_no_slow_weight_and_leaves_no_gradient(world, lora, latents):
    for parameter in world.denoiser.parameters():
        parameter.requires_grad_(True)
    before = {k: v.clone() for k, v in base_state_dict(world.denoiser).items()}
    learner = make_learner(world, lora)
    learner.begin("a")
    learner.learn(latents[:, :, :5], 0)
    after = base_state_dict(world.denoiser)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in world.denoiser.parameters())
    theta = {id(p) for p in lora.parameters()}
    assert all(p.requires_grad for p in world.denoiser.parameters() if id(p) not in theta)
    world.denoiser.requires_grad_(False)


def test_one_step_equals_a_plain_loop(world, lora, latents):
    """The paper's rule written out: every frame noised and supervised, no text, Adam on Θ."""
    pair = latents[:, :, :5]
    learner = make_learner(world, lora, num_steps=2, probe_draws=0)
    learner.begin("episode")
    learner.learn(pair, chunk_idx=4)
    learned = lora.state()

    lora.reset(rng.stream(5, "theta0", "episode"))
    parameters = list(lora.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    alphas = world.schedule.alphas_cumprod()
    for step in range(2):
        generator = rng.stream(5, "fast-noise", "episode", 4, step)
        timestep = torch.randint(0, 1000, (1,), generator=generator)
        noise = torch.randn(pair.shape, generator=generator)
        alpha = alphas[timestep]
        noisy = alpha.sqrt() * pair + (1 - alpha).sqrt() * noise
        predicted = world.denoiser(noisy, timestep, world.text([""]), 0)
        optimizer.zero_grad()
        F.mse_loss(predicted, noise).backward()
        optimizer.step()
    for name, value in lora.state().items():
        torch.testing.assert_close(value, learned[name])


def test_state_saved_and_restored_gives_the_same_model(world, lora, latents):
    learner = make_learner(world, lora)
    learner.begin("a")
    learner.learn(latents[:, :, :5], 0)
    saved, expected = lora.state(), forward(world, latents[:, :, :5])
    learner.learn(latents[:, :, 2:7], 1)
    assert not torch.equal(forward(world, latents[:, :, :5]), expected)
    lora.load(saved)
    assert torch.equal(forward(world, latents[:, :, :5]), expected)


def test_many_draws_share_one_step_and_average(world, lora, latents):
    one = make_learner(world, lora, num_steps=1, draws_per_step=1)
    many = make_learner(world, lora, num_steps=1, draws_per_step=3)
    states = []
    for learner in (one, many):
        learner.begin("a")
        learner.learn(latents[:, :, :5], 0)
        states.append(lora.state())
    name = next(k for k in states[0] if "lora_B" in k)
    assert not torch.equal(states[0][name], states[1][name])


def test_adam_forgets_when_it_is_not_kept(world, lora, latents):
    states = []
    for keep in (True, False):
        learner = make_learner(world, lora, num_steps=1, keep_optimizer=keep)
        learner.begin("a")
        learner.learn(latents[:, :, :5], 0)
        learner.learn(latents[:, :, 2:7], 1)
        states.append(lora.state())
    name = next(k for k in states[0] if "lora_B" in k)
    assert not torch.equal(states[0][name], states[1][name])


def test_learning_works_under_inference_mode(world, lora, latents):
    learner = make_learner(world, lora)
    with torch.inference_mode():
        learner.begin("a")
        report = learner.learn(latents[:, :, :5], 0)
    assert report.loss > 0
    assert any(v.abs().sum() > 0 for k, v in lora.state().items() if "lora_B" in k)


def test_the_gain_is_measured_on_noise_that_is_not_trained_on(world, lora, latents):
    learner = make_learner(world, lora, num_steps=0, probe_draws=2)
    learner.begin("a")
    report = learner.learn(latents[:, :, :5], 0)
    assert report.gain == 0.0
    assert report.loss != report.loss  # no step, no training loss
    learner = make_learner(world, lora, num_steps=20, probe_draws=2)
    learner.begin("a")
    assert learner.learn(latents[:, :, :5], 0).gain > 0


def test_frozen_restores_mode_and_flags(world):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout())
    module[0].bias.requires_grad_(False)
    module.train()
    with frozen(module):
        assert not module[1].training
        assert not module[0].weight.requires_grad
    assert module[1].training
    assert module[0].weight.requires_grad
    assert not module[0].bias.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps=-1.*allowed: num_steps >= 0"),
        ({"draws_per_step": 0}, "draws_per_step=0.*draws_per_step >= 1"),
        ({"low": 0.5, "high": 0.5}, "low=0.5, high=0.5.*0 <= low < high <= 1"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        FastSettings(**settings)
