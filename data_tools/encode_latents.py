"""Encode video shards to latents shards with a frame codec.

    python -m data_tools.encode_latents --shards data/doom/shards --out data/doom/latents

The default fits a PCA patch codec on frames of the training split alone and writes it beside the
latents as `codec.safetensors`; `--codec-file` uses a codec that was fitted before, `--codec-model` that
of a world model, `--codec klvae` a pretrained VAE, which `codec.json` beside the latents describes, so
that training needs none of its weights.
Each latents shard holds the episodes of one video shard.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from data_tools.options import USER_ERRORS, Run, run_of, tool_parser
from data_tools.parts import make_shards, write_part
from sfv.data.index import INDEX, Shard, ShardError, ShardIndex, find_shards
from sfv.data.schema import SPLITS, Encoding
from sfv.data.shards import Sample, read_shard
from sfv.data.stages import decode, encode_latents
from sfv.files import check_writable
from sfv.models.autoencoder import KLVAECodec, PCAPatchCodec
from sfv.models.latents_codec import write_codec_file
from sfv.models.world_model import WorldModel
from sfv.rng import seed_of
from sfv.storage.pretrained import local_folder
from sfv.texts import printable

CODEC_FILE = "codec.safetensors"
PRETRAINED_FILE = "codec.json"


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


def encode_split(
    index: ShardIndex, codec: dict[str, Any], out: Path, run: Run, overwrite: bool = False,
) -> tuple[ShardIndex, list[str]]:  # fmt: skip
    """Encode one split's video shards to float16 latents shards in `out`.

    Args:
        index: video shards.
        codec: what `load_codec` takes; its fingerprint goes into every episode and the index.
        out: folder of this split's latents.
        run: on how many workers; changes no byte.
        overwrite: replace shards that stand in `out`.

    Returns:
        the index, and a message for every episode that cannot be read and was left out.

    Raises:
        ShardError: not video, latents that do not fit float16, shards stand there already.
    """
    if index.kind == "latents":
        raise ShardError(f"{index.root}: holds {index.kind}, encoding needs video shards")
    items = {shard.name: dataclasses.asdict(shard) for shard in index.shards}
    settings = {"codec": codec, "source": str(index.folder.resolve())}
    return make_shards(
        encode_shard, items, settings, out, index.split, run, overwrite, f"encode {index.split}"
    )


def encode_shard(item: dict[str, Any], settings: dict[str, Any]) -> str:
    """Encode one video shard, given as the fields of its `Shard`."""
    shard, codec = Shard(**item), load_codec(json.dumps(settings["codec"]))
    encoding = Encoding("latents", codec.fingerprint(), "float16")
    path = Path(settings["source"]) / shard.name
    encoded, unreadable = [], []
    for sample in read_shard(path, shard):
        try:
            video = decode(sample, str(path))
        except ShardError as error:
            unreadable.append(str(error))
            continue
        meta = dataclasses.replace(sample.meta, encoding=encoding)
        latents = encode_video(codec, video)
        encoded.append(Sample(meta, encode_latents(latents, meta.id)))
    if not encoded:
        raise ShardError(f"{path}: not one episode can be read: {unreadable}")
    return write_part(encoded, shard.name, settings, unreadable)


@lru_cache(maxsize=1)
def load_codec(spec: str) -> PCAPatchCodec | KLVAECodec:
    """Load a codec once a process.

    Args:
        spec: JSON: {"pca": FILE} or {"klvae": FOLDER}.
    """
    ((kind, place),) = json.loads(spec).items()
    return PCAPatchCodec.load(place) if kind == "pca" else KLVAECodec(place)


@torch.no_grad()
def encode_video(
    codec: PCAPatchCodec | KLVAECodec,
    video: UInt8[Tensor, "t 3 height width"],
    frames_per_step: int = 256,
) -> Float[Tensor, "c t h w"]:
    """Encode a whole video, `frames_per_step` frames together, which bounds memory."""
    parts = [
        codec.encode(part.float()[None] / 255)[0] for part in torch.split(video, frames_per_step)
    ]
    return torch.cat(parts, dim=1)


def reconstruction_psnr(
    codec: PCAPatchCodec | KLVAECodec, frames: UInt8[Tensor, "n 3 height width"]
) -> float:
    """Mean over frames of the PSNR (dB) of decode(encode(frame))."""
    values = []
    for part in torch.split(frames, 256):
        video = part.float()[None] / 255
        error = (codec.decode(codec.encode(video)) - video).square().mean(dim=(2, 3, 4))
        values.append(-10 * error.clamp(min=1e-10).log10()[0])
    return float(torch.cat(values).mean())


def encode_folder(
    shards: Path, out: Path, codec: dict[str, Any], run: Run, overwrite: bool = False
) -> dict[str, tuple[ShardIndex, list[str]]]:
    """Encode every split in `shards`; see `encode_split`.

    Raises:
        ShardError: no split there.
    """
    splits = [split for split in SPLITS if (shards / split / INDEX).is_file()]
    if not splits:
        raise ShardError(f"{shards}: none of the folders {SPLITS} with {INDEX}; run write_shards")
    return {
        split: encode_split(find_shards(shards / split), codec, out / split, run, overwrite)
        for split in splits
    }


def held_out_psnr(
    shards: Path, codec: PCAPatchCodec | KLVAECodec, seed: int = 0
) -> dict[str, float]:
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("encode_latents", "Encode video shards to latents shards with a frame codec.")
    p.add_argument("--shards", type=Path, required=True, help="holds train/, val/, test/")
    p.add_argument("--codec", choices=("pca", "klvae"), default="pca", help="pca is fitted here")
    p.add_argument("--codec-file", type=Path, help="use this fitted PCA codec instead of fitting")
    p.add_argument(
        "--codec-model", help="use the PCA codec of this world model: a folder, or `reference`"
    )
    p.add_argument("--codec-folder", type=Path, help="diffusers folder of the VAE, for klvae")
    p.add_argument("--fit-split", choices=("train",), default="train", help="where to fit")
    p.add_argument("--fit-frames", type=int, default=4096, help="frames in the fit")
    p.add_argument("--channels", type=int, default=16, help="latent channels")
    p.add_argument("--patch", type=int, default=8, help="pixels of a patch's side")
    p.add_argument("--seed", type=int, default=0, help="picks the frames of the fit")
    p.add_argument("--overwrite", action="store_true", help="replace shards in --out")
    return p


def codec_of(args: argparse.Namespace) -> dict[str, Any]:
    """Find or fit the codec; returns what `load_codec` takes.

    Raises:
        ValueError: the flags name no codec or several, or the model has another kind.
        ShardError: no training shards to fit on.
    """
    _check_codec_flags(args)
    if args.codec == "klvae":
        return {"klvae": str(local_folder(args.codec_folder).resolve())}
    own = (args.out / CODEC_FILE).resolve()
    given = args.codec_file or (own if args.resume and own.is_file() else None)
    if args.codec_model is not None:
        codec = model_codec(args.codec_model)
    elif given is None:
        train = find_shards(args.shards / args.fit_split)
        codec = fit_codec(train, args.channels, args.patch, args.fit_frames, args.seed)
    else:
        codec = PCAPatchCodec.load(given)
    if args.codec_model is not None or given != own:
        codec.save(own)
    return {"pca": str(own)}


def _check_codec_flags(args: argparse.Namespace) -> None:
    named = [
        flag
        for flag, value in (
            ("--codec-file", args.codec_file),
            ("--codec-model", args.codec_model),
            ("--codec-folder", args.codec_folder),
        )
        if value is not None
    ]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} name {len(named)} codecs; leave all out but one")
    if args.codec == "klvae" and args.codec_folder is None:
        raise ValueError("--codec klvae needs --codec-folder, a diffusers folder with vae/")
    if args.codec == "pca" and args.codec_folder is not None:
        raise ValueError("--codec-folder is a VAE's: give --codec klvae with it, or leave it out")


def model_codec(model: str) -> PCAPatchCodec:
    """The codec of a world model, to make latents on which its training can go on.

    Raises:
        FileNotFoundError: there is no such world model.
        ValueError: its codec is not fitted here, but a public one.
    """
    codec = WorldModel.load(model).codec
    if not isinstance(codec, PCAPatchCodec):
        raise ValueError(
            f"the codec of {model} is a {type(codec).__name__}; --codec-model takes that of a model with a "
            "PCAPatchCodec; for a KL-VAE use --codec klvae --codec-folder FOLDER"
        )
    return codec


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        check_writable(args.out)
        spec = codec_of(args)
        made = encode_folder(args.shards, args.out, spec, run_of(args), args.overwrite)
        codec = load_codec(json.dumps(spec))
        if isinstance(codec, KLVAECodec):
            write_codec_file(args.out / PRETRAINED_FILE, codec)
        report = {
            "codec": codec.fingerprint(),
            "episodes": {split: index.num_samples for split, (index, _) in made.items()},
            "left out": {split: messages for split, (_, messages) in made.items() if messages},
            "reconstruction psnr dB": held_out_psnr(args.shards, codec, args.seed),
        }
    except USER_ERRORS as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
