"""What a denoiser is told of its memory, and the prediction that the memory alone makes."""

import pytest
import torch

from sfv.backbones.memory_input import LEAST, MemoryInput
from sfv.rng import stream
from sfv.types import Reading

B, C, P, G, H, W = 2, 3, 4, 2, 5, 6


def drawn(name, *shape):
    return torch.randn(*shape, generator=stream(0, "memory-input", name))


def window(name="window", num=B):
    return drawn(name, num, C, P + G, H, W)


def reading(uncertainty, num=B):
    return Reading(drawn("r", num, C, G, H, W), torch.tensor(uncertainty))


def told(memory, latents, timestep, said=None):
    with memory.use(said):
        return memory.prepare(latents, torch.tensor(timestep), P)


def test_a_silent_network_predicts_the_conditional_mean():
    """That of v given z_s, by a regression on 200,000 draws of z_0 ~ N(g r, σ²) and noise."""
    gain, variance, level, r = 0.7, 0.2, 0.6, 1.5
    clean = gain * r + variance**0.5 * drawn("clean", 200_000).double()
    noise = drawn("noise", 200_000).double()
    noisy = (1 - level) * clean + level * noise
    inputs = torch.stack([noisy, torch.ones_like(noisy)], dim=1)
    slope, offset = torch.linalg.lstsq(inputs, noise - clean).solution
    memory = MemoryInput(C)
    memory.gain.fill_(gain)
    memory.variance.fill_(variance)
    latents = window()
    said = Reading(torch.full((B, C, G, H, W), r), torch.full((B, G), 0.3))
    _, prior = told(memory, latents, [600.0, 600.0], said)
    found = prior.apply(torch.zeros_like(latents))[:, :, P:]
    torch.testing.assert_close(
        found, (slope * latents[:, :, P:] + offset).float(), atol=0.02, rtol=0
    )


def test_what_is_left_of_v_has_unit_variance_in_the_networks_units():
    """n = (v - v̂) √d / σ is what the network has to predict: EDM's unit targets, at unit inputs."""
    memory = MemoryInput(1)
    memory.gain.fill_(0.8)
    memory.variance.fill_(0.05)
    r, noise, deviation = (drawn(name, 1, 1, 9, 64, 64) for name in ("r", "noise", "deviation"))
    clean = 0.8 * r + 0.05**0.5 * deviation
    level = 0.3
    noisy = (1 - level) * clean + level * noise
    with memory.use(Reading(r, torch.full((1, 9), 0.5))):
        inputs, prior = memory.prepare(noisy, torch.tensor([300.0]), 0)
    nothing = prior.apply(torch.zeros_like(noisy))
    one = prior.apply(torch.ones_like(noisy)) - nothing
    wanted = (noise - clean - nothing) / one
    assert float(wanted.std()) == pytest.approx(1, abs=0.02)
    assert float(inputs[:, :1].std()) == pytest.approx(1, abs=0.02)
    assert abs(float((wanted * inputs[:, :1]).mean())) < 0.02, "nothing linear is left to say"


@pytest.mark.parametrize("calibrated", [False, True])
def test_without_a_memory_and_where_nothing_was_written_it_is_plain_flow_matching(calibrated):
    """Prior N(0, σ²) of each channel: v̂ = z_s (s - (1-s) σ²) / d with d = (1-s)² σ² + s²."""
    memory, power = MemoryInput(C), torch.ones(C)
    if calibrated:
        z = torch.tensor([0.5, 1.0, 2.0]).view(C, 1, 1) * drawn("z", 20, C, H, W)
        memory.calibrate(drawn("r", 20, C, H, W), torch.ones(20), z)
        power = z.square().mean(dim=(0, 2, 3))
    latents, output = window(), drawn("output", B, C, P + G, H, W)
    s, power = torch.tensor([0.25, 0.9]).view(B, 1, 1, 1, 1), power.view(C, 1, 1, 1)
    d, new = (1 - s) ** 2 * power + s**2, latents[:, :, P:]
    expected = new * (s - (1 - s) * power) / d + output[:, :, P:] * (power / d).sqrt()
    for said in (None, reading([[1.0, 1.0], [1.0, 1.0]])):
        inputs, prior = told(memory, latents, [250.0, 900.0], said)
        torch.testing.assert_close(prior.apply(output)[:, :, P:], expected)
        torch.testing.assert_close(inputs[:, :C, P:], new / d.sqrt())
        assert bool((inputs[:, 2 * C, P:] == 1).all())


