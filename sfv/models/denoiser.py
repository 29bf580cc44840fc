"""The denoiser ε_Φ: a video U-Net that sees clean context frames and noised frames in one window."""

from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from diffusers import UNet3DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfv.models.presets import PRESETS, PresetName
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
    """

    latent_channels: int
    text_dim: int
    mask_channel: bool
    unet: UNet3DConditionModel

    def __init__(
        self,
        preset: PresetName = "tiny",
        latent_channels: int | None = None,
        text_dim: int | None = None,
        mask_channel: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        base = PRESETS[preset]
        sizes = base.with_channels(
            latent_channels or base.out_channels,
            text_dim or base.cross_attention_dim,
            mask_channel,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "denoiser-init"))
            unet = UNet3DConditionModel(**asdict(sizes))
        self._adopt(unet, mask_channel, dropout)

    @classmethod
    def from_diffusers(
        cls, folder: str | Path, mask_channel: bool = False, dropout: float = 0.0
    ) -> Self:
        """Load pretrained weights from disk; nothing is downloaded.

        Args:
            folder: a diffusers pipeline folder with `unet/` inside, or that `unet/` folder.
            mask_channel: add the mask input channel with zero weights, which changes no output.
            dropout: see the class.

        Raises:
            FileNotFoundError: if there is no `unet/` with safetensors weights.
        """
        unet = UNet3DConditionModel.from_pretrained(
            find_unet_folder(Path(folder)), use_safetensors=True, local_files_only=True
        )
        if mask_channel:
            _add_input_channel(unet)
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(unet, mask_channel, dropout)
        return self

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Int[Tensor, " b"],
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

    def _adopt(self, unet: UNet3DConditionModel, mask_channel: bool, dropout: float) -> None:
        self.unet = unet
        self.mask_channel = mask_channel
        self.latent_channels = unet.config.out_channels
        self.text_dim = unet.config.cross_attention_dim
        for module in unet.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

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


def find_unet_folder(folder: Path) -> Path:
    """The folder that holds a diffusers U-Net's configuration and safetensors weights.

    Raises:
        FileNotFoundError: if neither `folder` nor `folder/unet` does.
    """
    for candidate in (folder / "unet", folder):
        has_weights = any(candidate.glob("diffusion_pytorch_model*.safetensors"))
        if (candidate / "config.json").is_file() and has_weights:
            return candidate
    raise FileNotFoundError(
        f"{folder} holds no diffusers U-Net: expected unet/config.json and "
        "unet/diffusion_pytorch_model.safetensors inside it. Weights in .bin files must be "
        "converted to safetensors first"
    )


def _add_input_channel(unet: UNet3DConditionModel) -> None:
    """Widen the first convolution by a channel that changes nothing yet."""
    old = unet.conv_in
    new = nn.Conv2d(
        old.in_channels + 1,
        old.out_channels,
        old.kernel_size,
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)
