import pytest
import torch
from diffusers import DDPMScheduler

from sfv.diffusion.schedule import NoiseSchedule
from sfv.rng import stream

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


def reference(schedule: NoiseSchedule) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=schedule.prediction_type,
        rescale_betas_zero_snr=schedule.zero_terminal_snr,
    )


def drawn(*keys):
    generator = stream(3, "schedule-test", *keys)
    latents, noise = torch.randn(2, 4, 3, 5, 6, 7, generator=generator)
    return latents, noise, torch.tensor([0, 417, 730, 999])


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_alphas_cumprod_are_those_of_diffusers(beta_schedule, zero_snr):
    schedule = NoiseSchedule(
        beta_schedule=beta_schedule, prediction_type="v_prediction", zero_terminal_snr=zero_snr
    )
    expected = reference(schedule).alphas_cumprod
    torch.testing.assert_close(schedule.alphas_cumprod(), expected, rtol=1e-5, atol=1e-9)


def test_alphas_cumprod_of_a_short_schedule_by_hand():
    schedule = NoiseSchedule(3, 0.1, 0.3, "linear")
    expected = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    torch.testing.assert_close(schedule.alphas_cumprod(), expected)


def test_zero_terminal_snr_leaves_no_signal_at_the_last_timestep():
    schedule = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
    plain = NoiseSchedule(prediction_type="v_prediction")
    assert schedule.alphas_cumprod()[-1].item() == 0
    assert schedule.alphas_cumprod()[0] == pytest.approx(plain.alphas_cumprod()[0].item())


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_add_noise_and_velocity_are_those_of_diffusers(beta_schedule):
    schedule = NoiseSchedule(beta_schedule=beta_schedule, prediction_type="v_prediction")
    latents, noise, timestep = drawn(beta_schedule)
    scheduler = reference(schedule)
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timestep), scheduler.add_noise(latents, noise, timestep)
    )
    torch.testing.assert_close(
        schedule.target(latents, noise, timestep), scheduler.get_velocity(latents, noise, timestep)
    )


def test_add_noise_takes_one_timestep_a_sample():
    schedule = NoiseSchedule()
    latents, noise, timestep = drawn("plain loop")
    expected = torch.empty_like(latents)
    for sample, t in enumerate(timestep.tolist()):
        kept = schedule.alphas_cumprod()[t]
        expected[sample] = kept.sqrt() * latents[sample] + (1 - kept).sqrt() * noise[sample]
    torch.testing.assert_close(schedule.add_noise(latents, noise, timestep), expected)


def test_add_noise_keeps_the_precision_of_the_latents():
    latents, noise, timestep = drawn("bf16")
    schedule = NoiseSchedule(prediction_type="v_prediction")
    half = latents.bfloat16()
    assert schedule.add_noise(half, noise.bfloat16(), timestep).dtype == torch.bfloat16
    assert schedule.target(half, noise.bfloat16(), timestep).dtype == torch.bfloat16


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_back_noise_and_clean_latents(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    latents, noise, timestep = drawn(prediction_type)
    noisy = schedule.add_noise(latents, noise, timestep)
    prediction = schedule.target(latents, noise, timestep)
    found = schedule.to_noise(prediction, noisy, timestep)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)
    found = schedule.to_clean(prediction, noisy, timestep)
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-4)


def test_v_at_the_timestep_without_signal_is_minus_the_clean_latents():
    """There √ᾱ = 0: the input is ε alone, so v = -z_0 is all that is asked, and ε is the input."""
    schedule = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
    latents, noise, _ = drawn("terminal")
    last = torch.full((len(latents),), schedule.last_timestep)
    assert torch.equal(schedule.add_noise(latents, noise, last), noise)
    assert torch.equal(schedule.target(latents, noise, last), -latents)
    assert torch.equal(schedule.to_clean(-latents, noise, last), latents)
    assert torch.equal(schedule.to_noise(-latents, noise, last), noise)


def test_alphas_cumprod_are_computed_once():
    assert NoiseSchedule().alphas_cumprod() is NoiseSchedule().alphas_cumprod()
    other = NoiseSchedule(beta_end=0.02).alphas_cumprod()
    assert not torch.equal(other, NoiseSchedule().alphas_cumprod())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zero_terminal_snr": True}, "Set prediction_type: v_prediction or zero_terminal_snr: f"),
        ({"beta_start": 0.02}, "beta_start=0.02 and beta_end=0.012 must satisfy"),
        ({"beta_end": 1.0}, "0 < beta_start <= beta_end < 1"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1; it must be at least 2"),
    ],
)
def test_fields_that_make_no_schedule_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**fields)
