from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.flow import FlowEuler, shift_level
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss, with_offset
from sfv.diffusion.sampler import Scheduler, sample_chunk, starting_point
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.schedulers import make_scheduler
from sfv.rng import stream

B, C, T, H, W, NUM_CONTEXT = 2, 3, 5, 4, 6, 2
SHIFTS = [1.0, 3.0]


def flow(shift=1.0, num=1000):
    return NoiseSchedule(num, prediction_type="flow_prediction", shift=shift)


def drawn(*keys):
    return torch.randn(2, B, C, T, H, W, generator=stream(0, "flow-test", *keys))


class Affine:
    """A denoiser whose output is known, and tells the timesteps it was given."""

    latent_channels, text_dim = C, 7

    def __call__(self, latents, timestep, text, num_context):
        self.timestep = timestep
        return 0.5 * latents + (timestep / 1000 + text.mean(dim=(1, 2))).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("shift", SHIFTS)
def test_noising_is_that_of_diffusers(shift):
    latents, noise = drawn("noise")
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    places = torch.tensor([0, 731])
    timestep = flow(shift).timestep_at(places)
    torch.testing.assert_close(timestep, reference.timesteps.flip(0)[places])
    level = reference.sigmas.flip(0)[places].view(-1, 1, 1, 1, 1)
    found = flow(shift).add_noise(latents, noise, timestep)
    torch.testing.assert_close(found, (1 - level) * latents + level * noise)
    theirs = reference.scale_noise(latents, reference.timesteps.flip(0)[places], noise)
    torch.testing.assert_close(found, theirs)
    assert torch.equal(flow(shift).target(latents, noise, timestep), noise - latents)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_perfect_prediction_gives_back_noise_and_clean_latents(shift):
    schedule, (latents, noise) = flow(shift), drawn("perfect")
    timestep = schedule.timestep_at(torch.tensor([17, 999]))
    noisy = schedule.add_noise(latents, noise, timestep)
    prediction = schedule.target(latents, noise, timestep)
    found = schedule.to_noise(prediction, noisy, timestep)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)
    found = schedule.to_clean(prediction, noisy, timestep)
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-5)


def test_the_last_timestep_is_pure_noise_so_both_starts_are_the_same():
    latents, noise = drawn("last")
    assert flow().last_timestep == 1000 == float(flow().timestep_at(torch.tensor([999])))
    found = starting_point("context", latents, noise[:, :, :3], flow())
    assert torch.equal(found, noise[:, :, :3])


def test_half_precision_is_kept():
    latents, noise = drawn("bf16").bfloat16()
    timestep = torch.tensor([3.5, 800.0])
    assert flow().add_noise(latents, noise, timestep).dtype == torch.bfloat16
    assert flow().target(latents, noise, timestep).dtype == torch.bfloat16


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_loss_equals_a_plain_loop(shift):
    schedule, (latents, noise) = flow(shift), drawn("loss")
    text = torch.randn(B, 2, 7, generator=stream(0, "flow-text"))
    timestep = schedule.timestep_at(torch.tensor([37, 912]))
    denoiser, expected = Affine(), []
    for b in range(B):
        even = [38, 913][b] / 1000
        s = shift * even / (1 + (shift - 1) * even)
        clean, drop = latents[b, :, NUM_CONTEXT:], noise[b, :, NUM_CONTEXT:]
        prediction = 0.5 * ((1 - s) * clean + s * drop) + s + text[b].mean()
        expected.append((prediction - (drop - clean)).square().mean())
    loss = masked_conditional_loss(denoiser, latents, text, noise, timestep, NUM_CONTEXT, schedule)
    torch.testing.assert_close(loss, torch.stack(expected))
    assert torch.equal(denoiser.timestep, timestep)


