"""What fast learning adds to the peak memory of a generated chunk.

python -m benchmarks.fast_memory [--quick] --json FILE

The paper's setting: 16 + 16 frames with guidance, K = 2, rank 32, weights in float32, arithmetic in
bfloat16. Tensors have shapes but no memory, so the paper's U-Net fits here; kernels are those of a GPU,
what they need inside is not seen, and attention counts as its fused kernel. Codec and text encoder (1.7 GB
of the public model) are left out of both sides. benchmarks/estimate.py holds this way of counting against
an allocator.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import arguments
from sfv.backbones.cpu_layers import use_stock_layers
from sfv.backbones.video_unet import PRESETS, PresetName, VideoUNet
from sfv.diffusion.schedule import NoiseSchedule
from sfv.estimate.trace_slow import Meter, fake
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.modes import autocast
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.files import write_json

FRAMES, RANK, NUM_TOKENS = 16, 32, 77
SIZES: dict[PresetName, int] = {"tiny": 8, "small": 32, "modelscope": 32}
"""Latents of a side; 32 are 256 pixels of the public codec."""


@dataclass(frozen=True)
class Peaks:
    """Of one setting, in bytes.

    Args:
        sampling: Φ and a guided forward pass.
        learning: Φ and K fast steps.
        weights: Φ alone.
        memory: Θ, its gradient and its two moments.
        flops: of learning over those of 50 guided sampling steps.
    """

    sampling: int
    learning: int
    weights: int
    memory: int
    flops: float

    @property
    def ratio(self) -> float:
        """Peak of a chunk that is learned over that of one that is not."""
        return max(self.learning, self.sampling) / self.sampling


class Text(nn.Module):
    """Token states of the right size."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_dim = text_dim

    def forward(self, actions: Sequence[str]) -> Tensor:
        """See `sfv.types.TextEncoder`."""
        return torch.zeros(len(actions), NUM_TOKENS, self.text_dim)


def peaks(preset: PresetName, activation_checkpointing: bool) -> Peaks:
    """Sample, then learn, on tensors without memory."""
    size, schedule, meter = SIZES[preset], NoiseSchedule(), Meter()
    schedule.alphas_cumprod()  # cached: it must not be computed first where nothing is real
    settings = FastSettings(
        num_steps=2,
        probe_draws=0,
        guard=None,
        activation_checkpointing=activation_checkpointing,
    )
    with fake():
        denoiser = VideoUNet(preset).requires_grad_(False).eval()
        use_stock_layers(denoiser.unet)
        text = Text(denoiser.text_dim)
        shape = (denoiser.latent_channels, 2 * FRAMES, size, size)
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            meter.add(tensor.data)
        weights = meter.live
        with TemporalLoRA(denoiser, RANK, float(RANK)) as lora, meter:
            with torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
                denoiser(torch.zeros(2, *shape), torch.zeros(2).long(), text(["", ""]), FRAMES)
            sampling, flops = meter.peak, meter.flops
            learner = FastLearner(
                denoiser, lora, schedule, text, FRAMES, settings, precision="bf16"
            )
            memories = [learner.fresh("episode")]
            meter.restart()
            learner.learn(memories, torch.zeros(1, *shape), [""])
            learned = (meter.flops - flops) / (50 * flops)
            return Peaks(sampling, meter.peak, weights, 4 * 4 * lora.num_weights, learned)


def main(argv: Sequence[str] | None = None) -> None:
    """Count, write, print."""
    options = arguments(__doc__, argv)
    presets: list[PresetName] = ["tiny"] if options.quick else list(PRESETS)
    rows: dict[str, dict[str, Any]] = {}
    for preset in presets:
        for recompute in (False, True):
            found = peaks(preset, recompute)
            name = f"{preset}{', activation checkpointing' if recompute else ''}"
            rows[name] = {**vars(found), "ratio": found.ratio}
            print(
                f"{name:<40}{found.weights / 1e6:9.0f} MB weights{found.sampling / 1e6:9.0f} sampling"
                f"{found.learning / 1e6:9.0f} learning{found.memory / 1e6:7.0f} of it memory"
                f"{found.ratio:7.3f} peak{1 + found.flops:7.3f} operations",
                flush=True,
            )
    ratios = {name: row["ratio"] for name, row in rows.items()}
    write_json(options.json, {"ratios": ratios, "context": {"rows": rows, "python": sys.version}})


if __name__ == "__main__":
    main()
