"""Small latents shards and learners that need no engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from sfv.backbones.video_unet import VideoUNet
from sfv.data.datamodule import EpisodeDataModule
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, Split
from sfv.data.shards import Sample, write_shards
from sfv.data.stages import encode_latents
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.rng import stream
from sfv.training.slow import SlowLearner

ACTIONS = ("walk forward", "walk backward", "turn left", "turn right")


@dataclass(frozen=True)
class Data:
    """Latents shards of two splits and the codec that is said to have made them.

    Each episode has 4 actions of `chunk` frames.
    """

    folder: Path
    codec: Path
    chunk: int

    @property
    def train(self) -> Path:
        return self.folder / "train"

    @property
    def val(self) -> Path:
        return self.folder / "val"


def make_data(
    folder: Path,
    channels: int,
    chunk: int,
    size: tuple[int, int],
    patch: int,
    seed: int = 0,
    num_train: int = 3,
) -> Data:
    """Write shards of random latents.

    Args:
        folder: new.
        channels: c.
        chunk: frames of an action.
        size: h, w.
        patch: pixels of a latent position.
        seed: another one gives another codec.
        num_train: training episodes; one more validates.
    """
    height, width = size[0] * patch, size[1] * patch
    codec = PCAPatchCodec(latent_channels=channels, patch=patch)
    codec.fit(torch.rand(40, 3, height, width, generator=stream(seed, "test-frames")))
    codec.save(folder / "codec.safetensors")
    for split, num in (("train", num_train), ("val", 1)):
        samples = [
            make_sample(f"{split}-{i}", split, codec, chunk, (height, width)) for i in range(num)
        ]
        write_shards(samples, folder / split, split)
    return Data(folder, folder / "codec.safetensors", chunk)


def make_sample(
    key: str, split: Split, codec: PCAPatchCodec, chunk: int, pixels: tuple[int, int]
) -> Sample:
    """One episode of 4 actions; its latents are unit noise named by its key."""
    factor = codec.spatial_factor
    shape = (codec.latent_channels, 4 * chunk, pixels[0] // factor, pixels[1] // factor)
    meta = EpisodeMeta(
        id=key,
        split=split,
        scene=f"{split}-yard",
        domain="navigation",
        source="test",
        licence="CC0-1.0",
        fps=8.0,
        num_frames=4 * chunk,
        height=pixels[0],
        width=pixels[1],
        actions=tuple(Action(a, i * chunk, (i + 1) * chunk) for i, a in enumerate(ACTIONS)),
        poses=None,
        revisits=(),
        provenance=Provenance("make", "1", "00"),
        encoding=Encoding("latents", codec.fingerprint(), "float16"),
    )
    return Sample(meta, encode_latents(torch.randn(shape, generator=stream(0, "latents", key))))


def make_learner(
    data: Data,
    codec: PCAPatchCodec | None = None,
    cls: type[SlowLearner] = SlowLearner,
    denoiser: torch.nn.Module | None = None,
    **changes: Any,
) -> SlowLearner:
    """A tiny slow learner with f_p = 3 for shards with chunks of 2 frames; a U-Net if none is given."""
    codec = codec or PCAPatchCodec.load(data.codec)
    settings: dict[str, Any] = {
        "num_context": 3,
        "num_generated": data.chunk,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        "seed": 7,
        **changes,
    }
    return cls(
        denoiser or VideoUNet("tiny", latent_channels=codec.latent_channels, text_dim=6),
        codec,
        ActionTable(ACTIONS, text_dim=6),
        **settings,
    )


def make_datamodule(
    data: Data, mode: Literal["windows", "episodes"] = "windows", **changes: Any
) -> EpisodeDataModule:
    """Windows of 3 + 2 frames, in batches of 2."""
    settings: dict[str, Any] = {"val": str(data.val), "batch_size": 2, "seed": 7, **changes}
    return EpisodeDataModule(
        str(data.train), mode=mode, num_context=3, num_generated=data.chunk, **settings
    )


def make_trainer(max_steps: int, callbacks: Sequence[pl.Callback] = (), **changes: Any) -> Any:
    """A trainer that writes nothing and does not validate unless told to."""
    settings: dict[str, Any] = {
        "logger": False,
        "limit_val_batches": 0,
        "check_val_every_n_epoch": None,
        "enable_checkpointing": False,
        **changes,
    }
    return pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights agree in names and in every bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
