"""A backbone of one's own that learns slowly and fast: `python -m examples.own_backbone`, a few seconds.

In a config of `sfv fit` it is `class_path: examples.own_backbone.FrameTransformer`. The verbs that read the
trained model take it once you trust it: `SFV_TRUST=examples.own_backbone.FrameTransformer sfv rollout ...`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from sfv import rng
from sfv.backbones.base import Backbone
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.text import ActionTable


class Block(nn.Module):
    """Attention over the frames, then two linear layers."""

    def __init__(self, width: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Pre-norm transformer block."""
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = tokens + self.down(F.gelu(self.up(self.norm2(tokens))))
        return out


class FrameTransformer(Backbone):
    """One token per frame.

    Args:
        latent_channels: c of the codec.
        text_dim: d of the text encoder.
        height: h of the latents.
        width: w of the latents.
        dim: width of a token.
        depth: number of blocks.
        seed: decides the initial weights.
    """

    def __init__(
        self,
        latent_channels: int = 3,
        text_dim: int = 8,
        height: int = 8,
        width: int = 8,
        dim: int = 64,
        depth: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.latent_channels, self.text_dim, self.latent_size = (
            latent_channels,
            text_dim,
            (height, width),
        )
        self.dim, self.depth = dim, depth
        size = latent_channels * height * width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.seed_of(seed, "frame-transformer"))
            self.inward, self.outward = nn.Linear(size, dim), nn.Linear(dim, size)
            self.level, self.words = nn.Linear(1, dim), nn.Linear(text_dim, dim)
            self.layers = nn.ModuleList(Block(dim) for _ in range(depth))

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """Predict for every frame; context frames are told that they carry no noise."""
        self.check_inputs(latents, text)
        frames = latents.transpose(1, 2)
        is_noised = torch.arange(frames.shape[1], device=latents.device) >= num_context
        level = is_noised[None, :, None] * (timestep[:, None, None] / 1000).to(latents)
        tokens = self.inward(frames.flatten(2)) + self.level(level)
        tokens = tokens + self.words(text.mean(1))[:, None]
        for layer in self.layers:
            tokens = layer(tokens)
        out: Tensor = self.outward(tokens)
        return out.unflatten(2, frames.shape[2:]).transpose(1, 2)

    def settings(self) -> dict[str, int]:
        """See `Backbone.settings`."""
        assert self.latent_size is not None
        height, width = self.latent_size
        return {
            "latent_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "height": height,
            "width": width,
            "dim": self.dim,
            "depth": self.depth,
        }

    def fast_layers(self, targets: str) -> list[str]:
        """Every token is a frame, so all layers of the blocks work over time."""
        names = ("qkv", "out") if targets == "attention" else ("qkv", "out", "up", "down")
        return [f"layers.{i}.{name}" for i in range(self.depth) for name in names]

    def blocks(self) -> Sequence[nn.Module]:
        """See `Backbone.blocks`."""
        return list(self.layers)


def main() -> None:
    """Train slowly on one clip, then let Θ learn another."""
    denoiser, text = FrameTransformer(), ActionTable(["walk forward"], text_dim=8)
    schedule = NoiseSchedule()
    first, second = torch.randn(2, 1, 3, 16, 8, 8, generator=rng.stream(0, "clips"))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    for step in range(200):
        generator = rng.stream(0, "slow", step)
        noise = torch.randn(first.shape, generator=generator)
        timestep = draw_timesteps(1, schedule, generator)
        states = text([""])
        loss = masked_conditional_loss(denoiser, first, states, noise, timestep, 8, schedule).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"slow loss after 200 steps: {loss.item():.3f}")

    settings = FastSettings(num_steps=20, learning_rate=3e-3, draws_per_step=8, probe_draws=8)
    with TemporalLoRA(denoiser, r=8, alpha=8.0) as lora:
        learner = FastLearner(denoiser, lora, schedule, text, 8, settings)
        (report,) = learner.learn([learner.fresh("walk")], second, ["walk forward"])
    print(
        f"held-out loss down by {report.gain:.4f}, drift {report.drift:.3f}, undone: {report.undone}"
    )


if __name__ == "__main__":
    main()
