import subprocess
import sys

import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.memory_file import MemoryOrigin, store
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.rollout import Request, Rollout, join

ACTIONS = ["walk forward", "turn left", "walk forward", "turn left"]
SAMPLER = SamplerSettings("ddim", num_inference_steps=2)


def make_rollout(world, lora=None, sampler=SAMPLER, **settings):
    learner = None
    if lora is not None:
        learner = FastLearner(
            world.denoiser,
            lora,
            world.schedule,
            world.text,
            world.num_context,
            FastSettings(**{"num_steps": 1, "learning_rate": 1e-2, "probe_draws": 0, **settings}),
        )
    return Rollout(world, sampler, learner, seed=3)


def videos(chunks):
    return torch.cat([chunk.generated for chunk in chunks], dim=2)


def test_chunks_have_the_right_length_and_order(world, latents):
    start = latents[:, :, :3]
    chunks = make_rollout(world).run("e", start, ACTIONS)
    assert [chunk.chunk_idx for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk.action for chunk in chunks] == ACTIONS
    assert all(chunk.shown is None and chunk.learned is None for chunk in chunks)
    assert join(start, chunks).shape == (1, 5, 3 + 4 * 2, 4, 6)
    assert torch.equal(join(start, chunks)[:, :, 3:], videos(chunks))


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
    assert torch.equal(without[:, :, :2], learned[0].generated), "chunk 1 precedes all learning"
    assert not torch.equal(without[:, :, 2:4], learned[1].generated)


