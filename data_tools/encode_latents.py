"""Encode video shards to latents shards with a frame codec.

    python -m data_tools.encode_latents --shards data/doom/shards --out data/doom/latents

The default fits a PCA patch codec on frames of the training split alone and writes it beside the
latents as `codec.safetensors`; `--codec-file` uses a codec that was fitted before.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from sfv.data.index import INDEX, ShardError, ShardIndex, find_shards
from sfv.data.schema import SPLITS, Encoding, SchemaError
from sfv.data.shards import Sample, read_shard, write_shards
from sfv.data.stages import decode, encode_latents
from sfv.models.autoencoder import PCAPatchCodec
from sfv.rng import seed_of
from sfv.types import FrameCodec

CODEC_FILE = "codec.safetensors"


def fit_codec(
    train: ShardIndex, channels: int = 16, patch: int = 8, num_frames: int = 4096, seed: int = 0
) -> PCAPatchCodec:
    """Fit a PCA patch codec to a sample of the training frames.

    Args:
        train: video shards of split `train`.
        channels: of the latents.
        patch: pixels; the latents are this much smaller.
        num_frames: frames in the sample, spread evenly over the episodes.
        seed: picks the frames.

    Raises:
        ShardError: other shards than those of split `train`.
    """
    if train.split != "train":
        raise ShardError(
            f"{train.folder} is split {train.split!r}; a codec is fitted on 'train' alone, or the "
            "test would measure what it has seen"
        )
    each = -(-num_frames // train.num_samples)
    frames = sample_frames(train, each, seed, "fit codec")
    return PCAPatchCodec(latent_channels=channels, patch=patch).fit(frames.float() / 255)


def sample_frames(
    index: ShardIndex, frames_per_episode: int, seed: int, title: str
) -> UInt8[Tensor, "n 3 height width"]:
    """Draw frames from every episode of video shards, without repeats inside an episode."""
    drawn = []
    for sample in tqdm(_samples(index), total=index.num_samples, desc=title, unit="episode"):
        video = decode(sample)
        generator = np.random.default_rng(seed_of(seed, "codec-frames", sample.meta.id))
        count = min(frames_per_episode, len(video))
        drawn.append(video[np.sort(generator.permutation(len(video))[:count])])
    return torch.cat(drawn)


def encode_shards(
    index: ShardIndex, codec: FrameCodec, out: Path, max_bytes: int = 64_000_000,
    overwrite: bool = False, frames_per_step: int = 256,
) -> ShardIndex:  # fmt: skip
    """Encode one split's video shards to float16 latents shards in `out`.

    Args:
        index: video shards.
        codec: its fingerprint goes into every episode and into the index.
        out: folder of this split's latents.
        max_bytes: of one shard.
        overwrite: replace shards that stand in `out`.
        frames_per_step: frames encoded together; bounds memory.

    Raises:
        ShardError: not video, latents that do not fit float16, shards stand there already.
    """
    if index.kind != "video":
        raise ShardError(f"{index.folder}: holds {index.kind}, encoding needs video shards")
    encoding = Encoding("latents", codec.fingerprint(), "float16")

    def encoded() -> Iterator[Sample]:
        bar = tqdm(total=index.num_samples, desc=f"encode {index.split}", unit="episode")
        for sample in _samples(index):
            latents = _encode(codec, decode(sample), frames_per_step)
            meta = dataclasses.replace(sample.meta, encoding=encoding)
            yield Sample(meta, encode_latents(latents, meta.id))
            bar.update()
        bar.close()

    return write_shards(encoded(), out, index.split, max_bytes, overwrite)


def reconstruction_psnr(codec: FrameCodec, frames: UInt8[Tensor, "n 3 height width"]) -> float:
    """Mean over frames of the PSNR (dB) of decode(encode(frame))."""
    values = []
    for part in torch.split(frames, 256):
        video = part.float()[None] / 255
        error = (codec.decode(codec.encode(video)) - video).square().mean(dim=(2, 3, 4))
        values.append(-10 * error.clamp(min=1e-10).log10()[0])
    return float(torch.cat(values).mean())


def encode_folder(
    shards: Path, out: Path, codec: FrameCodec, max_bytes: int = 64_000_000, overwrite: bool = False
) -> dict[str, ShardIndex]:
    """Encode every split in `shards`.

    Raises:
        ShardError: no split there.
    """
    splits = [split for split in SPLITS if (shards / split / INDEX).is_file()]
    if not splits:
        raise ShardError(f"{shards}: none of the folders {SPLITS} with {INDEX}; run write_shards")
    return {
        split: encode_shards(find_shards(shards / split), codec, out / split, max_bytes, overwrite)
        for split in splits
    }


def held_out_psnr(shards: Path, codec: FrameCodec, seed: int = 0) -> dict[str, float]:
    """Reconstruction PSNR (dB) on 16 frames of each episode of every split but `train`."""
    held_out = [split for split in ("val", "test") if (shards / split / INDEX).is_file()]
    return {
        split: round(
            reconstruction_psnr(
                codec, sample_frames(find_shards(shards / split), 16, seed, f"check {split}")
            ),
            2,
        )
        for split in held_out
    }


def _samples(index: ShardIndex) -> Iterator[Sample]:
    for shard in index.shards:
        yield from read_shard(index.folder / shard.name, shard)


def _encode(
    codec: FrameCodec, video: UInt8[Tensor, "t 3 height width"], frames_per_step: int
) -> Float[Tensor, "c t h w"]:
    parts = [
        codec.encode(part.float()[None] / 255)[0] for part in torch.split(video, frames_per_step)
    ]
    return torch.cat(parts, dim=1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.encode_latents",
        description="Encode video shards to latents shards with a frame codec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--shards", type=Path, required=True, help="holds train/, val/, test/")
    p.add_argument("--out", type=Path, required=True, help="gets the same and codec.safetensors")
    p.add_argument("--codec", choices=("pca",), default="pca", help="codec to fit")
    p.add_argument("--codec-file", type=Path, help="use this fitted PCA codec instead of fitting")
    p.add_argument("--fit-split", choices=("train",), default="train", help="where to fit")
    p.add_argument("--fit-frames", type=int, default=4096, help="frames in the fit")
    p.add_argument("--channels", type=int, default=16, help="latent channels")
    p.add_argument("--patch", type=int, default=8, help="pixels of a patch's side")
    p.add_argument("--seed", type=int, default=0, help="picks the frames of the fit")
    p.add_argument("--max-mb", type=float, default=64.0, help="size of a shard, 10^6 bytes")
    p.add_argument("--overwrite", action="store_true", help="replace shards in --out")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        if args.codec_file:
            codec = PCAPatchCodec.load(args.codec_file)
        else:
            train = find_shards(args.shards / args.fit_split)
            codec = fit_codec(train, args.channels, args.patch, args.fit_frames, args.seed)
        max_bytes = int(args.max_mb * 1e6)
        indices = encode_folder(args.shards, args.out, codec, max_bytes, args.overwrite)
        codec.save(args.out / CODEC_FILE)
        report = {
            "codec": codec.fingerprint(),
            "episodes": {split: index.num_samples for split, index in indices.items()},
            "reconstruction psnr dB": held_out_psnr(args.shards, codec, args.seed),
        }
    except (SchemaError, ShardError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
