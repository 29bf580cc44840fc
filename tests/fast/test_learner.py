import copy
import math

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional as F

from sfv import rng
from sfv.diffusion.objective import masked_conditional_loss
from sfv.estimate.trace_slow import Meter
from sfv.fast.history import every_other_backward, remember, replayed
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.memory import Memory, make_optimizer
from sfv.fast.memory_file import MemoryOrigin, store
from sfv.fast.modes import frozen
from sfv.fast.settings import RULES
from sfv.fast.temporal_lora import TemporalLoRA

ACTION = "turn left"


@pytest.fixture
def lora(world):
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as adapter:
        yield adapter


def make_learner(world, lora, **settings):
    return FastLearner(
        world.denoiser,
        lora,
        world.schedule,
        world.text,
        world.num_context,
        FastSettings(**{"num_steps": 1, "learning_rate": 1e-2, "guard": None, **settings}),
        seed=5,
    )


def forward(world, latents, lora=None, memory=None):
    if lora is None:
        with torch.no_grad():
            return world.denoiser(latents, torch.tensor([500]), world.text(["turn left"]), 3)
    with lora.use(memory.theta[None]):
        return forward(world, latents)


def pair_at(latents, chunk_idx):
    """3 context frames and 2 generated ones."""
    return latents[:, :, 2 * chunk_idx : 2 * chunk_idx + 5]


def learned(learner, latents, episode="a", num=1):
    """A memory that learned the first chunks of an episode, and the last report."""
    memory = learner.fresh(episode)
    for i in range(num):
        (report,) = learner.learn([memory], pair_at(latents, i), [ACTION])
    return memory, report


def test_a_fresh_memory_is_the_base_model_exactly(world, lora, latents):
    base = forward(world, pair_at(latents, 0))
    learner = make_learner(world, lora)
    assert torch.equal(forward(world, pair_at(latents, 0), lora, learner.fresh("a")), base)
    memory, _ = learned(learner, latents)
    assert not torch.equal(forward(world, pair_at(latents, 0), lora, memory), base)
    assert torch.equal(forward(world, pair_at(latents, 0), lora, learner.fresh("b")), base)


def test_learning_changes_no_slow_weight_and_leaves_no_gradient(world, lora, latents):
    world.denoiser.requires_grad_(True)
    before = {k: v.clone() for k, v in world.denoiser.state_dict().items()}
    memory, _ = learned(make_learner(world, lora), latents)
    after = world.denoiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in world.denoiser.parameters())
    assert memory.theta.grad is None
    assert not memory.theta.requires_grad
    world.denoiser.requires_grad_(False)


def distance(a, b):
    """Not number by number: Adam makes a unit step of a gradient that is all rounding."""
    return float((a - b).norm())


def by_peft(world, lora, pair, chunk_idx, num_steps, episode, num_draws=1):
    """The paper's rule written out, with PEFT's layers: all frames noised, no text, Adam on Θ."""
    reference = copy.deepcopy(world.denoiser)
    names = [layer.name for layer in lora.layers]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=names), reference, "m")
    ours = lora.state(lora.fresh(rng.stream(5, "theta0", episode)))
    parameters = {
        n.replace(".m.", "."): p for n, p in reference.named_parameters() if ".lora_" in n
    }
    for name, parameter in parameters.items():
        parameter.data.copy_(ours[name])
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    alphas = world.schedule.alphas_cumprod()
    for step in range(num_steps):
        generator = rng.stream(5, "fast-noise", episode, chunk_idx, step)
        timestep = torch.randint(0, 1000, (num_draws,), generator=generator)
        noise = torch.randn((num_draws, *pair.shape[1:]), generator=generator)
        alpha = alphas[timestep].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * pair + (1 - alpha).sqrt() * noise
        predicted = reference(noisy, timestep, world.text([""] * num_draws), 0)
        optimizer.zero_grad()
        F.mse_loss(predicted, noise).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in parameters.items()}


@pytest.mark.parametrize("num_draws", [1, 3])
def test_the_paper_s_rule_equals_a_plain_loop_with_peft(world, lora, latents, num_draws):
    learner = make_learner(
        world, lora, num_steps=2, probe_draws=0, draws_per_step=num_draws, learning_rate=1e-2
    )
    memory = learner.fresh("episode")
    memory.num_chunks = 4
    learner.learn([memory], pair_at(latents, 0), [ACTION])
    expected = by_peft(world, lora, pair_at(latents, 0), 4, 2, "episode", num_draws)
    assert memory.num_chunks == 5
    assert distance(memory.theta, lora.theta(expected)) < 1e-3 * distance(
        memory.theta, learner.fresh("episode").theta
    )


