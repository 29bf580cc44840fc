"""The addressed memory as a learner: by hand, batched, stored, and inside rollouts."""

import json
from dataclasses import replace

import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast import addressed
from sfv.fast.addressed_learner import AddressedLearner, AddressedSettings
from sfv.fast.keys import FourierKeys, plane_bandwidths
from sfv.fast.memory_file import MemoryOrigin, load_memory, save_memory
from sfv.fast.protocol import EpisodeMemory, MemoryLearner
from sfv.generation.rollout import Request, Rollout
from sfv.generation.settings import GenerationSettings, memory_of, rollout_of, settings_from
from sfv.rng import stream
from tests.models.test_address import in_the_world, walked
from tests.world import ADDRESS, addressed_world, tiny_wan, untrained_world

C, P, G, H, W = 5, 3, 2, 4, 6
WALK = ("walk forward", "turn left", "walk backward", "walk forward")
KEYS = FourierKeys([plane_bandwidths(*scale) for scale in ADDRESS.scales], 24)


def drawn(name, *shape):
    return torch.randn(*shape, generator=stream(0, "addressed-learner", name))


def learner_of(settings=AddressedSettings(), seed=0, **changes):  # noqa: B008 (frozen)
    address = replace(ADDRESS, **changes)
    origin = MemoryOrigin(lambda: "b" * 16, address.key_size, address.ridge, {}, "addressed")
    return AddressedLearner(tiny_wan().eval(), address, P, G, settings, seed, origin)


def pairs(episode="a", actions=WALK):
    """Context and new frames of every chunk of an episode."""
    frames = drawn(episode, 1, C, P + G * len(actions), H, W)
    return [frames[:, :, G * i : G * i + P + G] for i in range(len(actions))]


def learned(learner, episode="a", actions=WALK, **changes):
    memory = learner.fresh(episode, pairs(episode)[0][:, :, :P])
    for pair, action in zip(pairs(episode, actions), actions, strict=True):
        learner.learn([memory], pair, [action], **changes)
    return memory


def same_state(one, two):
    return all(torch.equal(v, two.state.state_dict()[n]) for n, v in one.state.state_dict().items())


def test_it_follows_the_protocol():
    learner = learner_of()
    assert isinstance(learner, MemoryLearner)
    assert isinstance(learned(learner), EpisodeMemory)


def test_writes_and_reads_are_those_of_the_closed_form():
    """The start's newest frame at the origin, then each chunk at the poses of its action."""
    learner = learner_of()
    memory = learned(learner)
    state = addressed.fresh(1, 24, C * H * W, ADDRESS.ridge)
    state = addressed.write(state, KEYS(ADDRESS.origin()[None])[None], pairs()[0][:, :, P - 1 : P])
    poses = walked(ADDRESS)
    for i, pair in enumerate(pairs()):
        state = addressed.write(state, KEYS(poses[2 * i : 2 * i + 2])[None], pair[:, :, P:])
    assert torch.equal(memory.state.weights, state.weights)
    assert torch.equal(memory.state.covariance, state.covariance)
    assert torch.equal(memory.pose, poses[-1])
    assert memory.num_chunks == len(WALK)
    ahead = ADDRESS.follow("turn left", G, poses[-1])
    values, uncertainty = addressed.read(state, KEYS(ahead)[None])
    reading = learner.read([memory], ["turn left"])
    assert torch.equal(reading.values, addressed.as_latents(values, (C, H, W)))
    assert torch.equal(reading.uncertainty, uncertainty)
    row = learner.before(memory, pairs()[0], "turn left")
    learner.activate(row[None], pairs()[0])
    told = learner.denoiser.memory_input.reading
    assert torch.equal(told.values, reading.values)
    assert torch.equal(told.uncertainty, reading.uncertainty)
    learner.activate(None, pairs()[0])
    assert learner.denoiser.memory_input.reading is None


def test_a_report_says_what_it_knew_before_and_after():
    learner = learner_of(ridge=1e-4)
    memory = learner.fresh("a", pairs()[0][:, :, :P])
    keys = KEYS(walked(ADDRESS)[:G])[None]
    new = addressed.as_values(pairs()[0][:, :, P:])
    before = (addressed.read(memory.state, keys)[0] - new).square().mean()
    (report,) = learner.learn([memory], pairs()[0], ["walk forward"])
    after = (addressed.read(memory.state, keys)[0] - new).square().mean()
    assert report.loss == pytest.approx(float(before))
    assert report.gain == pytest.approx(float(before - after))
    assert report.drift == pytest.approx(float(memory.state.weights.norm()))


