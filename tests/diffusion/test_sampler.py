import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.sampler import SamplerSettings, Scheduler, sample_chunk, starting_point
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.schedulers import make_scheduler
from sfv.rng import stream

B, C, H, W, NUM_CONTEXT, NUM_GENERATED, NUM_STEPS = 2, 5, 4, 6, 3, 4, 5


class Counting:
    """Counts the samples that go through a denoiser."""

    def __init__(self, denoiser):
        self.denoiser, self.num_samples = denoiser, 0
        self.latent_channels, self.text_dim = denoiser.latent_channels, denoiser.text_dim

    def __call__(self, latents, timestep, text, num_context):
        self.num_samples += len(latents)
        return self.denoiser(latents, timestep, text, num_context)


@pytest.fixture(scope="module")
def denoiser():
    return VideoUNet("tiny", latent_channels=C, text_dim=7).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = stream(0, "sampler-test")
    return {
        "context": torch.randn(B, C, NUM_CONTEXT, H, W, generator=generator),
        "text": torch.randn(B, 2, 7, generator=generator),
        "null_text": torch.randn(B, 2, 7, generator=generator),
        "num_generated": NUM_GENERATED,
        "noise": torch.randn(B, C, NUM_GENERATED, H, W, generator=generator),
    }


def predict(denoiser, inputs, new, t, scale):
    """ε or v of the new frames, with guidance, in two separate forward passes."""
    latents = torch.cat([inputs["context"], new], dim=2)
    steps = torch.full((B,), t)
    with_text = denoiser(latents, steps, inputs["text"], NUM_CONTEXT)[:, :, NUM_CONTEXT:]
    without = denoiser(latents, steps, inputs["null_text"], NUM_CONTEXT)[:, :, NUM_CONTEXT:]
    return without + scale * (with_text - without)


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True)],
)
def test_ddim_equals_the_formula_step_by_step(denoiser, inputs, prediction_type, zero_snr):
    schedule = NoiseSchedule(prediction_type=prediction_type, zero_terminal_snr=zero_snr)
    kept = schedule.alphas_cumprod()
    new = inputs["noise"]
    for t, previous in [(999, 799), (799, 599), (599, 399), (399, 199), (199, None)]:
        output = predict(denoiser, inputs, new, t, 2.5)
        signal, sigma = kept[t].sqrt(), (1 - kept[t]).sqrt()
        if prediction_type == "epsilon":
            noise, clean = output, (new - sigma * output) / signal
        else:
            noise, clean = signal * output + sigma * new, signal * new - sigma * output
        next_kept = torch.tensor(1.0) if previous is None else kept[previous]
        new = next_kept.sqrt() * clean + (1 - next_kept).sqrt() * noise
    found = sample_chunk(
        denoiser, make_scheduler(schedule, "ddim", NUM_STEPS), **inputs, guidance_scale=2.5
    )
    torch.testing.assert_close(found, new, rtol=1e-3, atol=1e-3 * float(new.std()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_dpm_solver_equals_a_loop_over_the_scheduler_of_diffusers(
    denoiser, inputs, prediction_type
):
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(NUM_STEPS)
    new = inputs["noise"]
    for t in scheduler.timesteps:
        output = predict(denoiser, inputs, new, int(t), 1.5)
        new = scheduler.step(output, t, new).prev_sample
    ours = make_scheduler(NoiseSchedule(prediction_type=prediction_type), "dpmsolver++", NUM_STEPS)
    found = sample_chunk(denoiser, ours, **inputs, guidance_scale=1.5)
    torch.testing.assert_close(found, new, rtol=1e-3, atol=1e-3 * float(new.std()))


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_context_leaves_every_step_bit_identical(denoiser, inputs, name, guidance_scale):
    seen = []
    result = sample_chunk(
        denoiser,
        make_scheduler(NoiseSchedule(), name, NUM_STEPS),
        **inputs,
        guidance_scale=guidance_scale,
        on_step=seen.append,
    )
    assert [step.step_idx for step in seen] == list(range(NUM_STEPS))
    for step in seen:
        assert torch.equal(step.latents[:, :, :NUM_CONTEXT], inputs["context"])
    assert torch.equal(seen[-1].latents[:, :, NUM_CONTEXT:], result)
    assert not torch.equal(seen[0].latents[:, :, NUM_CONTEXT:], inputs["noise"])


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_step_tells_the_clean_frames_that_it_expects(denoiser, inputs, name, prediction_type):
    """The last step of either sampler jumps to them."""
    schedule, seen = NoiseSchedule(prediction_type=prediction_type), []
    scheduler = make_scheduler(schedule, name, NUM_STEPS)
    sample_chunk(denoiser, scheduler, **inputs, guidance_scale=1.5, on_step=seen.append)
    last = seen[-1]
    assert [step.timestep for step in seen] == [int(t) for t in scheduler.timesteps]
    timestep = torch.full((B,), last.timestep)
    clean = schedule.to_clean(last.prediction, last.noisy, timestep)
    torch.testing.assert_close(clean, last.latents[:, :, NUM_CONTEXT:], rtol=1e-4, atol=1e-4)


def test_guidance_one_is_the_text_alone_and_costs_no_second_forward(denoiser, inputs):
    scheduler = make_scheduler(NoiseSchedule(), "ddim", NUM_STEPS)
    counting = Counting(denoiser)
    plain = sample_chunk(counting, scheduler, **inputs, guidance_scale=1.0)
    assert counting.num_samples == B * NUM_STEPS
    nearly = sample_chunk(counting, scheduler, **inputs, guidance_scale=1.0 + 1e-7)
    assert counting.num_samples == 3 * B * NUM_STEPS
    torch.testing.assert_close(plain, nearly, rtol=1e-3, atol=1e-3 * float(plain.std()))


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_a_scheduler_carries_nothing_from_chunk_to_chunk(denoiser, inputs, name):
    scheduler = make_scheduler(NoiseSchedule(), name, NUM_STEPS)
    first = sample_chunk(denoiser, scheduler, **inputs, guidance_scale=1.0)
    assert torch.equal(sample_chunk(denoiser, scheduler, **inputs, guidance_scale=1.0), first)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_a_perfect_denoiser_ends_at_the_clean_frames(inputs, name):
    """ε computed from the truth: whatever the path, the end is z_0."""
    schedule = NoiseSchedule()
    truth = torch.randn(B, C, NUM_GENERATED, H, W, generator=stream(1, "sampler-test"))

    class Perfect:
        latent_channels, text_dim = C, 7

        def __call__(self, latents, timestep, text, num_context):
            kept = schedule.alphas_cumprod()[timestep].view(-1, 1, 1, 1, 1)
            noise = (latents[:, :, num_context:] - kept.sqrt() * truth) / (1 - kept).sqrt()
            return torch.cat([latents[:, :, :num_context], noise], dim=2)

    scheduler = make_scheduler(schedule, name, 12)
    found = sample_chunk(Perfect(), scheduler, **inputs, guidance_scale=1.0)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-4)


def test_zero_terminal_snr_starts_at_the_timestep_without_signal():
    schedule = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
    for name in ("ddim", "dpmsolver++"):
        scheduler = make_scheduler(schedule, name, 4)
        assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
        assert float(scheduler.alphas_cumprod[-1]) < 1e-6


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_schedulers_of_diffusers_satisfy_the_protocol(name):
    assert isinstance(make_scheduler(NoiseSchedule(), name), Scheduler)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps is 11; it must be from 1 to"):
        make_scheduler(NoiseSchedule(num_train_timesteps=10), "ddim", 11)


def test_a_scheduler_without_steps_is_refused(denoiser, inputs):
    with pytest.raises(ValueError, match=r"call scheduler\.set_timesteps"):
        sample_chunk(denoiser, DDIMScheduler(), **inputs, guidance_scale=1.0)


def test_noise_of_another_length_is_refused(denoiser, inputs):
    scheduler = make_scheduler(NoiseSchedule(), "ddim", NUM_STEPS)
    wrong = {**inputs, "num_generated": 6}
    with pytest.raises(ValueError, match="noise has 4 frames, but num_generated is 6"):
        sample_chunk(denoiser, scheduler, **wrong, guidance_scale=1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be at least 1"),
        ({"guidance_scale": -0.5}, r"guidance_scale is -0.5; it must be 0 or more"),
    ],
)
def test_impossible_sampler_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**fields)


def test_sampling_begins_with_the_signal_that_training_left_at_the_last_timestep(inputs):
    """√ᾱ of the newest context frame, which is the last of `context`; with no signal there, pure noise."""
    context, noise = inputs["context"], inputs["noise"]
    schedule = NoiseSchedule()
    kept = schedule.alphas_cumprod()[-1]
    expected = kept.sqrt() * context[:, :, [-1] * NUM_GENERATED] + (1 - kept).sqrt() * noise
    found = starting_point("context", context, noise, schedule)
    torch.testing.assert_close(found, expected)
    assert (found - noise).abs().max() > 0.05
    assert torch.equal(starting_point("noise", context, noise, schedule), noise)
    without = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
    torch.testing.assert_close(starting_point("context", context, noise, without), noise)
