"""An untrained world model for tests."""

from collections.abc import Sequence

import torch

from sfv.backbones.video_unet import VideoUNet
from sfv.backbones.wan import WanTransformer
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.address import Address
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.rng import stream


def untrained_world(
    actions: Sequence[str],
    patch: int = 4,
    size: tuple[int, int] = (16, 24),
    num_generated: int = 2,
) -> WorldModel:
    """f_p = 3 frames, and distinct sizes everywhere; frozen."""
    codec = PCAPatchCodec(latent_channels=5, patch=patch)
    codec.fit(torch.rand(40, 3, *size, generator=stream(0, "test-frames")))
    denoiser = VideoUNet("tiny", latent_channels=5, text_dim=7)
    text = ActionTable(actions, text_dim=7)
    model = WorldModel(denoiser, codec, text, NoiseSchedule(), 3, num_generated)
    for part in (denoiser, codec, text):
        part.requires_grad_(False).eval()
    return model


def untrained_addressed_world(
    actions: Sequence[str],
    patch: int,
    size: tuple[int, int],
    num_context: int = 3,
    num_generated: int = 2,
) -> WorldModel:
    """One that reads an addressed memory; the actions lead ahead by 20, 21, 22, ... units a frame."""
    codec = PCAPatchCodec(latent_channels=5, patch=patch)
    codec.fit(torch.rand(40, 3, *size, generator=stream(0, "test-frames")))
    denoiser = WanTransformer(5, 7, 1, 1, 12, 16, patch=1, reads_memory=True)
    model = WorldModel(
        denoiser,
        codec,
        ActionTable(actions, text_dim=7),
        NoiseSchedule(prediction_type="flow_prediction"),
        num_context,
        num_generated,
    )
    motions = {action: (20.0 + i, 0.0, 0.0) for i, action in enumerate(actions)}
    model.address = Address(motions, scales=((20.0, 7.0),), key_size=16)
    for part in (denoiser, codec, model.text):
        part.requires_grad_(False).eval()
    return model