@pytest.mark.parametrize("rule", list(RULES))
def test_episodes_learn_together_as_they_do_alone(world, lora, latents, rule):
    """Different lengths: the middle one leaves after a chunk, and the others do not notice."""
    settings = {"rule": rule, "draws_per_step": 2, "learning_rate": 1e-3, "guard": 0.5}
    latents = latents[..., :2, :4]
    learner = make_learner(world, lora, **settings)
    episodes = {name: latents + i for i, name in enumerate("abc")}
    lengths = {"a": 3, "b": 1, "c": 2}
    together = {name: learner.fresh(name) for name in episodes}
    reports = {name: [] for name in episodes}
    for i in range(3):
        going = [name for name in episodes if i < lengths[name]]
        pairs = torch.cat([pair_at(episodes[name], i) for name in going])
        actions = [["walk forward", "turn left"][(i + len(n)) % 2] for n in going]
        made = learner.learn([together[name] for name in going], pairs, actions)
        for name, report in zip(going, made, strict=True):
            reports[name].append(report)
    for name, video in episodes.items():
        alone = learner.fresh(name)
        for i in range(lengths[name]):
            action = ["walk forward", "turn left"][(i + 1) % 2]
            (report,) = learner.learn([alone], pair_at(video, i), [action])
            assert report.loss == pytest.approx(reports[name][i].loss, rel=1e-4)
            assert report.gain == pytest.approx(reports[name][i].gain, abs=1e-4)
            assert report.drift == pytest.approx(reports[name][i].drift, rel=1e-2)
        way = distance(alone.theta, learner.fresh(name).theta)
        assert distance(together[name].theta, alone.theta) < 1e-2 * way


def loss_by_hand(world, latents, noise_of, num_context, action):
    """A rule's loss at fresh Θ, which is the base, on the learner's own noise."""
    timestep = torch.randint(0, 1000, (1,), generator=noise_of)
    noise = torch.randn(latents.shape, generator=noise_of)
    with torch.no_grad():
        text = world.text([action])
        return float(
            masked_conditional_loss(
                world.denoiser, latents, text, noise, timestep, num_context, world.schedule
            )
        )


@pytest.mark.parametrize(
    ("rule", "num_context", "action", "first_frame"),
    [
        ("pair", 0, "", 0),
        ("text_style", 3, ACTION, 0),
        ("whole_history", 0, "", 0),
        ("single_frame", 0, "", 2),
        ("both_ways", 0, "", 0),
        ("clean_context", 3, "", 0),
        ("retrace", 3, "", 0),
    ],
)
def test_each_rule_descends_its_own_loss(
    world, lora, latents, rule, num_context, action, first_frame
):
    learner = make_learner(world, lora, rule=rule, num_steps=1)
    _, report = learned(learner, latents)
    pair = pair_at(latents, 0)[:, :, first_frame:]
    noise_of = rng.stream(5, "fast-noise", "a", 0, 0)
    assert report.loss == pytest.approx(
        loss_by_hand(world, pair, noise_of, num_context, action), rel=1e-4
    )


def test_both_ways_sees_every_other_draw_backward_over_all_steps(world, lora, latents):
    draws = torch.arange(2 * 3 * 4).view(2, 3, 1, 4, 1, 1)
    turned = every_other_backward(draws.float(), before=3)
    backward = draws.float().flip(3)
    assert torch.equal(turned[:, [0, 2]], backward[:, [0, 2]])
    assert torch.equal(turned[:, 1], draws[:, 1].float())
    forward = [
        learned(make_learner(world, lora, rule=rule, num_steps=n), latents)[0].theta
        for n in (1, 2)
        for rule in ("pair", "both_ways")
    ]
    assert torch.equal(forward[0], forward[1]), "the first step has one draw, which goes forward"
    assert not torch.equal(forward[2], forward[3])


def test_retrace_predicts_the_way_out_from_the_way_back(world, lora, latents):
    """The second step's draw: the pair backward, its first frames clean and not supervised."""
    learner = make_learner(world, lora, rule="retrace", num_steps=2, learning_rate=1e-9)
    _, report = learned(learner, latents)
    losses = [
        loss_by_hand(world, pair, rng.stream(5, "fast-noise", "a", 0, step), 3, "")
        for step, pair in enumerate((pair_at(latents, 0), pair_at(latents, 0).flip(2)))
    ]
    assert report.loss == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_whole_history_is_learned_from_a_bounded_sample(world, lora, latents):
    """3 of 40 pairs are kept, over many episodes each equally often."""
    kept, theta = torch.zeros(8), torch.zeros(1)
    optimizer = make_optimizer("sgd", theta, 1.0)
    for episode in range(200):
        memory = Memory(f"e{episode}", theta, optimizer)
        for i in range(8):
            remember(memory, torch.full((1, 1, 1, 1, 1), float(i)), 3, seed=0)
            memory.num_chunks += 1
        assert len(memory.history) == 3
        kept[[int(pair) for pair in memory.history]] += 1
    assert kept.min() > 50, "expected: 200 * 3 / 8 = 75"
    assert kept.max() < 100
    memory, _ = learned(make_learner(world, lora, rule="whole_history", history=2), latents, num=4)
    assert len(memory.history) == 2
    drawn = replayed(memory, pair_at(latents, 3), 50, seed=0, step=0)
    known = [*memory.history, pair_at(latents, 3)]
    times = [sum(torch.equal(x[None], pair) for x in drawn) for pair in known]
    assert sum(times) == 50
    assert min(times) > 5


