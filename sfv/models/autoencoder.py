"""Frame codecs: each video frame becomes one latent frame and back."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfv.storage.pretrained import find_part, load_whole
from sfv.storage.weight_files import check_finite, hash_tensors, read_tensors, write_tensors

_PCA_FORMAT = "sfv.pca_patch_codec/1"
_GREY_LEVEL = 1 / 255


class PCAPatchCodec(nn.Module):
    """Principal components of pixel patches: fitted in seconds, needs no pretrained weights.

    A patch of `patch` x `patch` pixels becomes one latent position. Each latent channel is one
    principal component, shifted to zero mean on the fitted frames. Together the channels have unit
    variance; how it is shared out is the whitening, see `fit`.

    Args:
        file: written by `save`; None leaves the codec unfitted.
        latent_channels: components kept; at most 3 * patch * patch.
        patch: pixels along one side of a patch.

    Raises:
        ValueError: if the numbers do not fit together or do not fit `file`.
    """

    keeps_weights = True

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(
        self, file: str | Path | None = None, latent_channels: int = 16, patch: int = 8
    ) -> None:
        super().__init__()
        dims = 3 * patch * patch
        if not 1 <= latent_channels <= dims:
            raise ValueError(
                f"latent_channels is {latent_channels}; a patch of {patch}x{patch} colour pixels "
                f"has from 1 to {dims} components"
            )
        self.latent_channels = latent_channels
        self.spatial_factor = patch
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("components", torch.zeros(latent_channels, dims))
        self.register_buffer("scale", torch.zeros(latent_channels))
        if file is not None:
            self._read(Path(file))

    @classmethod
    def load(cls, path: str | Path) -> "PCAPatchCodec":
        """Read a codec of any size that `save` wrote."""
        _, metadata = read_tensors(path)
        _check_format(path, metadata)
        return cls(path, int(metadata["latent_channels"]), int(metadata["patch"]))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose metadata holds the sizes and the fingerprint."""
        self._check_fitted()
        metadata = {
            "format": _PCA_FORMAT,
            "latent_channels": str(self.latent_channels),
            "patch": str(self.spatial_factor),
            "fingerprint": self.fingerprint(),
        }
        write_tensors(path, self.state_dict(), metadata)

    def settings(self) -> dict[str, int]:
        """Constructor arguments that, with the weights, make this codec again."""
        return {"latent_channels": self.latent_channels, "patch": self.spatial_factor}

    @torch.no_grad()
    def fit(
        self, frames: Float[Tensor, "n 3 height width"], whitening: float = 0.5
    ) -> "PCAPatchCodec":
        """Fit to frames in [0, 1], a few thousand are plenty; replaces an earlier fit.

        Args:
            frames: of the train split.
            whitening: 1 gives every component unit variance, 0 keeps the proportions of the pixels.
                Between them a denoiser learns coarse structure first and fine detail too. A component
                that varies by less than a grey level is quantisation noise and is not blown up.

        Raises:
            ValueError: `whitening` is not from 0 to 1.
        """
        if not 0.0 <= whitening <= 1.0:
            raise ValueError(f"whitening is {whitening}; allowed: 0 to 1")
        mean, covariance = _patch_moments(frames, self.spatial_factor)
        variance, vectors = torch.linalg.eigh(covariance)
        components = vectors.flip(1).T[: self.latent_channels]
        largest = components.abs().argmax(dim=1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        deviation = variance.flip(0)[: self.latent_channels].clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.components.copy_(components)
        scale = deviation.clamp(min=_GREY_LEVEL) ** whitening
        self.scale.copy_(scale * (deviation / scale).square().mean().sqrt())
        return self

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.FrameCodec`."""
        self._check_fitted()
        _check_size(video, self.spatial_factor)
        patch = self.spatial_factor
        frames = video.flatten(0, 1).float() - self._mean_patch(video.shape[-2:])
        kernel = (self.components / self.scale[:, None]).view(-1, 3, patch, patch)
        latents = F.conv2d(frames, kernel, stride=patch)
        return _frames_last(latents, len(video))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """See `sfv.types.FrameCodec`."""
        self._check_fitted()
        patch = self.spatial_factor
        flat = latents.transpose(1, 2).flatten(0, 1).float()
        kernel = (self.components * self.scale[:, None]).view(-1, 3, patch, patch)
        frames = F.conv_transpose2d(flat, kernel, stride=patch)
        frames = frames + self._mean_patch(frames.shape[-2:])
        return _as_video(frames, len(latents))

    def fingerprint(self) -> str:
        """See `sfv.types.FrameCodec`."""
        self._check_fitted()
        return hash_tensors(self.state_dict())

    def _mean_patch(self, size: torch.Size) -> Float[Tensor, "3 height width"]:
        """The mean patch, repeated over an image."""
        patch = self.spatial_factor
        return self.mean.view(3, patch, patch).repeat(1, size[0] // patch, size[1] // patch)

    def _read(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        _check_format(path, metadata)
        given = (self.latent_channels, self.spatial_factor)
        stored = (int(metadata["latent_channels"]), int(metadata["patch"]))
        if given != stored:
            raise ValueError(
                f"{path} holds a codec with latent_channels={stored[0]}, patch={stored[1]}, but "
                f"latent_channels={given[0]}, patch={given[1]} was asked for: ask for the file's "
                "numbers, or use PCAPatchCodec.load"
            )
        self.load_state_dict(tensors)

    def _check_fitted(self) -> None:
        if not bool(self.scale.all()):
            raise ValueError(
                "this PCAPatchCodec is not fitted: call fit(frames) first, or give the file of a "
                "fitted one (PCAPatchCodec.load(path))"
            )


class KLVAECodec(nn.Module):
    """Stable-Diffusion-style KL-VAE, applied frame by frame; frozen.

    Encoding takes the posterior's mode, so that latents are a function of the frame alone.

    Args:
        folder: a diffusers pipeline folder with `vae/` inside, that `vae/` folder, or the hub name of
            one in the local cache. The scaling factor is its configuration's (0.18215 for ModelScopeT2V).
        frames_per_call: frames that go through the network at once; bounds memory.

    Raises:
        FileNotFoundError: if there is no VAE with safetensors weights.
        ValueError: if a file is damaged.
    """

    keeps_weights = False

    def __init__(self, folder: str | Path, frames_per_call: int = 8) -> None:
        super().__init__()
        if frames_per_call < 1:
            raise ValueError(f"frames_per_call is {frames_per_call}; it must be at least 1")
        self.vae: Any = load_whole(AutoencoderKL, find_part(Path(folder), "vae", "VAE"))
        self.vae.eval().requires_grad_(False)
        self.folder, self.frames_per_call = str(folder), frames_per_call
        self.latent_channels: int = self.vae.config.latent_channels
        self.spatial_factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.FrameCodec`."""
        _check_size(video, self.spatial_factor)
        parts = [
            self.vae.encode(frames * 2 - 1).latent_dist.mode()
            for frames in torch.split(video.flatten(0, 1).to(self.vae.dtype), self.frames_per_call)
        ]
        latents = torch.cat(parts).float() * self.vae.config.scaling_factor
        return _frames_last(latents, len(video))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """See `sfv.types.FrameCodec`."""
        flat = latents.transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor
        parts = [
            self.vae.decode(part).sample.float()
            for part in torch.split(flat.to(self.vae.dtype), self.frames_per_call)
        ]
        frames = torch.cat(parts) / 2 + 0.5
        return _as_video(frames, len(latents))

    def fingerprint(self) -> str:
        """See `sfv.types.FrameCodec`."""
        return hash_tensors(self.vae.state_dict())

    def settings(self) -> dict[str, str | int]:
        """Constructor arguments that make this codec again; the weights stay in `folder`."""
        return {"folder": self.folder, "frames_per_call": self.frames_per_call}


def _patch_moments(
    frames: Float[Tensor, "n 3 height width"], patch: int, frames_per_pass: int = 512
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
    """Mean and covariance of all patches, in double precision and bounded memory."""
    if len(frames) == 0:
        raise ValueError("no frames to fit the codec to: give at least one")
    _check_size(frames, patch)
    dims = 3 * patch * patch
    total = torch.zeros(dims, dtype=torch.float64)
    products = torch.zeros(dims, dims, dtype=torch.float64)
    count = 0
    for part in torch.split(frames, frames_per_pass):
        patches = F.pixel_unshuffle(part.double().cpu(), patch).flatten(2).transpose(1, 2)
        flat = patches.flatten(0, 1)
        total += flat.sum(dim=0)
        products += flat.T @ flat
        count += len(flat)
    check_finite({"their sum": total}, "the codec cannot be fitted to these frames")
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def _frames_last(latents: Float[Tensor, "bt c h w"], batch: int) -> Float[Tensor, "b c t h w"]:
    """Join the latent frames of each video in time."""
    frames = latents.reshape(batch, -1, *latents.shape[1:])
    return frames.transpose(1, 2).contiguous()


def _as_video(
    frames: Float[Tensor, "bt 3 height width"], batch: int
) -> Float[Tensor, "b t 3 height width"]:
    """Join frames to videos, clamped to what pixels can be."""
    return frames.reshape(batch, -1, *frames.shape[1:]).clamp(0, 1)


def _check_size(frames: Tensor, factor: int) -> None:
    height, width = frames.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"frames are {height}x{width} pixels, but this codec needs both sides to be multiples "
            f"of {factor}: crop or resize the video"
        )


def _check_format(path: str | Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != _PCA_FORMAT:
        raise ValueError(
            f"{path} is no PCA patch codec: its format is {metadata.get('format')!r}, expected "
            f"{_PCA_FORMAT!r}"
        )
