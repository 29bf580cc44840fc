"""That both sides of the tables make the same videos; how long they take is not tested."""

import json

import pytest
import torch

from benchmarks import fast_learning, fast_memory, long_rollout
from benchmarks.cpu_unet import pair
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.temporal_lora import TemporalLoRA


@pytest.mark.slow
def test_our_batch_makes_the_videos_of_diffusers_and_peft():
    """Two chunks, so that the second is sampled with what was learned from the first."""
    setting = fast_learning.Setting(2, SamplerSettings("ddim", 1), 2, fast_learning.BARE)
    ours_unet, stock_unet = pair()
    with TemporalLoRA(ours_unet, fast_learning.RANK, float(fast_learning.RANK)) as lora:
        world = fast_learning.world_of(ours_unet, 2)
        stock = fast_learning.Stock(fast_learning.world_of(stock_unet, 2), setting, lora)
        videos = fast_learning.ours(world, setting, 2, lora, 2)()
        expected = stock.videos(2)
    assert fast_learning.check_equal(videos, expected) < 0.1
    assert videos[0].shape == (1, 16, 4, 8, 8)
    with pytest.raises(ValueError, match="the videos differ by"):
        fast_learning.check_equal(videos, expected[::-1])


def test_the_floor_counts_a_forward_and_a_backward_pass():
    setting = fast_learning.Setting(1, SamplerSettings("ddim", 1), 1, fast_learning.BARE)
    unet = pair()[0].requires_grad_(False)
    args = (torch.zeros(1, 16, 2, 8, 8), torch.tensor([500]), torch.zeros(1, 1, 64), 0)
    forward = fast_learning.flops(lambda: unet(*args))
    both = fast_learning.flops(lambda: fast_learning.through(unet, setting))
    assert 1.8 < both / forward < 2.2


@pytest.mark.slow
def test_a_short_rollout_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(long_rollout, "QUICK_CHUNKS", 5)
    long_rollout.main(["--quick", "--json", str(tmp_path / "x.json")])
    written = json.loads((tmp_path / "x.json").read_text())
    assert list(written["ratios"]) == ["seconds, last fifth : first"]
    assert written["context"]["frames"] == 40
    assert len(written["context"]["seconds"]) == len(written["context"]["drift"]) == 5


def test_the_memory_of_learning_is_counted_with_and_without_recomputing(tmp_path):
    fast_memory.main(["--quick", "--json", str(tmp_path / "x.json")])
    kept, recomputed = json.loads((tmp_path / "x.json").read_text())["context"]["rows"].values()
    assert kept["sampling"] == recomputed["sampling"] > kept["weights"] > 4 * 5_000_000
    assert recomputed["sampling"] < recomputed["learning"] < kept["learning"] / 2
    assert recomputed["flops"] > kept["flops"] > 0.04
