"""The denoiser ε_Φ: a video U-Net over one window of clean context frames and noised frames."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.cpu_fast import speed_up_on_cpu
from sfv.models.presets import PRESETS, PresetName
from sfv.models.pretrained import find_part, load_whole, local_folder, schedule_of
from sfv.rng import seed_of


class VideoUNet(nn.Module):
    """diffusers' `UNet3DConditionModel` behind the `Denoiser` protocol.

    Context and noised frames are joined in time and share one timestep, as in the paper; the U-Net
    tells them apart by their looks, or by `mask_channel`.

    Args:
        preset: size, see `sfv.models.presets`.
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

    trained_schedule: NoiseSchedule | None = None
    """What pretrained weights were trained on, where their folder says it."""

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
        """Write Φ in diffusers' format; fast weights inside must be removed first."""
        if any(".lora_" in name for name, _ in self.unet.named_parameters()):
            raise ValueError("the denoiser holds fast weights: call their remove() before saving Φ")
        self.unet.save_pretrained(folder)

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.Denoiser`."""
        self._check(latents, text)
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

    def _check(self, latents: Tensor, text: Tensor) -> None:
        if latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents have {latents.shape[1]} channels, this denoiser takes "
                f"{self.latent_channels}: use the codec it was trained with, or build it with "
                f"latent_channels={latents.shape[1]}"
            )
        if text.shape[-1] != self.text_dim:
            raise ValueError(
                f"text tokens are {text.shape[-1]} wide, this denoiser takes {self.text_dim}: use "
                f"the text encoder it was trained with, or build it with text_dim={text.shape[-1]}"
            )


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
        f"{', '.join(PRESETS)}. Add a row for it to sfv/models/presets.py"
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
