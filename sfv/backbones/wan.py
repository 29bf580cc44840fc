"""diffusers' Wan transformer (Wan 2.1, 2.2) as a backbone: sizes, names of its layers."""

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv.backbones.base import Backbone
from sfv.backbones.memory_input import MemoryInput
from sfv.rng import seed_of

_TARGETS = {
    "temporal": re.compile(r"\.blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)$"),
    "attention": re.compile(r"\.blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$"),
    "all": re.compile(
        r"\.blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))$"
    ),
}


class WanTransformer(Backbone):
    """diffusers' `WanTransformer3DModel`: full attention over all patches of all frames of a window.

    Context frames stand in the same sequence at timestep 0, as in Wan 2.2's image-to-video: each frame
    has a timestep of its own.

    Args:
        latent_channels: channels c of the codec.
        text_dim: width d of the text tokens.
        num_layers: transformer blocks.
        num_heads: attention heads; the width is num_heads times head_dim.
        head_dim: channels of a head.
        ffn_dim: width inside the feed-forward layers.
        patch: latent cells along one side of a token.
        reads_memory: further input channels for an addressed memory, see
            `sfv.backbones.memory_input.MemoryInput`. Needs a flow schedule.
        seed: decides the initial weights.

    Raises:
        ValueError: a size is below 1.
    """

    folder: ClassVar[str] = "transformer"

    def __init__(
        self,
        latent_channels: int = 16,
        text_dim: int = 64,
        num_layers: int = 5,
        num_heads: int = 4,
        head_dim: int = 64,
        ffn_dim: int = 1024,
        patch: int = 2,
        reads_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {
            "latent_channels": latent_channels,
            "text_dim": text_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "ffn_dim": ffn_dim,
            "patch": patch,
        }
        wrong = {name: size for name, size in sizes.items() if size < 1}
        if wrong:
            raise ValueError(f"WanTransformer got {wrong}; every size must be at least 1")
        self._settings = {**sizes, "reads_memory": reads_memory}
        self.latent_channels, self.text_dim = latent_channels, text_dim
        self.memory_input = MemoryInput(latent_channels) if reads_memory else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "denoiser-init"))
            self.transformer = WanTransformer3DModel(
                patch_size=(1, patch, patch),
                num_attention_heads=num_heads,
                attention_head_dim=head_dim,
                in_channels=self.memory_input.num_channels
                if self.memory_input
                else latent_channels,
                out_channels=latent_channels,
                text_dim=text_dim,
                freq_dim=256,
                ffn_dim=ffn_dim,
                num_layers=num_layers,
            )
            nn.init.zeros_(self.transformer.proj_out.weight)
            nn.init.zeros_(self.transformer.proj_out.bias)
        self._patch = patch

    def settings(self) -> dict[str, int | bool]:
        """See `Backbone.settings`."""
        return dict(self._settings)

    def fast_layers(self, targets: str) -> list[str]:
        """Full names of the linear layers that Θ adapts.

        Args:
            targets: `temporal`: self-attention, which is what mixes frames. `attention`: self-attention
                and the attention to the text. `all`: both, and the feed-forward layers.

        Raises:
            ValueError: unknown targets.
        """
        if targets not in _TARGETS:
            raise ValueError(f"no LoRA targets {targets!r}; allowed: {', '.join(_TARGETS)}")
        pattern = _TARGETS[targets]
        return [name for name, _ in self.named_modules() if pattern.search(f".{name}")]

    def blocks(self) -> Sequence[nn.Module]:
        """See `Backbone.blocks`."""
        return list(self.transformer.blocks)

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.Denoiser`."""
        self.check_inputs(latents, text)
        frames, height, width = latents.shape[2:]
        if height % self._patch or width % self._patch:
            raise ValueError(
                f"latents of {height}x{width} cells do not divide into patches of {self._patch}; give "
                f"frames whose sides are multiples of that many cells, or build it with patch=1"
            )
        levels = timestep.float()[:, None].repeat(1, frames)
        levels[:, :num_context] = 0
        tokens = height * width // self._patch**2
        steps = levels.repeat_interleave(tokens, dim=1)
        if self.memory_input is None:
            output: Tensor = self.transformer(latents, steps, text, return_dict=False)[0]
            return output
        inputs, prior = self.memory_input.prepare(latents, timestep, num_context)
        return prior.apply(self.transformer(inputs, steps, text, return_dict=False)[0])
