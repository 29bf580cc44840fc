import pytest
import torch

from sfv.models.world_model import WorldModel
from sfv.rng import stream
from tests.world import untrained_world

ACTIONS = ["walk forward", "turn left"]


@pytest.fixture(scope="session")
def world() -> WorldModel:
    """An untrained world model with f_p = 3, f_g = 2 and distinct sizes everywhere."""
    return untrained_world(ACTIONS)


@pytest.fixture
def latents() -> torch.Tensor:
    """One clean episode: 3 + 4 · 2 frames of 4 × 6 latents."""
    return torch.randn(1, 5, 11, 4, 6, generator=stream(0, "test-latents"))
