"""Small worlds and data that tests of several rooms share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sfv.demo.run import run_demo
from sfv.demo.settings import DemoSettings
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.models.world_model import WorldModel
from sfv.rng import stream
from tests.training.make import Data, make_data
from tests.world import untrained_world

ACTIONS = ["walk forward", "turn left"]

MICRO = DemoSettings(
    base=None,
    size=32,
    train_episodes=3,
    val_episodes=1,
    test_episodes=2,
    train_chunks=5,
    test_chunks=5,
    slow_steps=5,
    batch_size=2,
    learning_rate=1e-4,
    loop_steps=3,
    loop_chunks=2,
    sampler=SamplerSettings("ddim", num_inference_steps=1),
    lora=LoRASettings(r=2, alpha=2.0),
    fast=FastSettings(num_steps=1, learning_rate=1e-2),
)
"""The whole path on the real engine, as small as FVD's two clips allow."""


@dataclass(frozen=True)
class Demo:
    """A finished demo: its folder (read only!) and its report."""

    folder: Path
    report: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.folder / "slow_fast" / "model"

    @property
    def test_shards(self) -> Path:
        return self.folder / "shards" / "test"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "out"
    return Demo(folder, run_demo(folder, MICRO))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Shards for f_p = 3, f_g = 2: c = 5, 4 x 6 latents, 8 frames."""
    return make_data(tmp_path_factory.mktemp("small") / "data", 5, 2, (4, 6), 4)


@pytest.fixture(scope="session")
def config_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Shards that fit the shipped configs: c = 16, 2 x 4 latents, 32 frames in actions of 8."""
    return make_data(tmp_path_factory.mktemp("config") / "data", 16, 8, (2, 4), 8)


@pytest.fixture(scope="session")
def world() -> WorldModel:
    """An untrained world model with f_p = 3, f_g = 2 and distinct sizes everywhere."""
    return untrained_world(ACTIONS)


@pytest.fixture
def latents() -> torch.Tensor:
    """One clean episode: 3 + 4 · 2 frames of 4 × 6 latents."""
    return torch.randn(1, 5, 11, 4, 6, generator=stream(0, "test-latents"))