@pytest.mark.parametrize("shift", SHIFTS)
def test_drawn_timesteps_are_the_places_of_the_same_draw(shift):
    places = draw_timesteps(500, NoiseSchedule(num_train_timesteps=20), stream(0, "t"), 0.25, 1.0)
    found = draw_timesteps(500, flow(shift, 20), stream(0, "t"), 0.25, 1.0)
    even = (places + 1) / 20
    torch.testing.assert_close(found, 20 * shift * even / (1 + (shift - 1) * even))
    assert found.max() == 20


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_euler_takes_the_steps_of_diffusers(shift, num_steps):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps))
    ours = make_scheduler(flow(shift), "ddim", num_steps)
    torch.testing.assert_close(ours.timesteps, reference.timesteps)
    sample = theirs = drawn("euler")[0]
    for ours_t, theirs_t in zip(ours.timesteps, reference.timesteps, strict=True):
        output = torch.sin(sample) + ours_t / 1000
        theirs = reference.step(torch.sin(theirs) + theirs_t / 1000, theirs_t, theirs).prev_sample
        sample = ours.step(output, ours_t, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, theirs)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_chunk_equals_a_plain_loop(shift):
    denoiser = VideoUNet("tiny", latent_channels=C, text_dim=7).eval().requires_grad_(False)
    context, noise = drawn("chunk")[0, :, :, :3], drawn("chunk")[1]
    text = torch.randn(B, 2, 7, generator=stream(0, "flow-text"))
    even = [1.0, 0.75, 0.5, 0.25, 0.0]
    levels = [shift * s / (1 + (shift - 1) * s) for s in even]
    new = noise
    for s, next_s in pairwise(levels):
        steps = torch.full((B,), 1000 * s)
        output = denoiser(torch.cat([context, new], dim=2), steps, text, 3)[:, :, 3:]
        clean, pure = new - s * output, new + (1 - s) * output
        new = (1 - next_s) * clean + next_s * pure
    seen = []
    scheduler = make_scheduler(flow(shift), "ddim", 4)
    found = sample_chunk(denoiser, scheduler, context, text, text, T, 1.0, noise, seen.append)
    torch.testing.assert_close(found, new, rtol=1e-4, atol=1e-4)
    last = seen[-1]
    at = torch.full((B,), last.timestep)
    clean = flow(shift).to_clean(last.prediction, last.noisy, at)
    torch.testing.assert_close(clean, found, rtol=1e-4, atol=1e-4)


def test_dpm_solver_equals_a_loop_over_the_scheduler_of_diffusers():
    config = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    reference = DPMSolverMultistepScheduler(**config)
    reference.set_timesteps(5)
    context, noise = drawn("dpm")[0, :, :, :3], drawn("dpm")[1]
    text = torch.zeros(B, 1, 7)
    new = noise
    for t in reference.timesteps:
        new = reference.step(0.5 * new + t / 1000, t, new).prev_sample
    scheduler = make_scheduler(flow(3.0), "dpmsolver++", 5)
    found = sample_chunk(Affine(), scheduler, context, text, text, T, 1.0, noise)
    torch.testing.assert_close(found, new)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_a_perfect_denoiser_is_sampled_exactly(name):
    truth, noise = drawn("truth")
    schedule = flow(3.0)

    class Perfect(Affine):
        def __call__(self, latents, timestep, text, num_context):
            s = (timestep / 1000).view(-1, 1, 1, 1, 1)
            return (latents - torch.cat([latents[:, :, :num_context], truth], dim=2)) / s

    scheduler = make_scheduler(schedule, name, 12)
    assert isinstance(scheduler, Scheduler)
    text = torch.zeros(B, 1, 7)
    found = sample_chunk(Perfect(), scheduler, truth[:, :, :2], text, text, T, 1.0, noise)
    torch.testing.assert_close(found, truth, rtol=0, atol=5e-3)


def test_levels_keep_their_ends_under_a_shift():
    level = torch.tensor([0.0, 0.5, 1.0])
    assert shift_level(level, 3.0).tolist() == [0.0, 0.75, 1.0]
    assert torch.equal(shift_level(level, 1.0), level)


def test_a_timestep_that_is_no_step_is_refused():
    scheduler = FlowEuler(1000, 1.0, 2)
    with pytest.raises(ValueError, match=r"timestep 3.0 is none of \[1000.0, 500.0\]"):
        scheduler.step(torch.zeros(1), 3.0, torch.zeros(1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zero_terminal_snr": True}, "Set zero_terminal_snr: false"),
        ({"shift": 0.0}, "shift is 0.0 with prediction_type='flow_prediction'; it must be above 0"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"shift": 3.0, "prediction_type": "epsilon"}, "1 unless prediction_type is flow_predict"),
    ],
)
def test_fields_that_make_no_flow_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**{"prediction_type": "flow_prediction", **fields})


def test_flow_has_no_signal_power_to_look_up():
    with pytest.raises(ValueError, match="has no ᾱ"):
        flow().alphas_cumprod()


def test_offset_noise_moves_whole_channels_alike_in_all_frames():
    noise = torch.randn(40, 25, T, H, W, generator=stream(0, "offset-test"))
    moved = with_offset(noise, 0.3, stream(1, "offset-test")) - noise
    torch.testing.assert_close(moved, moved[:, :, :1, :1, :1].expand_as(moved), rtol=0, atol=1e-6)
    assert moved.std() == pytest.approx(0.3, rel=0.1)
    assert torch.equal(with_offset(noise, 0.0, stream(1, "offset-test")), noise)


def test_a_negative_offset_is_refused():
    with pytest.raises(ValueError, match=r"offset noise is -0\.1"):
        with_offset(torch.zeros(1, 2, 3, 4, 5), -0.1, stream(0, "offset-test"))
