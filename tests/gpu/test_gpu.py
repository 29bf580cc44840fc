"""What only a GPU shows; skipped where there is none. CONTRIBUTING.md says how to run them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.generation.rollout import Chunk, Request
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.generation.verb import rollout
from sfv.models.model_folder import REFERENCE, SHIPPED, SHOWN
from sfv.models.world_model import WorldModel
from sfv.rng import stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ACTIONS = ["walk forward", "turn left", "walk backward"]
SETTINGS = GenerationSettings(
    SamplerSettings(num_inference_steps=4),
    LoRASettings(r=8, alpha=8.0),
    FastSettings(num_steps=2, learning_rate=1e-3),
)


def roll(device: str, settings: GenerationSettings, num: int = 1) -> list[list[Chunk]]:
    """Rollouts of the reference with fast learning, all in one batch."""
    world = WorldModel.load(REFERENCE, device)
    shape = (1, world.denoiser.latent_channels, 8, 8, 8)
    starts = [0.5 * torch.randn(shape, generator=stream(0, "test-start", i)) for i in range(num)]
    with rollout_of(world, "fast", settings) as roller:
        return roller.run_many([Request(f"e{i}", s, ACTIONS) for i, s in enumerate(starts)])


def distance(found: Chunk, expected: Chunk) -> float:
    """Of the frames, relative."""
    gap = (found.generated - expected.generated).norm() / expected.generated.norm()
    return float(gap)


def learned_loss(chunk: Chunk) -> float:
    """`fast/loss`."""
    assert chunk.learned is not None
    return chunk.learned.loss


def test_rollout_with_memory_equals_the_cpu_up_to_rounding():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_gpu, on_cpu = (roll(device, SETTINGS)[0] for device in ("cuda", "cpu"))
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.generated.device.type == "cpu"
        assert found.memory is not None and found.memory.theta.device.type == "cuda"
        assert distance(found, expected) < 1e-2
        assert learned_loss(found) == pytest.approx(learned_loss(expected), rel=1e-2)


def test_bfloat16_keeps_theta_in_float32_and_stays_near():
    exact = roll("cuda", SETTINGS)[0]
    rough = roll("cuda", replace(SETTINGS, precision="bf16"))[0]
    assert rough[-1].memory is not None and rough[-1].memory.theta.dtype == torch.float32
    assert 0 < distance(rough[0], exact[0]) < 0.1


def test_many_videos_in_one_batch_equal_single_ones():
    together = roll("cuda", SETTINGS, 3)
    alone = roll("cuda", SETTINGS, 1)
    for found, expected in zip(together[0], alone[0], strict=True):
        assert distance(found, expected) < 1e-2


def test_memory_of_a_gpu_goes_on_where_it_stopped(tmp_path: Path):
    actions = tmp_path / "actions.txt"
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    start = SHIPPED[REFERENCE] / SHOWN
    common = {"rows": ("fast",), "generation": SETTINGS, "device": "cuda"}
    actions.write_text("\n".join(ACTIONS))
    rollout(whole, start=start, actions=actions, **common)
    actions.write_text("\n".join(ACTIONS[:2]))
    rollout(first, start=start, actions=actions, **common)
    actions.write_text(ACTIONS[2])
    (memory,) = first.glob("*.safetensors")
    rollout(second, resume_from=memory, actions=actions, device="cuda")
    (of_whole,), (of_second,) = whole.glob("*.safetensors"), second.glob("*.safetensors")
    one, other = load_file(of_whole), load_file(of_second)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-4)
