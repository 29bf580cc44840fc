from dataclasses import replace

import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.modes import frozen
from sfv.generation.rollout import Request, Rollout
from tests.training.loop import PAIRS, SETTINGS, cut, learned, numbered, phase_of

ALONE = replace(SETTINGS, episodes_at_once=1)
"""Exactly equal numbers; in a batch they are equal up to rounding."""


def episodes_of(data):
    return [episode for _, episode in numbered(data)]


def test_the_replay_holds_the_memory_from_before_each_pair(data):
    """Θ_0 of an episode is fresh; Θ_1 is what learning pair 0 alone gives."""
    episodes = episodes_of(data)
    with phase_of(data, ALONE) as phase:
        items = learned(phase, episodes[:2])
        assert [item.key for item in items] == [
            f"{e['key']}/{i}" for e in episodes[:2] for i in range(PAIRS)
        ]
        for number, episode in enumerate(episodes[:2]):
            first, second = items[PAIRS * number : PAIRS * (number + 1)]
            memory = phase.learner.fresh(f"{episode['key']}#{number + 1}")
            assert torch.equal(first.theta(), memory.theta)
            assert set(phase.learner.weights.drift(first.theta()).values()) == {0.0}
            phase.learner.learn([memory], episode["pairs"][:1], episode["actions"][:1])
            assert torch.equal(second.theta(), memory.theta)
            assert not torch.equal(second.theta(), first.theta())
            for i, item in enumerate((first, second)):
                assert torch.equal(item.latents, episode["pairs"][i : i + 1])
                assert item.action == episode["actions"][i]


def test_a_group_learns_in_one_batch_what_its_episodes_learn_alone(data):
    """Episodes of two pairs and of one; the longer goes on when the shorter has left."""
    replays = []
    for at_once in (1, 2, None):
        with phase_of(data, replace(SETTINGS, episodes_at_once=at_once)) as phase:
            replays.append(learned(phase, cut(data, (2, 1, 2))))
    alone, pairwise, joint = replays
    assert len(alone) == 5
    for others in (pairwise, joint):
        assert [item.key for item in others] == [item.key for item in alone]
        for item, other in zip(alone, others, strict=True):
            assert torch.equal(item.latents, other.latents)
            torch.testing.assert_close(item.theta(), other.theta(), rtol=0, atol=2e-3)
    assert (alone[1].theta() - alone[0].theta()).abs().max() > 5e-3


def test_episodes_of_other_sizes_learn_in_batches_of_their_own(data):
    sizes = [{**e, "pairs": e["pairs"][..., : 6 - 2 * (i == 1)]} for i, e in numbered(data)]
    with phase_of(data, replace(SETTINGS, max_chunks=1)) as phase:
        items = learned(phase, sizes)
    assert sorted(tuple(item.latents.shape[-2:]) for item in items) == [(4, 4), (4, 6), (4, 6)]


def test_max_chunks_takes_the_first_pairs_of_each_episode(data):
    for chunks, keys in ((1, ["/0", "/0"]), (9, ["/0", "/1"] * 2)):
        with phase_of(data, replace(SETTINGS, max_chunks=chunks)) as phase:
            assert [item.key[-2:] for item in learned(phase, episodes_of(data)[:2])] == keys


def test_an_episode_that_comes_again_starts_with_another_memory(data):
    """Its name counts visits, so that Φ does not get used to one random Θ an episode."""
    with phase_of(data, replace(SETTINGS, max_chunks=1)) as phase:
        first, again = (learned(phase, episodes_of(data), visits) for visits in (0, 3))
    assert [item.key for item in first] == [item.key for item in again]
    assert not any(torch.equal(a.theta(), b.theta()) for a, b in zip(first, again, strict=True))


def test_episodes_of_one_scene_learn_one_memory_in_turn(data):
    """The third is of another scene; Θ before pair 0 of the second episode is Θ after all of the first."""
    episodes = [{**e, "scene": "ab"[i // 2]} for i, e in numbered(data)]
    with phase_of(data, replace(ALONE, memory_scope="scene")) as phase:
        courses = phase.courses(episodes, 0)
        assert [len(course.lessons) for course in courses] == [2 * PAIRS, PAIRS]
        items = learned(phase, episodes)
        memory = phase.learner.fresh(courses[0].name)
        for item in items[: 2 * PAIRS]:
            assert torch.equal(item.theta(), memory.theta)
            phase.learner.learn([memory], item.latents, [item.action])
    drift = [phase.learner.weights.drift(item.theta()) for item in items]
    assert [max(d.values()) == 0.0 for d in drift] == [True, False, False, False, True, False]


def test_scenes_are_asked_for_where_the_data_names_none(data):
    (episode, *_) = episodes_of(data)
    assert episode.pop("scene") == "train-yard"
    message = r"memory_scope is 'scene', but episode '.*' .* none"
    scenes = replace(SETTINGS, memory_scope="scene")
    with phase_of(data, scenes) as phase, pytest.raises(ValueError, match=message):
        phase.courses([episode], 0)


def test_generated_pairs_are_what_the_model_makes_of_the_true_context(data):
    """Θ_1 comes from X_0 with the chunk made from it; the replay still holds the true pair."""
    settings = replace(
        SETTINGS, inner_pairs="generated", sampler=SamplerSettings(num_inference_steps=1)
    )
    (episode, *_) = episodes_of(data)
    with phase_of(data, settings) as phase:
        items = learned(phase, [episode])
        model = phase.rollout.model
        memory = phase.learner.fresh(f"{episode['key']}#1")
        sample = Rollout(model, settings.sampler, None, settings.seed)
        first = Request(memory.episode, episode["pairs"][:1, :, :3], episode["actions"][:1])
        with frozen(phase.denoiser):  # weights that take gradients may go through other kernels
            (made,) = sample.run_many([first])[0]
        pair = torch.cat([episode["pairs"][:1, :, :3], made.generated], dim=2)
        phase.learner.learn([memory], pair, episode["actions"][:1])
    assert torch.equal(items[0].latents, episode["pairs"][:1])
    assert torch.equal(items[1].theta(), memory.theta)
    with phase_of(data) as phase:
        true = learned(phase, [episode])
    assert not torch.allclose(true[1].theta(), items[1].theta(), rtol=0, atol=2e-3)


def test_dropout_rests_while_pairs_are_generated(data):
    settings = replace(
        SETTINGS, inner_pairs="generated", sampler=SamplerSettings(num_inference_steps=1)
    )
    seen = []
    with phase_of(data, settings) as phase:
        phase.denoiser.train()
        hook = phase.denoiser.register_forward_hook(lambda m, *_: seen.append(m.training))
        learned(phase, episodes_of(data)[:1])
        hook.remove()
        assert phase.denoiser.training
    assert seen == [False] * 2 * PAIRS


def test_a_learned_start_is_where_every_memory_begins(data):
    with phase_of(data, replace(ALONE, start="learned", max_chunks=1)) as phase:
        phase.learner.start_from(torch.arange(len(phase.learner.start)) / len(phase.learner.start))
        courses = phase.courses(episodes_of(data)[:2], 0)
        phase.replay.begin(1)
        done = phase.learn(courses, lambda reports: None)
        assert all(torch.equal(item.theta(), phase.learner.start) for item in phase.replay.items)
        ends = []
        for course in courses:
            memory = phase.learner.fresh(course.name)
            phase.learn_pairs([memory], course.lessons)
            ends.append(memory.theta)
    assert done.num_courses == 2
    assert torch.equal(done.drift, sum(end - phase.learner.start for end in ends))