def test_shown_chunks_are_predicted_from_the_truth(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    chunks = make_rollout(world).run("e", start, ACTIONS, shown=truth)
    assert torch.equal(join(start, chunks), latents)
    # A change of the first true chunk changes the prediction of the second, whose context it is.
    other = truth.clone()
    other[:, :, :2] += 1
    changed = make_rollout(world).run("e", start, ACTIONS, shown=other)
    assert torch.equal(chunks[0].generated, changed[0].generated)
    assert not torch.equal(chunks[1].generated, changed[1].generated)
    # The context is f_p = 3 frames: the fourth chunk sees the second and the third alone.
    assert torch.equal(chunks[3].generated, changed[3].generated)


def test_after_the_shown_chunks_the_model_goes_on_alone(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        rollout = make_rollout(world, lora)
        chunks = rollout.run("e", start, ACTIONS, shown=truth[:, :, :4])
    assert torch.equal(join(start, chunks)[:, :, :7], latents[:, :, :7])
    assert [chunk.shown is None for chunk in chunks] == [False, False, True, True]
    assert all(chunk.learned is not None for chunk in chunks)
    assert not torch.equal(chunks[2].kept, truth[:, :, 4:6])


def test_the_memory_learns_what_is_shown_not_what_was_predicted(world, latents):
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    states = []
    for shown in (truth[:, :, :2], truth[:, :, :2] + 1, None):
        with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
            (chunk,) = make_rollout(world, lora).run("e", start, ACTIONS[:1], shown=shown)
            states.append(chunk.memory.theta)
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_own_chunks_are_left_unlearned_where_the_settings_say_so(world, latents):
    """Three episodes are shown two, one and no chunk: each learns those alone, and counts all."""
    start, truth = latents[:, :, :3], latents[:, :, 3:]
    requests = [
        Request(name, start, ACTIONS[:3], shown=truth[:, :, : 2 * num] if num else None)
        for name, num in (("a", 2), ("b", 1), ("c", 0))
    ]
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        rollout = make_rollout(world, lora, own_chunks=False)
        many = rollout.run_many(requests)
        learned = [[chunk.learned is not None for chunk in chunks] for chunks in many]
        assert learned == [[True, True, False], [True, False, False], [False] * 3]
        for request, chunks in zip(requests, many, strict=True):
            memory = chunks[-1].memory
            assert memory.num_chunks == 3
            num = sum(chunk.learned is not None for chunk in chunks)
            theta = rollout.learner.fresh(request.episode).theta
            if num:
                only_shown = Request(request.episode, start, ACTIONS[:num], shown=request.shown)
                theta = list(make_rollout(world, lora).stream(only_shown))[-1].memory.theta
            torch.testing.assert_close(memory.theta, theta, rtol=1e-3, atol=1e-3)
        everything = make_rollout(world, lora).run_many(requests)
    assert torch.equal(many[2][0].generated, everything[2][0].generated)
    assert not torch.equal(many[2][1].generated, everything[2][1].generated)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("with_memory", [False, True])
def test_videos_made_at_once_are_the_ones_made_alone(world, latents, guidance, with_memory):
    """Three episodes of 3, 1 and 2 chunks; the second is shown its truth and leaves first."""
    sampler = SamplerSettings("ddim", num_inference_steps=2, guidance_scale=guidance)
    small = latents[..., :2, :4]
    requests = [
        Request("a", small[:, :, :3], ACTIONS[:3]),
        Request("b", small[:, :, 1:5], ACTIONS[1:2], shown=small[:, :, 5:7]),
        Request("c", small[:, :, 2:5], ACTIONS[2:]),
    ]
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        rollout = make_rollout(world, lora if with_memory else None, sampler, learning_rate=1e-3)
        seen = []
        together = rollout.run_many(requests, on_chunk=lambda chunk: seen.append(chunk.chunk_idx))
        assert seen == [1, 1, 1, 2, 2, 3]
        for request, chunks in zip(requests, together, strict=True):
            alone = list(rollout.stream(request))
            assert [c.action for c in chunks] == [c.action for c in alone] == request.actions
            torch.testing.assert_close(videos(chunks), videos(alone), rtol=1e-3, atol=1e-3)
            assert (chunks[0].memory is not None) == with_memory


def test_videos_of_different_size_are_not_made_at_once(world, latents):
    requests = [
        Request("a", latents[:, :, :3], ACTIONS),
        Request("b", latents[:, :, :3, 1:], ACTIONS),
    ]
    with pytest.raises(ValueError, match=r"equal latents.*\(5, 3, 6\), \(5, 4, 6\).*one after the"):
        make_rollout(world).run_many(requests)


def test_a_rollout_in_two_parts_is_the_whole_one_bit_for_bit(world, latents):
    start = latents[:, :, :3]
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        rollout = make_rollout(world, lora, probe_draws=1)
        whole = rollout.run("e", start, ACTIONS)
        first = rollout.run("e", start, ACTIONS[:2])
        memory = first[-1].memory
        rest = list(rollout.stream(Request("e", memory.context, ACTIONS[2:], memory=memory)))
        assert [chunk.chunk_idx for chunk in rest] == [3, 4]
        assert torch.equal(videos(first + rest), videos(whole))
        assert torch.equal(memory.theta, whole[-1].memory.theta)
        assert rest[-1].learned.gain == whole[-1].learned.gain


ALIVE = """
import gc, torch
from benchmarks.cpu_unet import SCHEDULE, pair
from benchmarks.fast_learning import ACTION, world_of
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner, FastSettings
from sfv.generation.rollout import Request, Rollout
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.fast.memory_file import MemoryOrigin, store
from sfv.generation.rollout import Request, Rollout
from sfv.fast.temporal_lora import TemporalLoRA

unet, alive = pair()[0], []
world = world_of(unet, 2)
lora = TemporalLoRA(unet, 4)
learner = FastLearner(unet, lora, SCHEDULE, world.text, 2, FastSettings(num_steps=1))
rollout = Rollout(world, SamplerSettings("ddim", 1), learner)
for chunk in rollout.stream(Request("e", torch.zeros(1, 16, 2, 4, 4), [ACTION] * 5)):
    del chunk
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
    alive.append((len(tensors), sum(x.untyped_storage().nbytes() for x in tensors)))
    del tensors
assert alive[1] == alive[4], alive
"""


@pytest.mark.slow
def test_a_long_rollout_keeps_nothing_of_its_chunks():
    """In a process of its own: the type checks of the tests keep what they see."""
    done = subprocess.run([sys.executable, "-c", ALIVE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_frame_of_context_where_the_rule_says_so(world, latents):
    """Generation and learning see the newest frame alone: older ones change nothing."""
    start, other = latents[:, :, :3], latents[:, :, :3].clone()
    other[:, :, :2] += 1
    for rule, same in (("single_frame", True), ("pair", False)):
        made = []
        for given in (start, other):
            with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
                made.append(make_rollout(world, lora, rule=rule).run("e", given, ACTIONS[:2]))
        assert torch.equal(videos(made[0]), videos(made[1])) == same
        assert torch.equal(made[0][-1].memory.theta, made[1][-1].memory.theta) == same


@pytest.mark.parametrize(("rule", "window"), [("single_frame", 1 + 2), ("pair", 3 + 2)])
def test_what_a_rollout_learns_is_context_and_new_frames(world, latents, rule, window):
    lengths = set()

    def note(_, args, kwargs):
        if torch.is_grad_enabled():
            lengths.add(args[0].shape[2])

    hook = world.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        make_rollout(world, lora, rule=rule).run("e", latents[:, :, :3], ACTIONS[:2])
    hook.remove()
    assert lengths == {window}


def test_a_short_start_or_odd_truth_is_refused(world, latents):
    with pytest.raises(ValueError, match=r"start has 2 frames.*needs a context of 3"):
        make_rollout(world).run("e", latents[:, :, :2], ACTIONS)
    with pytest.raises(ValueError, match=r"3 true frames are to be shown.*4 chunks of 2 frames"):
        make_rollout(world).run("e", latents[:, :, :3], ACTIONS, shown=latents[:, :, 3:6])
    with pytest.raises(ValueError, match=r"8 true frames are to be shown.*1 chunks of 2 frames"):
        make_rollout(world).run("e", latents[:, :, :3], ACTIONS[:1], shown=latents[:, :, 3:])


def test_a_memory_of_another_size_is_refused_before_sampling(world, latents):
    start = latents[:, :, :3]
    settings = {"rule": "whole_history", "guard": 0.1, "probe_draws": 1}
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        rollout = make_rollout(world, lora, **settings)
        memory = rollout.run("e", start, ACTIONS[:1])[0].memory
        list(rollout.stream(Request("e", start, ACTIONS[:1], memory=memory)))
        larger = torch.zeros(1, 5, 3, 6, 6)
        with pytest.raises(
            ValueError, match=r"keeps pairs of .*\(5, 5, 4, 6\), but .* \(5, 5, 6, 6\)"
        ):
            next(rollout.stream(Request("e", larger, ACTIONS[:1], memory=memory)))
        list(
            make_rollout(world, lora, guard=None).stream(
                Request("e", larger, ACTIONS[:1], memory=memory)
            )
        )
    with pytest.raises(ValueError, match="the start has 4 latent channels, but this model has 5"):
        make_rollout(world).run("e", start[:, :4], ACTIONS)


def test_a_memory_that_is_not_finite_is_not_stored(world, latents):
    with TemporalLoRA(world.denoiser, r=4, alpha=4.0) as lora:
        memory = make_rollout(world, lora).run("e", latents[:, :, :3], ACTIONS[:1])[0].memory
        store(
            memory,
            lora.state(memory.theta),
            memory.extras(),
            MemoryOrigin(world.fingerprint, 4, 4.0, {}),
        )
        memory.context[0, 0, 0, 0, 0] = torch.inf
        with pytest.raises(
            ValueError, match=r"memory 'e': 'context' holds 1 of 360 numbers that are"
        ):
            store(
                memory,
                lora.state(memory.theta),
                memory.extras(),
                MemoryOrigin(world.fingerprint, 4, 4.0, {}),
            )
