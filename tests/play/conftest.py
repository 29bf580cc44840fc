from collections.abc import Iterator

import pytest
import torch

from sfv.backbones.wan import WanTransformer
from sfv.diffusion.sampler import SamplerSettings
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.generation.settings import GenerationSettings
from sfv.models.address import Address
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
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
def addressed_player() -> Iterator[Player]:
    """Of an untrained model that reads an addressed memory."""
    codec = PCAPatchCodec(latent_channels=5, patch=4)
    codec.fit(torch.rand(40, 3, 16, 24, generator=stream(0, "test-frames")))
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 12, "ffn_dim": 20}
    denoiser = WanTransformer(latent_channels=5, text_dim=7, **sizes, reads_memory=True)
    text, schedule = (
        ActionTable(ACTIONS, text_dim=7),
        NoiseSchedule(prediction_type="flow_prediction"),
    )
    for part in (denoiser, codec, text):
        part.requires_grad_(False).eval()
    model = WorldModel(denoiser, codec, text, schedule, 3, 2)
    motions = {"walk forward": (12.0, 0.0, 0.0), "walk backward": (-12.0, 0.0, 0.0)}
    turns = {"turn left": (0.0, 0.0, 9.0), "turn right": (0.0, 0.0, -9.0)}
    model.address = Address(motions | turns, scales=((20.0, 7.0),), key_size=32)
    with open_player(model, SETTINGS) as player:
        yield player


@pytest.fixture(scope="session")
def starts(world: WorldModel) -> list[Start]:
    """Two starts, made of noise; the second has a way out of two chunks."""
    latents = []
    for name in ("hall", "yard"):
        video = torch.rand(1, 7, 3, 16, 24, generator=stream(0, "test-start", name))
        latents.append(world.codec.encode(video))
    hall, yard = latents
    way = (yard[:, :, 3:5], yard[:, :, 5:])
    actions = ("walk forward", "turn left", "turn right", "walk backward")
    return [Start("hall", hall[:, :, :3], 8), Start("yard", yard[:, :, :3], 8, way, actions)]


@pytest.fixture(scope="session")
def actions(world: WorldModel) -> Actions:
    return Actions(world.text)
