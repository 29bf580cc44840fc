"""Untrained world models for tests."""

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


ADDRESS = Address(
    {
        "walk forward": (12, 0, 0),
        "walk backward": (-12, 0, 0),
        "turn left": (0, 0, 30),
        "turn right": (0, 0, -30),
    },
    key_size=24,
)
"""Keys far smaller than usual, at the usual three scales."""


def tiny_wan(reads_memory: bool = True, channels: int = 5, text_dim: int = 7) -> WanTransformer:
    """One block; its last layer is not zero as in a new network, so that inputs change what it says."""
    network = WanTransformer(
        channels, text_dim, 1, 2, 8, ffn_dim=16, patch=1, reads_memory=reads_memory
    )
    with torch.no_grad():
        last = network.transformer.proj_out.weight
        last.copy_(0.3 * torch.randn(last.shape, generator=stream(0, "test-last-layer")))
    return network


def addressed_world() -> WorldModel:
    """A world model that reads an addressed memory; f_p = 3, f_g = 2, latents 5 x 4 x 6; frozen."""
    codec = PCAPatchCodec(latent_channels=5, patch=4)
    codec.fit(torch.rand(40, 3, 16, 24, generator=stream(0, "test-frames")))
    text = ActionTable(list(ADDRESS.motions), text_dim=7)
    schedule = NoiseSchedule(prediction_type="flow_prediction", shift=2.0)
    model = WorldModel(tiny_wan(), codec, text, schedule, 3, 2)
    model.address = ADDRESS
    for part in (model.denoiser, codec, text):
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
