"""diffusers' video U-Net (ModelScopeT2V) as a backbone: sizes, names of its layers, CPU paths."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import UNet3DConditionModel
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv.backbones.base import Backbone, require_no_fast_weights
from sfv.backbones.cpu_layers import speed_up_on_cpu, use_stock_layers
from sfv.rng import seed_of
from sfv.storage.pretrained import find_part, load_whole, local_folder, schedule_of
from sfv.storage.weight_files import check_finite

_TEMPORAL = re.compile(r"(^|\.)(transformer_in|temp_attentions\.\d+)\.")
_SPATIAL = re.compile(r"(^|\.)attentions\.\d+\.")
_ATTENTION = re.compile(r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$")
_TEMPORAL_CONVOLUTION = re.compile(r"(^|\.)temp_convs\.\d+\.conv[1-4]\.\d+$")
_BLOCK = re.compile(r"(^|\.)(transformer_in|mid_block|(down|up)_blocks\.\d+)$")
_LAYER = re.compile(r"(^|\.)(transformer_in|(resnets|temp_convs|attentions|temp_attentions)\.\d+)$")

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


class VideoUNet(Backbone):
    """diffusers' `UNet3DConditionModel` as a `Backbone`.

    Context and noised frames are joined in time and share one timestep, as in the paper; the U-Net
    tells them apart by their looks, or by `mask_channel`.

    Args:
        preset: size, see `PRESETS`.
        latent_channels: channels c of the codec; None takes the preset's.
        text_dim: width d of the text tokens; None takes the preset's.
        mask_channel: add an input channel that is 1 on context frames (not in the paper).
        dropout: of the temporal convolutions while training. Above 0 it draws from PyTorch's
            global generator, so that a resumed run differs from an uninterrupted one.
        seed: decides the initial weights.
        weights: pretrained ones to start from: see `from_diffusers`. They must have the preset's sizes.

    Raises:
        FileNotFoundError: there are no such weights on this machine.
        ValueError: they are damaged, or of other sizes than asked for.
    """

    folder: ClassVar[str] = "unet"

    def __init__(
        self,
        preset: PresetName = "tiny",
        latent_channels: int | None = None,
        text_dim: int | None = None,
        mask_channel: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        base = PRESETS[preset]
        self.preset: PresetName = preset
        self.latent_channels = latent_channels or base.out_channels
        self.text_dim = text_dim or base.cross_attention_dim
        self.mask_channel = mask_channel
        self.dropout = dropout
        self.latent_size = (base.sample_size, base.sample_size)
        if weights is not None:
            self._take(VideoUNet.from_diffusers(weights, mask_channel, dropout), weights)
            return
        sizes = base.with_channels(self.latent_channels, self.text_dim, mask_channel)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "denoiser-init"))
            self.unet = UNet3DConditionModel(**asdict(sizes))
        self._prepare()

    @classmethod
    def from_diffusers(
        cls, folder: str | Path, mask_channel: bool = False, dropout: float = 0.0
    ) -> "VideoUNet":
        """Load pretrained weights from disk; nothing is downloaded.

        Args:
            folder: a diffusers pipeline folder with `unet/` inside, that `unet/` folder, or the hub name
                of a pipeline in the local cache.
            mask_channel: add the mask input channel with zero weights, which changes no output;
                weights that were saved with one keep it.
            dropout: see the class.

        Raises:
            FileNotFoundError: if there is no `unet/` with safetensors weights.
            ValueError: if its sizes are no preset's, or a file is damaged.
        """
        source = find_part(Path(folder), "unet", "U-Net")
        unet = load_whole(UNet3DConditionModel, source)
        preset = _preset_of(unet, source)
        channels, text_dim = unet.config.out_channels, unet.config.cross_attention_dim
        if unet.config.in_channels > channels:
            mask_channel = True
        elif mask_channel:
            _add_input_channel(unet)
        with torch.device("meta"):
            denoiser = cls(preset, channels, text_dim, mask_channel, dropout)
        denoiser.unet = unet
        denoiser._prepare()
        denoiser.trained_schedule = schedule_of(local_folder(folder))
        return denoiser

    def settings(self) -> dict[str, str | int | float | bool]:
        """Constructor arguments that, with the weights, make this denoiser again."""
        return {
            "preset": self.preset,
            "latent_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "mask_channel": self.mask_channel,
            "dropout": self.dropout,
        }

    def save(self, folder: str | Path) -> None:
        """Write Φ in diffusers' format; see `Backbone.save`."""
        require_no_fast_weights(self)
        check_finite(self.unet.state_dict(), f"{folder} is not written")
        self.unet.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "VideoUNet":
        """Read what `save` wrote; see `from_diffusers`."""
        return cls.from_diffusers(folder)

    def fast_layers(self, targets: str) -> list[str]:
        """Full names of the layers that Θ adapts.

        Args:
            targets: `temporal`: every linear layer of the temporal transformers (the input one and those
                after each spatial one). `attention`: query, key, value and output layers of spatial and
                temporal attention. `all`: every linear layer of both kinds of transformers, and the
                temporal convolutions.

        Raises:
            ValueError: unknown targets.
        """
        if targets not in ("temporal", "attention", "all"):
            raise ValueError(f"no LoRA targets {targets!r}; allowed: temporal, attention, all")
        return [name for name, module in self.named_modules() if _is_fast(name, module, targets)]

    def blocks(self) -> Sequence[nn.Module]:
        """See `Backbone.blocks`."""
        return [module for name, module in self.named_modules() if _BLOCK.search(name)]

    def recomputed_layers(self) -> Sequence[nn.Module]:
        """Residual blocks, transformers and temporal convolutions."""
        return [module for name, module in self.named_modules() if _LAYER.search(name)]

    def use_stock_layers(self) -> None:
        """See `Backbone.use_stock_layers`."""
        use_stock_layers(self.unet)

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.Denoiser`."""
        self.check_inputs(latents, text)
        if self.mask_channel:
            mask = torch.zeros_like(latents[:, :1])
            mask[:, :, :num_context] = 1
            latents = torch.cat([latents, mask], dim=1)
        output: Tensor = self.unet(latents, timestep, text, return_dict=False)[0]
        return output

    def _take(self, other: "VideoUNet", weights: str) -> None:
        """Become a pretrained denoiser, if it is the one that was asked for."""
        for name in ("preset", "latent_channels", "text_dim"):
            theirs, asked = getattr(other, name), getattr(self, name)
            if theirs != asked:
                raise ValueError(
                    f"{weights} holds a U-Net with {name}={theirs}, but {name}={asked} was asked for: set "
                    f"{name} to {theirs}, or give other weights"
                )
        self.mask_channel, self.unet = other.mask_channel, other.unet
        self.trained_schedule = other.trained_schedule
        self.unet.train()  # diffusers loads for inference; dropout would stay off

    def _prepare(self) -> None:
        """Speed up on a CPU, and replace the dropout that diffusers fixes at 0.1."""
        speed_up_on_cpu(self.unet)
        for module in self.unet.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.dropout


def _is_fast(name: str, module: nn.Module, targets: str) -> bool:
    linear = isinstance(module, nn.Linear)
    temporal = linear and _TEMPORAL.search(name) is not None
    spatial = linear and _SPATIAL.search(name) is not None
    if targets == "temporal":
        return temporal
    if targets == "attention":
        return (temporal or spatial) and _ATTENTION.search(name) is not None
    convolution = isinstance(module, nn.Conv3d) and bool(_TEMPORAL_CONVOLUTION.search(name))
    return temporal or spatial or convolution


def _preset_of(unet: UNet3DConditionModel, folder: Path) -> PresetName:
    """The preset with the same sizes inside."""
    for name, preset in PRESETS.items():
        sizes = asdict(preset)
        inner = sizes.keys() - {"sample_size", "in_channels", "out_channels", "cross_attention_dim"}
        if all(_plain(unet.config[key]) == _plain(sizes[key]) for key in inner):
            return name
    raise ValueError(
        f"{folder}/config.json describes a U-Net whose sizes (block_out_channels="
        f"{_plain(unet.config.block_out_channels)}, ...) are no preset's; allowed: "
        f"{', '.join(PRESETS)}. Add a row for it to PRESETS in sfv/backbones/video_unet.py"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _add_input_channel(unet: UNet3DConditionModel) -> None:
    """Widen the first convolution by a channel that changes nothing yet."""
    old = unet.conv_in
    unet.conv_in = nn.Conv2d(old.in_channels + 1, old.out_channels, 3, padding=1)
    weight = torch.cat([old.weight, torch.zeros_like(old.weight[:, :1])], dim=1)
    unet.conv_in.load_state_dict({"weight": weight, "bias": old.bias})
    unet.conv_in.to(old.weight)
    unet.register_to_config(in_channels=old.in_channels + 1)
