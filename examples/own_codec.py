"""A frame codec of one's own, in a world model that is saved and loaded: `python -m examples.own_codec`."""

import tempfile

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.text import ActionTable
from sfv.models.world_model import PARTS, WorldModel


class SmallPictures(nn.Module):
    """Latents are the picture itself, shrunk: three channels in [-1, 1].

    Args:
        spatial_factor: pixels along one side of what becomes a latent position.
    """

    latent_channels = 3
    keeps_weights = False

    def __init__(self, spatial_factor: int = 8) -> None:
        super().__init__()
        self.spatial_factor = spatial_factor

    def settings(self) -> dict[str, int]:
        """Constructor arguments that make this codec again."""
        return {"spatial_factor": self.spatial_factor}

    def fingerprint(self) -> str:
        """There are no weights: the settings decide the output."""
        return f"small-pictures-{self.spatial_factor}"

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]:
        """Shrink every frame."""
        small = F.avg_pool2d(video.flatten(0, 1), self.spatial_factor) * 2 - 1
        return small.unflatten(0, video.shape[:2]).transpose(1, 2)

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """Enlarge every frame."""
        small = latents.transpose(1, 2).flatten(0, 1)
        large = F.interpolate(small, scale_factor=float(self.spatial_factor), mode="bilinear")
        return ((large + 1) / 2).clamp(0, 1).unflatten(0, (len(latents), -1))


def main() -> None:
    """Save a world model with this codec and load it again."""
    PARTS["SmallPictures"] = SmallPictures
    unet = VideoUNet("tiny", latent_channels=3, text_dim=8)
    text = ActionTable(["walk forward"], text_dim=8)
    model = WorldModel(unet, SmallPictures(), text, NoiseSchedule(), num_context=8, num_generated=8)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        codec = WorldModel.load(folder).codec
    video = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(video)
    print(f"{tuple(video.shape)} -> {tuple(latents.shape)} -> {tuple(codec.decode(latents).shape)}")


if __name__ == "__main__":
    main()
