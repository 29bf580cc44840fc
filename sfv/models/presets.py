"""The sizes of the denoiser, in one table."""

from dataclasses import dataclass, replace
from typing import Literal

PresetName = Literal["tiny", "small", "modelscope"]


@dataclass(frozen=True)
class UNetPreset:
    """Constructor arguments of diffusers' `UNet3DConditionModel`, under its names.

    Args:
        sample_size: latent height and width it is meant for; any other size works too.
        attention_head_dim: channels of one attention head.
        cross_attention_dim: width d of the text tokens.
    """

    sample_size: int
    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    layers_per_block: int
    norm_num_groups: int
    attention_head_dim: int
    cross_attention_dim: int

    def with_channels(
        self, latent_channels: int, text_dim: int, mask_channel: bool
    ) -> "UNetPreset":
        """The same sizes inside, for another codec or text encoder."""
        return replace(
            self,
            in_channels=latent_channels + mask_channel,
            out_channels=latent_channels,
            cross_attention_dim=text_dim,
        )


PRESETS: dict[PresetName, UNetPreset] = {
    # Learns a small world on a laptop's CPU in minutes.
    "tiny": UNetPreset(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=32,
        attention_head_dim=16,
        cross_attention_dim=64,
    ),
    # One GPU, hours.
    "small": UNetPreset(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        block_out_channels=(128, 256, 384),
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=32,
        cross_attention_dim=384,
    ),
    # The paper's base model: the public configuration of ModelScopeT2V 1.7B.
    "modelscope": UNetPreset(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=(
            "CrossAttnDownBlock3D",
            "CrossAttnDownBlock3D",
            "CrossAttnDownBlock3D",
            "DownBlock3D",
        ),
        up_block_types=(
            "UpBlock3D",
            "CrossAttnUpBlock3D",
            "CrossAttnUpBlock3D",
            "CrossAttnUpBlock3D",
        ),
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=64,
        cross_attention_dim=1024,
    ),
}
