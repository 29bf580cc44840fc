from collections.abc import Iterator

import pytest
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.generation.settings import GenerationSettings
from sfv.models.world_model import WorldModel
from sfv.play.actions import Actions
from sfv.play.player import Player, open_player
from sfv.play.starts import Start
from sfv.rng import stream
from tests.world import untrained_world

ACTIONS = ("walk forward", "walk backward", "turn left", "turn right")
SETTINGS = GenerationSettings(
    SamplerSettings("ddim", num_inference_steps=2),
    LoRASettings(r=2, alpha=2.0),
    FastSettings(num_steps=1, learning_rate=1e-2),
    seed=3,
)


@pytest.fixture(scope="session")
def world() -> WorldModel:
    """An untrained world model with f_p = 3, f_g = 2 and distinct sizes everywhere."""
    return untrained_world(ACTIONS)


@pytest.fixture(scope="session")
def player(world: WorldModel) -> Iterator[Player]:
    with open_player(world, SETTINGS) as player:
        yield player


@pytest.fixture(scope="session")
def starts(world: WorldModel) -> list[Start]:
    """Two starts, made of noise."""
    found = []
    for name in ("hall", "yard"):
        video = torch.rand(1, 3, 3, 16, 24, generator=stream(0, "test-start", name))
        found.append(Start(name, world.codec.encode(video), 8))
    return found


@pytest.fixture(scope="session")
def actions(world: WorldModel) -> Actions:
    return Actions(world.text)
