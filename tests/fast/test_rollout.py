import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.rollout import Rollout, join
from sfv.models.temporal_lora import TemporalLoRA

ACTIONS = ["walk forward", "turn left", "walk forward", "turn left"]
SAMPLER = SamplerSettings("ddim", num_inference_steps=2)


def make_rollout(world, lora=None, **settings):
    learner = None
    if lora is not None:
        learner = FastLearner(
            world.denoiser,
            lora,
            world.schedule,
            lambda: world.text([""]),
            FastSettings(**{"num_steps": 1, "learning_rate": 1e-2, **settings}),
        )
    return Rollout(world, SAMPLER, learner, seed=3)


def videos(chunks):
    return torch.cat([chunk.latents for chunk in chunks], dim=2)


def test_chunks_have_the_right_length_and_order(world, latents):
    start = latents[:, :, :3]
    chunks = make_rollout(world).run("e", start, ACTIONS)
    assert [chunk.chunk_idx for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk.action for chunk in chunks] == ACTIONS
    assert all(chunk.generated and chunk.learned is None for chunk in chunks)
    assert join(start, chunks).shape == (1, 5, 3 + 4 * 2, 4, 6)


def test_the_same_seed_gives_the_same_video_and_episodes_differ(world, latents):
    start = latents[:, :, :3]
    first = videos(make_rollout(world).run("e", start, ACTIONS))
    assert torch.equal(first, videos(make_rollout(world).run("e", start, ACTIONS)))
    assert not torch.equal(first, videos(make_rollout(world).run("f", start, ACTIONS)))


def test_memory_shares_sampling_noise(world, latents):
    """With K = 0 the memory stays fresh, so both rollouts must be equal: the noise is shared."""
    start = latents[:, :, :3]
    without = videos(make_rollout(world).run("e", start, ACTIONS))
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        idle = videos(make_rollout(world, lora, num_steps=0).run("e", start, ACTIONS))
        learned = make_rollout(world, lora, num_steps=2).run("e", start, ACTIONS)
    assert torch.equal(without, idle)
    assert torch.equal(without[:, :, :2], learned[0].latents), "chunk 1 comes before any learning"
    assert not torch.equal(without[:, :, 2:4], learned[1].latents)


def test_next_chunk_starts_from_the_truth_every_time(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    chunks = make_rollout(world).run("e", start, ACTIONS, protocol="next_chunk", truth=truth)
    assert all(chunk.generated for chunk in chunks)
    # A change of the first true chunk changes the prediction of the second, whose context it is.
    other = truth.clone()
    other[:, :, :2] += 1
    changed = make_rollout(world).run("e", start, ACTIONS, protocol="next_chunk", truth=other)
    assert torch.equal(chunks[0].latents, changed[0].latents)
    assert not torch.equal(chunks[1].latents, changed[1].latents)
    # The context is f_p = 3 frames: the last of the start and the two true ones before chunk 2.
    assert torch.equal(chunks[3].latents, changed[3].latents)


def test_return_shows_the_way_out_and_generates_the_rest(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        chunks = make_rollout(world, lora).run(
            "e", start, ACTIONS, protocol="return", truth=truth, num_shown=2
        )
    assert torch.equal(videos(chunks[:2]), truth[:, :, :4])
    assert [chunk.generated for chunk in chunks] == [False, False, True, True]
    assert all(chunk.learned is not None for chunk in chunks)


def test_long_ignores_what_the_truth_holds(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    blind = make_rollout(world).run("e", start, ACTIONS)
    seeing = make_rollout(world).run("e", start, ACTIONS, truth=truth)
    assert torch.equal(videos(blind), videos(seeing))


def test_a_short_start_or_truth_is_refused(world, latents):
    with pytest.raises(ValueError, match=r"start has 2 frames.*needs a context of 3"):
        make_rollout(world).run("e", latents[:, :, :2], ACTIONS)
    with pytest.raises(ValueError, match=r"shows 4 chunks of 2 frames, but the truth has 6 frames"):
        make_rollout(world).run(
            "e", latents[:, :, :3], ACTIONS, protocol="next_chunk", truth=latents[:, :, 3:9]
        )