def test_two_episodes_at_once_equal_one_by_one():
    learner = learner_of()
    others = ("turn left", "walk forward", "walk forward", "turn left")
    alone = [learned(learner, "a"), learned(learner, "b", others)]
    both = [learner.fresh(name, pairs(name)[0][:, :, :P]) for name in ("a", "b")]
    for i, actions in enumerate(zip(WALK, others, strict=True)):
        joined = torch.cat([pairs("a")[i], pairs("b")[i]])
        learner.learn(both, joined, actions)
    assert all(same_state(one, two) for one, two in zip(alone, both, strict=True))
    reading = learner.read(both, ["turn left", "walk backward"])
    for i, action in enumerate(("turn left", "walk backward")):
        one = learner.read([alone[i]], [action])
        assert torch.equal(reading.values[i], one.values[0])
        assert torch.equal(reading.uncertainty[i], one.uncertainty[0])


def own_chunk(settings, own=True):
    learner = learner_of(settings)
    memory = learner.fresh("a", pairs()[0][:, :, :P])
    before = memory.state
    (report,) = learner.learn_allowed([memory], pairs()[0], [WALK[0]], P, [own])
    return memory, before, report


def test_own_chunks_count_as_often_as_own_weight_says():
    memory, before, report = own_chunk(AddressedSettings(own_weight=0.25))
    keys = KEYS(walked(ADDRESS)[:G])[None]
    expected = addressed.write(before, 0.5 * keys, 0.5 * pairs()[0][:, :, P:])
    assert torch.equal(memory.state.weights, expected.weights)
    assert report is not None
    once, before, _ = own_chunk(AddressedSettings(own_weight=0.25), own=False)
    assert torch.equal(
        once.state.weights, addressed.write(before, keys, pairs()[0][:, :, P:]).weights
    )


@pytest.mark.parametrize("change", [{"own_chunks": False}, {"own_weight": 0}])
def test_own_chunks_that_are_not_written_move_the_pose_all_the_same(change):
    memory, before, report = own_chunk(AddressedSettings(**change))
    assert memory.state is before
    assert report is None
    assert memory.num_chunks == 1
    assert torch.equal(memory.pose, walked(ADDRESS)[G - 1])


def test_the_noise_of_poses_hangs_on_seed_episode_and_chunk_alone():
    settings = AddressedSettings(pose_noise=(3, 2))
    one, again, other = (learned(learner_of(settings, seed)) for seed in (0, 0, 1))
    assert same_state(one, again)
    assert not same_state(one, other)
    assert not same_state(one, learned(learner_of()))
    assert torch.equal(one.pose, walked(ADDRESS)[-1]), "the noise is on what is written alone"
    learner = learner_of(settings)
    memory = learner.fresh("a", pairs()[0][:, :, :P])
    first = learner._jittered(memory, walked(ADDRESS)[:G])
    memory.num_chunks = 1
    assert not torch.equal(learner._jittered(memory, walked(ADDRESS)[:G]), first)
    memory.episode, memory.num_chunks = "b", 0
    assert not torch.equal(learner._jittered(memory, walked(ADDRESS)[:G]), first)


