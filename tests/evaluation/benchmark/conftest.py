from pathlib import Path

import pytest

from tests.evaluation.benchmark.make import make_benchmark, make_world

QUICK = [
    "--generation.sampler.num_inference_steps=1",
    "--generation.lora.r=2",
    "--generation.fast.num_steps=1",
    "--generation.fast.learning_rate=0.01",
    "--generation.fast.guard=null",
    "--generation.videos_at_once=2",
    "--fvd=false",
]


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a benchmark's data (read only!): four short walks and two longer ones."""
    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "made-up")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world") / "model")
