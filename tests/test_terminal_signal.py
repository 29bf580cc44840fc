"""What is read off the noisiest frames, with a denoiser whose answer is known: nothing."""

import pytest
import torch

from experiments import terminal_signal
from sfv.diffusion.schedule import NoiseSchedule
from tests.fixtures import world
from tests.test_gallery import episode_of

__all__ = ["world"]


@pytest.fixture
def blind(world, monkeypatch):
    """Says 0 whatever it sees."""
    monkeypatch.setattr(world.denoiser, "forward", lambda latents, *_: torch.zeros_like(latents))
    return world


def test_a_schedule_that_keeps_signal_shows_the_truth_in_training_alone(blind):
    episode = episode_of(blind)
    found = terminal_signal.measure(blind, episode, 0)
    # ε = 0 takes z_t / √ᾱ for the clean frames: what is left of them, and the noise.
    alpha = float(blind.schedule.alphas_cumprod()[-1])
    truth = torch.cat([episode.latents[:, :, i : i + 2] for i in (3, 5, 7, 9)])
    still = torch.cat([episode.latents[:, :, i - 1 : i] for i in (3, 5, 7, 9)]).expand_as(truth)
    apart = float((still - truth).square().mean())
    noise = (1 - alpha) / alpha
    assert found["copy"] == (pytest.approx(apart), 0.0)
    assert found["truth"][0] == pytest.approx(noise, rel=0.3)
    assert found["noise"][0] > found["truth"][0]
    assert found == terminal_signal.measure(blind, episode, 0)
    assert found["truth"] != terminal_signal.measure(blind, episode, 1)["truth"]


def test_without_terminal_signal_all_starts_are_one(blind, monkeypatch):
    schedule = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
    monkeypatch.setattr(blind, "schedule", schedule)
    found = terminal_signal.measure(blind, episode_of(blind), 0)
    assert found["truth"] == found["context"] == found["noise"] != found["copy"]


def test_the_table_has_paired_differences_with_intervals():
    scores = [
        {"truth": (1.0, 0.5), "context": (1.2, 0.4), "noise": (2.0, 0.3), "copy": (3.0, 0.0)},
        {"truth": (2.0, 0.5), "context": (2.4, 0.4), "noise": (3.0, 0.3), "copy": (4.0, 0.0)},
    ]
    lines = terminal_signal.table(scores).splitlines()
    assert lines[1].split() == ["truth", "1.500", "0.50"]
    assert lines[2].split() == ["context", "1.800", "+0.300", "[-0.971,", "+1.571]", "0.40"]
    assert lines[3].split() == ["noise", "2.500", "+1.000", "[+1.000,", "+1.000]", "0.30"]