def test_recorded_odometry_reads_what_exact_actions_read():
    poses = in_the_world(torch.cat([ADDRESS.origin()[None], walked(ADDRESS)]))
    learner = learner_of(AddressedSettings(odometry="recorded"))
    memory = learner.fresh("a", pairs()[0][:, :, :P])
    for i, pair in enumerate(pairs()):
        learner.learn([memory], pair, ["unknown action"], poses=[poses[G * i : G * i + G + 1]])
    exact = learned(learner_of())
    torch.testing.assert_close(memory.pose, exact.pose, atol=1e-9, rtol=0)
    back = torch.stack([poses[-1], *poses[1:3]])
    found = learner.read([memory], ["unknown action"], [back])
    first = walked(ADDRESS)[:G]
    values, uncertainty = addressed.read(exact.state, KEYS(first)[None])
    torch.testing.assert_close(addressed.as_values(found.values), values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.uncertainty, uncertainty, atol=1e-4, rtol=1e-4)
    message = r"odometry is recorded, but episode 'a' has no poses; take odometry: actions"
    for missing in (None, [None]):
        with pytest.raises(ValueError, match=message):
            learner.learn([memory], pairs()[0], ["turn left"], poses=missing)
    given = learned(learner_of(), poses=[poses[:3]])
    assert same_state(given, exact), "odometry: actions does not look at poses"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"own_weight": 1.5}, r"own_weight=1.5, .*allowed: own_weight 0 to 1"),
        (
            {"pose_noise": (0.0, -1.0)},
            r"pose_noise=\(0.0, -1.0\); allowed: .*pose_noise 0 and above",
        ),
    ],
)
def test_settings_out_of_their_range_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        AddressedSettings(**change)


def test_a_denoiser_without_an_input_for_a_memory_is_refused():
    with pytest.raises(
        ValueError, match="no input channels for an addressed memory: train one with"
    ):
        AddressedLearner(tiny_wan(reads_memory=False), ADDRESS, P, G)
    with pytest.raises(
        ValueError, match="key_size is 20; with 3 scales it must be a multiple of 6"
    ):
        learner_of(key_size=20)


def test_calibration_uses_the_frames_that_were_read_and_runs_once():
    learner = learner_of()
    rows, items = [], []
    for i in range(20):
        memory = learner.fresh(f"e{i}", pairs(f"e{i}")[0][:, :, :P])
        for pair, action in zip(pairs(f"e{i}"), WALK, strict=True):
            rows.append(learner.before(memory, pair, action))
            items.append(pair)
            learner.learn([memory], pair, [action])
    by_hand = tiny_wan().memory_input
    r = torch.stack([row[:-G].view(C, G, H, W)[:, g] for row in rows for g in range(G)])
    z = torch.stack([pair[0, :, P + g] for pair in items for g in range(G)])
    by_hand.calibrate(r, torch.stack([row[-G:] for row in rows]).flatten(), z)
    learner.calibrate(rows, items)
    ours = learner.denoiser.memory_input
    assert torch.equal(ours.gain, by_hand.gain)
    assert torch.equal(ours.variance, by_hand.variance)
    before = ours.gain.clone()
    learner.calibrate(rows[:20], [0 * item for item in items[:20]])
    assert torch.equal(ours.gain, before)


SETTINGS = GenerationSettings(sampler=SamplerSettings("ddim", num_inference_steps=2))


def test_rows_of_a_model_that_reads_a_memory():
    model = addressed_world()
    kinds = {row: memory_of(model, row) for row in ("none", "temp_lora", "fast")}
    assert kinds == {"none": None, "temp_lora": "temp_lora", "fast": "addressed"}
    assert memory_of(untrained_world(["turn left"]), "fast") == "temp_lora"


def test_a_rollout_cut_in_two_by_a_file_goes_on_as_uncut(tmp_path):
    model, start = addressed_world(), drawn("start", 1, C, P, H, W)
    with rollout_of(model, "fast", SETTINGS) as rollout:
        whole = rollout.run("walk", start, WALK)
        (first,) = rollout.run_many([Request("walk", start, WALK[:2])])
        path = tmp_path / "walk.memory.safetensors"
        save_memory(path, rollout.learner.store(first[-1].memory))
    stored = load_memory(path, model.fingerprint())
    assert (stored.header.kind, stored.header.r, stored.header.alpha) == ("addressed", 24, 0.01)
    assert settings_from(stored.header.settings, "addressed", "it") == SETTINGS
    with rollout_of(addressed_world(), "fast", SETTINGS) as rollout:
        memory = rollout.learner.restore(stored)
        (rest,) = rollout.run_many([Request("walk", memory.context, WALK[2:], memory=memory)])
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.generated, theirs.generated)
        assert ours.chunk_idx == theirs.chunk_idx
    assert same_state(rest[-1].memory, whole[-1].memory)
    assert torch.equal(rest[-1].memory.pose, whole[-1].memory.pose)


