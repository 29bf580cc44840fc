import math

import pytest
import torch

from sfv.diffusion.objective import all_frames_loss, masked_conditional_loss
from sfv.evaluation.probe import (
    ProbedEpisode,
    ProbeLosses,
    learn_episode,
    probe_loss,
    probe_memories,
)
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.rng import stream


@pytest.fixture
def lora(world):
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as adapter:
        yield adapter


def make_learner(world, lora, **settings):
    args = {"num_steps": 8, "learning_rate": 1e-2, "guard": None, "probe_draws": 0, **settings}
    return FastLearner(
        world.denoiser, lora, world.schedule, world.text, 3, FastSettings(**args), seed=5
    )


def episode(name, num=2):
    """Noise-like latents of their own mean: what another episode does not teach."""
    generator = stream(0, "probe-test", name)
    level = torch.randn(1, 5, 1, 4, 6, generator=generator)
    pairs = level + 0.1 * torch.randn(num, 5, 5, 4, 6, generator=generator)
    return ProbedEpisode(name, pairs, ["turn left"] * num)


def test_the_loss_is_the_rules_on_fixed_noise(world, lora):
    one = episode("a")
    for rule, action in (("pair", ""), ("text_style", "turn left")):
        learner = make_learner(world, lora, rule=rule, low=0.2, high=0.6)
        expected = 0.0
        for i in range(2):
            noise = torch.randn(3, 5, 5, 4, 6, generator=stream(5, "memory-probe", "a", i))
            text = world.text([action]).expand(3, -1, -1)
            steps = [round(1000 * share) for share in (0.2 + 0.4 / 6, 0.4, 0.6 - 0.4 / 6)]
            args = (
                one.pairs[i : i + 1].expand(3, -1, -1, -1, -1),
                text,
                noise,
                torch.tensor(steps),
            )
            with torch.no_grad():
                loss = (
                    all_frames_loss(world.denoiser, *args, world.schedule)
                    if rule == "pair"
                    else masked_conditional_loss(world.denoiser, *args, 3, world.schedule)
                )
            expected += loss.mean().item() / 2
        assert probe_loss(learner, None, one, 3) == pytest.approx(expected, rel=1e-5)


def test_a_fresh_memory_holds_nothing(world, lora):
    learner, episodes = make_learner(world, lora), [episode("a"), episode("b")]
    fresh = [learner.fresh(one.name) for one in episodes]
    for found in probe_memories(learner, fresh, episodes, num_draws=2):
        assert (found.own, found.other) == (found.base_own, found.base_other)
        assert found.held == found.gain_own == 0


def test_a_memory_holds_its_own_episode_more_than_another(world, lora):
    learner, episodes = make_learner(world, lora), [episode(name) for name in "ab"]
    memories = [learn_episode(learner, one) for one in episodes]
    assert [memory.num_chunks for memory in memories] == [2, 2]
    before = [memory.theta.clone() for memory in memories]
    found = probe_memories(learner, memories, episodes, num_draws=2)
    assert all(one.gain_own > 0 for one in found)
    assert sum(one.held for one in found) > 0
    assert found[1].base_other == found[0].base_own, "the last is compared with the first"
    assert all(map(torch.equal, before, (memory.theta for memory in memories)))
    exchanged = probe_memories(learner, memories[1:] + memories[:1], episodes, num_draws=2)
    assert sum(one.held for one in exchanged) < 0


def test_shares_are_of_the_base() -> None:
    found = ProbeLosses(own=0.3, other=0.9, base_own=0.4, base_other=1.0)
    assert found.gain_own == pytest.approx(0.25) and found.gain_other == pytest.approx(0.1)
    assert math.isclose(found.held, 0.15)


def test_bad_probes_are_named(world, lora):
    learner, one = make_learner(world, lora), episode("a")
    with pytest.raises(ValueError, match="1 memories and 1 episodes; a probe compares each memory"):
        probe_memories(learner, [learner.fresh("a")], [one])
    with pytest.raises(ValueError, match="episode 'a' with 2 pairs and 0 noise draws"):
        probe_loss(learner, None, one, 0)
