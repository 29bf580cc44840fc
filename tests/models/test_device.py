import pytest
import torch

from sfv.models.device import find_device
from sfv.models.model_folder import REFERENCE
from sfv.models.world_model import WorldModel


def test_auto_takes_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device().type == find_device("auto").type == expected
    assert find_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_says_what_is_allowed(name):
    with pytest.raises(ValueError, match=f"device '{name}' .*allowed: auto, cpu"):
        find_device(name)
    with pytest.raises(ValueError, match=f"device '{name}'"):
        WorldModel.load(REFERENCE, name)


def test_latents_and_video_come_back_to_the_cpu():
    world = WorldModel.load(REFERENCE, "cpu")
    video = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = world.encode(video)
    assert torch.equal(latents, world.codec.encode(video))
    assert torch.equal(world.decode(latents), world.codec.decode(latents))
    assert world.device == latents.device == torch.device("cpu")