def test_videos_made_at_once_under_guidance_each_read_their_own_memory():
    """A batch of a guided sampler holds two samples of each episode."""
    model = addressed_world()
    sampler = SamplerSettings("ddim", num_inference_steps=2, guidance_scale=2.0)
    starts = {name: drawn(name, 1, C, P, H, W) for name in ("a", "b")}
    with rollout_of(model, "fast", replace(SETTINGS, sampler=sampler)) as rollout:
        both = rollout.run_many([Request(n, start, WALK) for n, start in starts.items()])
        for (name, start), made in zip(starts.items(), both, strict=True):
            for one, two in zip(rollout.run(name, start, WALK), made, strict=True):
                torch.testing.assert_close(one.generated, two.generated, atol=1e-4, rtol=1e-4)
    assert model.denoiser.memory_input.reading is None


def test_the_memory_reaches_what_is_generated():
    model, start = addressed_world(), drawn("start", 1, C, P, H, W)
    made = []
    for settings in (SETTINGS, replace(SETTINGS, addressed=AddressedSettings(own_chunks=False))):
        with rollout_of(model, "fast", settings) as rollout:
            made.append(rollout.run("walk", start, WALK))
    assert torch.equal(made[0][0].generated, made[1][0].generated)
    assert not torch.allclose(made[0][2].generated, made[1][2].generated, atol=1e-4)


def test_memories_of_another_kind_or_size_are_refused():
    learner, memory = learner_of(), learned(learner_of())
    stored = learner.store(memory)
    with pytest.raises(ValueError, match=r"is of kind addressed and size 24; .*of key size 30"):
        learner_of(key_size=30).restore(stored)
    lora = replace(stored, header=replace(stored.header, kind="temp_lora"))
    with pytest.raises(
        ValueError, match="is of kind temp_lora and size 24; this model writes addr"
    ):
        learner.restore(lora)
    model = addressed_world()
    with rollout_of(model, "fast", SETTINGS) as rollout:
        request = Request("a", torch.zeros(1, C, P, H, W + 1), ["turn left"], memory=memory)
        with pytest.raises(
            ValueError, match=r"written with latents of .*\(5, 4, 6\), .*\(5, 4, 7\)"
        ):
            rollout.run_many([request])
    message = "is of kind addressed, but a LoRA is expected; give a memory of kind temp_lora"
    rows = rollout_of(model, "temp_lora", SETTINGS)
    with rows as rollout, pytest.raises(ValueError, match=message):
        rollout.learner.restore(stored)


@pytest.mark.parametrize(
    ("field", "given", "allowed"),
    [
        ("pose_noise", [1.0], "a list of a number or a whole number, a number or a whole number"),
        ("pose_noise", ["a", 1], "a list of a number"),
        ("pose_noise", 3, "a list of a number"),
        ("odometry", "guessed", "one of actions, recorded"),
        ("own_chunks", 1, "true or false"),
    ],
)
def test_a_wrong_setting_in_a_header_is_named(field, given, allowed):
    content = json.loads(json.dumps(SETTINGS.of("addressed")))
    content["addressed"][field] = given
    message = f"^m: settings.addressed.{field} is .*; allowed: {allowed}"
    with pytest.raises(ValueError, match=message):
        settings_from(content, "addressed", "m")


def test_a_memory_that_is_not_finite_is_not_stored():
    learner = learner_of()
    memory = learned(learner)
    memory.state.weights[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="memory 'a': 'weights' holds 1 of"):
        learner.store(memory)


def test_recorded_poses_reach_the_memory_of_a_rollout():
    model, start = addressed_world(), drawn("start", 1, C, P, H, W)
    settings = replace(SETTINGS, addressed=AddressedSettings(odometry="recorded"))
    poses = in_the_world(torch.cat([ADDRESS.origin()[None], walked(ADDRESS)]))
    with rollout_of(model, "fast", settings) as rollout:
        made = rollout.run_many([Request("walk", start, WALK, poses=poses)])
        with pytest.raises(ValueError, match="has no poses"):
            rollout.run("walk", start, WALK)
    with rollout_of(model, "fast", SETTINGS) as rollout:
        exact = rollout.run("walk", start, WALK)
    for one, two in zip(made[0], exact, strict=True):
        torch.testing.assert_close(one.generated, two.generated, atol=1e-3, rtol=1e-3)
    assert isinstance(rollout, Rollout)