def test_channels_of_the_context_hold_the_clean_frames_and_nothing_else():
    memory, latents = MemoryInput(C), window()
    inputs, prior = told(memory, latents, [250.0, 900.0], reading([[0.1, 0.4], [0.2, 1.0]]))
    assert inputs.shape == (B, memory.num_channels, P + G, H, W)
    assert torch.equal(inputs[:, :C, :P], latents[:, :, :P])
    assert not inputs[:, C:, :P].any()
    assert torch.equal(inputs[:, C : 2 * C, P:], drawn("r", B, C, G, H, W))
    u = inputs[:, 2 * C, P:, 0, 0]
    assert torch.equal(u, torch.tensor([[0.1, 0.4], [0.2, 1.0]]))
    assert bool((inputs[:, 2 * C + 1, P:] == 1).all()), "the mask of new frames"
    output = drawn("output", B, C, P + G, H, W)
    assert torch.equal(prior.apply(output)[:, :, :P], output[:, :, :P])


def test_calibration_finds_gain_and_variance_of_each_channel():
    memory = MemoryInput(2)
    gain = torch.tensor([0.9, 0.4]).view(2, 1, 1)
    deviation = torch.tensor([0.1, 0.5]).view(2, 1, 1)
    r = drawn("r", 64, 2, 16, 16)
    z = gain * r + deviation * drawn("left", 64, 2, 16, 16)
    assert not memory.is_calibrated
    memory.calibrate(r, torch.full((64,), LEAST), z)
    assert memory.is_calibrated
    torch.testing.assert_close(memory.gain[0], torch.tensor([0.9, 0.4]), atol=0.02, rtol=0)
    torch.testing.assert_close(memory.variance[0], torch.tensor([0.01, 0.25]), atol=0.01, rtol=0)


def test_rows_that_hardly_any_frame_falls_into_take_the_next_more_uncertain_one():
    memory = MemoryInput(2)
    r = drawn("r", 32, 2, 4, 4)
    memory.calibrate(r, torch.full((32,), 10**-1.5), 0.5 * r)
    power = (0.5 * r).square().mean(dim=(0, 2, 3))
    assert not memory.gain[7:].any(), "none above: those of a channel that nothing is known of"
    torch.testing.assert_close(memory.variance[7:], power.expand(6, -1))
    torch.testing.assert_close(memory.gain[:7], torch.full((7, 2), 0.5))
    torch.testing.assert_close(memory.variance[:7], torch.full((7, 2), 1e-3))
    memory.calibrate(r[:15], torch.full((15,), 10**-1.5), 0.5 * r[:15])
    assert not memory.gain.any(), "15 frames are too few for a row"


def test_gain_and_variance_are_linear_in_the_logarithm_of_u_between_rows():
    memory = MemoryInput(1)
    memory.gain.copy_(torch.arange(13.0)[:, None] / 13)
    u = 10 ** torch.linspace(-3, -0.01, 40)[None]
    gain, _ = memory._table(u)
    expected = (u.log10() + 3) / 3 * 12 / 13
    torch.testing.assert_close(gain[0, 0, :, 0, 0], expected[0], atol=1e-4, rtol=0)


def test_samples_of_one_episode_stand_side_by_side():
    """Guidance makes two samples of each episode: both are told what that episode's memory says."""
    memory = MemoryInput(C)
    latents = window("four", 4)
    inputs, _ = told(memory, latents, [500.0] * 4, reading([[0.1, 0.2], [0.3, 0.4]]))
    r = drawn("r", B, C, G, H, W)
    for sample, episode in enumerate((0, 0, 1, 1)):
        assert torch.equal(inputs[sample, C : 2 * C, P:], r[episode])


@pytest.mark.parametrize(("num", "frames"), [(3, P + G), (B, P + G + 1)])
def test_a_reading_of_another_size_is_an_error(num, frames):
    memory = MemoryInput(C)
    with memory.use(reading([[0.1, 0.2], [0.3, 0.4]])):
        message = rf"reading of 2 episodes and 2 frames .*has {num} samples of {frames - P} new"
        with pytest.raises(ValueError, match=message):
            memory.prepare(torch.zeros(num, C, frames, H, W), torch.full((num,), 500.0), P)


def test_a_reading_is_there_only_inside_also_after_an_error():
    memory = MemoryInput(C)
    outer, inner = reading([[0.1, 0.2]] * 2), reading([[0.3, 0.4]] * 2)
    with memory.use(outer):
        with pytest.raises(RuntimeError), memory.use(inner):
            raise RuntimeError
        assert memory.reading is outer
    assert memory.reading is None
