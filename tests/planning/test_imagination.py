from dataclasses import replace

import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.models.world_model import WorldModel
from sfv.planning.imagination import WorldImagination
from sfv.rng import stream
from tests.planning.make import CHUNK, CONTEXT, SIZE, make_world

SETTINGS = GenerationSettings(
    SamplerSettings("ddim", num_inference_steps=2),
    LoRASettings(r=2, alpha=2.0),
    FastSettings(num_steps=1, learning_rate=1e-2),
    seed=3,
)
ACTIONS = ["east", "north", "west"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return WorldModel.load(make_world(tmp_path_factory.mktemp("world") / "model"))


def given(frames=CONTEXT + 1):
    return torch.rand(frames, 3, SIZE, SIZE, generator=stream(0, "given"))


def imagine(world, row, seen=None, settings=SETTINGS):
    """Chunk after chunk; gives each one's latents."""
    with rollout_of(world, row, settings) as made:
        dreams = WorldImagination(world, SETTINGS.sampler, made.learner, SETTINGS.seed)
        dreams.begin("e", given(), None)
        found = []
        for i, action in enumerate(ACTIONS):
            (chunk,) = dreams.imagine([action])
            true = None if seen is None else seen[i * CHUNK : (i + 1) * CHUNK]
            dreams.keep(action, chunk, true)
            found.append(chunk.state)
        return found, dreams.memory


@pytest.mark.parametrize("row", ["none", "fast"])
def test_an_open_loop_is_a_rollout(world, row):
    found, memory = imagine(world, row)
    with rollout_of(world, row, SETTINGS) as rollout:
        chunks = rollout.run("e", world.codec.encode(given()[None]), ACTIONS)
    # A rollout without memory counts chunks from 0, one with memory from those learned.
    if row == "fast":
        assert memory is not None and memory.num_chunks == 3
        theta = chunks[-1].memory.theta
        assert theta.shape == memory.theta.shape and not torch.equal(theta, 0 * theta)
    assert [c.shape for c in found] == [c.generated.shape for c in chunks]
    for ours, theirs in zip(found, chunks, strict=True):
        torch.testing.assert_close(ours, theirs.generated, rtol=1e-4, atol=1e-5)


def test_a_closed_loop_is_a_rollout_that_is_shown_the_truth(world):
    seen = torch.rand(3 * CHUNK, 3, SIZE, SIZE, generator=stream(1, "seen"))
    found, _ = imagine(world, "fast", seen)
    with rollout_of(world, "fast", SETTINGS) as rollout:
        shown = world.codec.encode(seen[None])
        chunks = rollout.run("e", world.codec.encode(given()[None]), ACTIONS, shown=shown)
    for ours, theirs in zip(found, chunks, strict=True):
        torch.testing.assert_close(ours, theirs.generated, rtol=1e-4, atol=1e-5)


def test_what_nobody_looked_at_is_left_unlearned_where_the_settings_say_so(world):
    settings = replace(SETTINGS, fast=replace(SETTINGS.fast, own_chunks=False))
    seen = torch.rand(3 * CHUNK, 3, SIZE, SIZE, generator=stream(1, "seen"))
    blind, memory = imagine(world, "fast", settings=settings)
    without, _ = imagine(world, "none")
    assert memory is not None and memory.num_chunks == 3
    for ours, theirs in zip(blind, without, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    _, looked = imagine(world, "fast", seen, settings)
    _, always = imagine(world, "fast", seen)
    assert looked is not None and always is not None and torch.equal(looked.theta, always.theta)


def test_candidates_come_out_as_they_would_alone_and_nothing_moves_on(world):
    with rollout_of(world, "fast", SETTINGS) as made:
        dreams = WorldImagination(world, SETTINGS.sampler, made.learner, SETTINGS.seed)
        dreams.begin("e", given(), None)
        together = dreams.imagine(ACTIONS)
        alone = [dreams.imagine([action])[0] for action in ACTIONS]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.state, other.state, rtol=1e-4, atol=1e-5)
        assert one.frames.shape == (CHUNK, 3, SIZE, SIZE)
    assert not torch.allclose(together[0].state, together[1].state)


def test_a_memory_goes_on_and_changes_what_is_imagined(world):
    with rollout_of(world, "fast", SETTINGS) as made:
        dreams = WorldImagination(world, SETTINGS.sampler, made.learner, SETTINGS.seed)
        dreams.begin("e", given(), None)
        fresh = dreams.imagine(["east"])[0].state
        dreams.keep("east", dreams.imagine(["east"])[0], None)
        memory = dreams.memory
        dreams.begin("e", given(), memory)
        assert dreams.memory is memory and memory.num_chunks == 1
        assert not torch.allclose(dreams.imagine(["east"])[0].state, fresh)
        dreams.begin("e", given(), None)
        torch.testing.assert_close(dreams.imagine(["east"])[0].state, fresh)


def test_too_few_given_frames_are_refused(world):
    dreams = WorldImagination(world, SETTINGS.sampler, None)
    with pytest.raises(ValueError, match="2 frames are given"):
        dreams.begin("e", given(CONTEXT - 1), None)
