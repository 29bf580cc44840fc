"""What fast learning costs a generated chunk on a GPU, at the paper's size: seconds and peak memory.

python -m benchmarks.gpu [--quick] --json FILE

The paper's setting: U-Net of ModelScope's size with random weights, 16 + 16 frames of 32x32 latents,
77 tokens, 50 DDIM steps with guidance, K = 2, rank 32. Φ in float32 under bfloat16 autocast, and Φ in
bfloat16; Θ is float32 in both. Then the reference's size: eight episodes at once against one by one.
Codec and text encoder are left out.
"""

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cpu_unet import SCHEDULE
from benchmarks.side_by_side import arguments, compare, machine, write_table
from sfv.backbones.video_unet import PresetName, VideoUNet
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.rollout import Request, Rollout
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel
from sfv.rng import stream

RANK, SEED, ACTION, EPISODES, NUM_TOKENS = 32, 0, "walk forward", 8, 77
SIZES: dict[PresetName, int] = {"tiny": 8, "small": 32, "modelscope": 32}
PAPER = SamplerSettings("ddim", 50, 7.5)
SMALL = SamplerSettings("ddim", 8)
RULES = {
    "K = 2": FastSettings(probe_draws=0, guard=None),
    "K = 2, probes and guard": FastSettings(),
    "K = 2, checkpointing": FastSettings(probe_draws=0, guard=None, activation_checkpointing=True),
}


class Text(nn.Module):
    """Token states of the right size, no encoder."""

    keeps_weights = False

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.register_buffer(
            "states", torch.randn(NUM_TOKENS, text_dim, generator=stream(SEED, "benchmark-text"))
        )

    def forward(self, actions: Sequence[str]) -> Tensor:
        """See `sfv.types.TextEncoder`."""
        return self.get_buffer("states").expand(len(actions), -1, -1)

    def fingerprint(self) -> str:
        """See `sfv.types.TextEncoder`."""
        return "random"

    def settings(self) -> dict[str, int]:
        """Constructor arguments."""
        return {"text_dim": self.text_dim}


def world_of(preset: PresetName, frames: int, weights: torch.dtype) -> WorldModel:
    """A world model on the GPU; its codec is not used."""
    with torch.device("cuda"):
        denoiser = VideoUNet(preset).requires_grad_(False).eval().to(weights)
    codec = PCAPatchCodec(latent_channels=denoiser.latent_channels, patch=8)
    codec.fit(torch.rand(8, 3, 64, 64, generator=stream(SEED, "benchmark-frames")))
    world = WorldModel(denoiser, codec, Text(denoiser.text_dim), SCHEDULE, frames, frames)
    return world.to(torch.device("cuda"))


def videos(
    world: WorldModel,
    sampler: SamplerSettings,
    lora: TemporalLoRA | None,
    fast: FastSettings,
    size: int,
    num: int = 1,
    at_once: int = 1,
    num_chunks: int = 1,
) -> Callable[[], list[float]]:
    """Makes videos, with fast learning where there is a LoRA; gives the seconds of learning."""
    learner = None
    if lora is not None:
        learner = FastLearner(
            world.denoiser, lora, SCHEDULE, world.text, world.num_context, fast, SEED, "bf16"
        )
    rollout = Rollout(world, sampler, learner, SEED, "bf16")
    shape = (1, world.denoiser.latent_channels, world.num_context, size, size)
    starts = [torch.randn(shape, generator=stream(SEED, "benchmark-start", i)) for i in range(num)]
    actions = [ACTION] * num_chunks
    requests = [Request(f"e{i}", start, actions) for i, start in enumerate(starts)]

    def work() -> list[float]:
        made = []
        for first in range(0, num, at_once):
            made += rollout.run_many(requests[first : first + at_once])
        torch.cuda.synchronize()
        return [c.learned.seconds for chunks in made for c in chunks if c.learned is not None]

    return work


def peak(work: Callable[[], object]) -> int:
    """Bytes that the allocator had handed out at the highest point."""
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


def overhead(
    preset: PresetName, weights: torch.dtype, repeats: int, sampler: SamplerSettings
) -> dict[str, dict[str, float]]:
    """Seconds and peaks of sampling a chunk, and of learning it, which follows in a time of its own."""
    world, size = world_of(preset, 16, weights), SIZES[preset]
    sampling = videos(world, sampler, None, FastSettings(), size)
    sampling()
    alone = statistics.median([timed(sampling) for _ in range(repeats)])
    found = {"sampling": {"seconds": alone, "peak": peak(sampling)}}
    few = SamplerSettings("ddim", 2, sampler.guidance_scale)
    with TemporalLoRA(world.denoiser, RANK, float(RANK)) as lora:
        for name, fast in RULES.items():
            learning = videos(world, few, lora, fast, size)
            learning()
            seconds = statistics.median([sum(learning()) for _ in range(repeats + 2)])
            found[name] = {"seconds": seconds, "peak": peak(learning), "share": seconds / alone}
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds, all kernels done."""
    began = perf_counter()
    work()
    return perf_counter() - began


def together(repeats: int) -> dict[str, Any]:
    """Eight episodes at once against one by one, at the reference's size."""
    world, fast = world_of("tiny", 8, torch.float32), FastSettings(num_steps=4, draws_per_step=2)
    with TemporalLoRA(world.denoiser, RANK, float(RANK)) as lora:
        works = [videos(world, SMALL, lora, fast, 8, EPISODES, n, 2) for n in (EPISODES, 1)]
        return compare(works[0], works[1], repeats)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the table.

    Raises:
        SystemExit: there is no GPU.
    """
    options = arguments(__doc__, argv)
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a GPU; benchmarks.fast_learning measures on a CPU")
    preset: PresetName = "tiny" if options.quick else "modelscope"
    sampler = SamplerSettings("ddim", 5, 7.5) if options.quick else PAPER
    repeats = 1 if options.quick else 3
    found = {}
    for name, weights in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        found[name] = overhead(preset, weights, repeats, sampler)
        torch.cuda.empty_cache()
        for row, value in found[name].items():
            more = value["peak"] / found[name]["sampling"]["peak"]
            print(
                f"Φ in {name:<9}{row:<24}{value['seconds']:8.3f} s {value['peak'] / 1e6:8.0f} MB"
                f"{value.get('share', 1):8.3f} of sampling's time {more:6.3f} of its peak",
                flush=True,
            )
    rows = {f"{EPISODES} episodes at once, tiny": together(repeats + 2)}
    gpu = {"gpu": torch.cuda.get_device_name(), "preset": preset, "overhead": found}
    write_table(options.json, rows, {**machine(), **gpu})


if __name__ == "__main__":
    main()