def test_a_stored_memory_learns_on_bit_for_bit(world, lora, latents):
    """Θ, Adam's moments, the replayed pairs, the guard's reference, the position in the noise."""
    settings = {"rule": "whole_history", "history": 2, "guard": 0.5, "draws_per_step": 2}
    learner = make_learner(world, lora, **settings)
    whole, _ = learned(learner, latents, num=4)
    half, _ = learned(learner, latents, num=2)
    stored = store(
        half, lora.state(half.theta), half.extras(), MemoryOrigin(world.fingerprint, 4, 4.0, {})
    )
    del half
    again = make_learner(world, lora, **settings).restore(stored)
    for i in (2, 3):
        learner.learn([again], pair_at(latents, i), [ACTION])
    assert torch.equal(again.theta, whole.theta)
    ours, theirs = again.extras(), whole.extras()
    assert ours.keys() == theirs.keys() >= {"history", "first.latents", "optimizer.exp_avg"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_activation_checkpointing_changes_no_number_and_leaves_no_trace(world, lora, latents):
    plain, _ = learned(make_learner(world, lora), latents, num=2)
    again, _ = learned(make_learner(world, lora, activation_checkpointing=True), latents, num=2)
    assert torch.equal(again.theta, plain.theta)
    assert not any("forward" in vars(m) for m in world.denoiser.modules())


def test_activation_checkpointing_keeps_less(world, lora, latents):
    def most(**settings):
        learner, meter = make_learner(world, lora, probe_draws=0, **settings), Meter()
        memory = learner.fresh("a")
        with meter:
            learner.learn([memory], pair_at(latents, 0), [ACTION])
        return meter.peak

    assert most(activation_checkpointing=True) < 0.7 * most()


def test_adam_forgets_when_it_is_not_kept(world, lora, latents):
    thetas = [
        learned(make_learner(world, lora, num_steps=1, keep_optimizer=keep), latents, num=2)[
            0
        ].theta
        for keep in (True, False)
    ]
    assert not torch.equal(*thetas)


def test_plain_gradient_descent_steps_along_the_gradient(world, lora, latents):
    """lr times the gradient of the first step, which Adam's unit steps are not."""
    small, large = (
        learned(make_learner(world, lora, num_steps=1, optimizer="sgd", learning_rate=lr), latents)
        for lr in (1e-3, 2e-3)
    )
    fresh = make_learner(world, lora).fresh("a").theta
    assert (small[0].theta - fresh).any()
    torch.testing.assert_close(
        2 * (small[0].theta - fresh), large[0].theta - fresh, rtol=1e-2, atol=1e-7
    )


def test_learning_works_under_inference_mode(world, lora, latents):
    learner = make_learner(world, lora)
    with torch.inference_mode():
        memory = learner.fresh("a")
        (report,) = learner.learn([memory], pair_at(latents, 0), [ACTION])
    assert report.loss > 0
    assert report.drift > 0


def test_the_gain_is_measured_on_noise_that_is_not_trained_on(world, lora, latents):
    _, report = learned(make_learner(world, lora, num_steps=0, probe_draws=2), latents)
    assert report.gain == report.drift == 0.0
    assert math.isnan(report.loss), "no step, no training loss"
    _, report = learned(make_learner(world, lora, num_steps=20, probe_draws=2), latents)
    assert report.gain > 0
    assert report.drift**2 == pytest.approx(sum(norm**2 for norm in report.layers.values()))


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
        ({"learning_rate": 0.0}, "learning_rate=0.0.*allowed: learning_rate > 0"),
        ({"history": 0}, "history=0.*history >= 1"),
        ({"guard": -0.1}, "guard=-0.1; allowed: 0 or more.*or null for none"),
        ({"reset_after": 0}, "reset_after=0; allowed: 1 or more, or null for never"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        FastSettings(**settings)
