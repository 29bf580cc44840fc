"""A benchmark of made-up walks, and a world model that was never trained; no engine is needed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from data_tools.files import VIDEO_CODEC, encode_mp4
from sfv.backbones.video_unet import VideoUNet
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, reverse_action
from sfv.data.shards import Sample, write_shards
from sfv.diffusion.schedule import NoiseSchedule
from sfv.evaluation.benchmark.spec import (
    DEFINITION,
    MANIFEST,
    Benchmark,
    KnownEpisode,
    Part,
    content_hash,
    frames_hash,
    manifest_json,
    part_of,
)
from sfv.files import write_json
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.rng import seed_of, stream
from tests.training.make import ACTIONS
from tests.world import untrained_addressed_world

SIZE, FIRST, CHUNK, CONTEXT = 32, 4, 2, 3
"""Pixels; frames of the first action, of the others, of the model's context."""

PARTS = {"return-12": Part("return", 5, 4, 100), "return-20": Part("return", 9, 2, 300)}


def make_benchmark(folder: Path) -> Path:
    """Write definition, manifest and shards; walks with even numbers share a scene."""
    benchmark = Benchmark(
        "made-up", 1, "numpy", "none", {}, "test", 0, SIZE, 8.0, CHUNK, True, PARTS, {}, folder
    )
    samples = [make_walk(name) for name in benchmark.episode_ids()]
    known = {
        sample.meta.id: KnownEpisode(
            part_of(sample.meta.id),
            sample.meta.num_frames,
            benchmark.turn_of(sample.meta),
            content_hash(sample.meta),
            frames_hash(make_frames(sample.meta)),
        )
        for sample in samples
    }
    write_shards(samples, folder / "test", "test")
    fields = {k: v for k, v in vars(benchmark).items() if k not in ("parts", "episodes", "source")}
    parts = {name: vars(part) for name, part in PARTS.items()}
    (folder / DEFINITION).write_text(yaml.safe_dump(fields | {"parts": parts}))
    write_json(folder / MANIFEST, manifest_json(known))
    return folder


def make_walk(name: str) -> Sample:
    """A walk out and back whose frames are a function of scene and pose alone."""
    part, number = PARTS[part_of(name)], int(name[-2:])
    half = part.chunks // 2
    draw = np.random.default_rng(seed_of(0, "made-up", name))
    out = [ACTIONS[i] for i in draw.integers(0, 4, half)]
    texts = ["walk forward", *out, *(reverse_action(a) for a in reversed(out))]
    stops = [FIRST + CHUNK * i for i in range(part.chunks)]
    num, turn = stops[-1], stops[half]
    places = [*range(turn), *range(turn - 2, turn - 2 - (num - turn), -1)]
    meta = EpisodeMeta(
        id=name,
        split="test",
        scene=f"yard-{number % 2}",
        domain="navigation",
        source="made up",
        licence="CC0-1.0",
        fps=8.0,
        num_frames=num,
        height=SIZE,
        width=SIZE,
        actions=tuple(
            Action(text, stop - (CHUNK if i else FIRST), stop)
            for i, (text, stop) in enumerate(zip(texts, stops, strict=True))
        ),
        poses=tuple((float(p), float(number), 0.0, 0.0) for p in places),
        revisits=tuple((p, j) for j, p in enumerate(places) if j >= turn),
        provenance=Provenance("make", "1", "00"),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )
    return Sample(meta, encode_mp4(make_frames(meta), meta.fps))


def make_frames(meta: EpisodeMeta) -> np.ndarray:
    assert meta.poses is not None
    frames = []
    for x, y, *_ in meta.poses:
        draw = np.random.default_rng(seed_of(0, "made-up-frame", int(x), int(y)))
        coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        frames.append(coarse.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1))
    return np.stack(frames)


def make_world(folder: Path, seed: int = 0) -> Path:
    """A tiny world model that knows the walks' actions."""
    codec = PCAPatchCodec(latent_channels=5, patch=8)
    codec.fit(torch.rand(40, 3, SIZE, SIZE, generator=stream(0, "test-frames")))
    denoiser = VideoUNet("tiny", latent_channels=5, text_dim=6, seed=seed)
    last = denoiser.unet.conv_out  # a fresh one predicts zero, and Θ could change nothing
    torch.nn.init.normal_(last.weight, std=0.1, generator=stream(seed, "test-out"))
    text = ActionTable(ACTIONS, text_dim=6)
    WorldModel(denoiser, codec, text, NoiseSchedule(), CONTEXT, CHUNK).save(folder)
    return folder


def renamed(sample: Sample, **changes: object) -> Sample:
    """The same pictures under another description."""
    return Sample(replace(sample.meta, **changes), sample.payload)


def make_addressed_world(folder: Path) -> Path:
    """A tiny world model with an addressed memory; its actions lead to other places each."""
    untrained_addressed_world(ACTIONS, 8, (SIZE, SIZE), CONTEXT, CHUNK).save(folder)
    return folder
