import pytest
import torch

from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.denoiser import VideoUNet
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.rng import stream

ACTIONS = ["walk forward", "turn left"]


@pytest.fixture(scope="session")
def world() -> WorldModel:
    """An untrained world model with f_p = 3, f_g = 2 and distinct sizes everywhere."""
    codec = PCAPatchCodec(latent_channels=5, patch=4)
    codec.fit(torch.rand(40, 3, 16, 24, generator=stream(0, "test-frames")))
    denoiser = VideoUNet("tiny", latent_channels=5, text_dim=7)
    text = ActionTable(ACTIONS, text_dim=7)
    model = WorldModel(denoiser, codec, text, NoiseSchedule(), num_context=3, num_generated=2)
    for part in (denoiser, codec, text):
        part.requires_grad_(False).eval()
    return model


@pytest.fixture
def latents() -> torch.Tensor:
    """One clean episode: 3 + 4 · 2 frames of 4 × 6 latents."""
    return torch.randn(1, 5, 11, 4, 6, generator=stream(0, "test-latents"))
