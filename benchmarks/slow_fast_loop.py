"""What the slow-fast loop costs a slow step, and what learning episodes in one batch saves.

python -m benchmarks.slow_fast_loop [--quick] --json FILE

1. Slow steps of plain slow learning on chunk pairs against the same number of them in the loop, each with
   its fast phase; and the loop's own share: against the fast and slow steps in a plain Python loop.
2. The loop with the episodes of a group in one batch and slow batches of several Θ, against the loop one
   episode and one pair at a time.
3. The replay of a group: bytes of a Θ_i in each store, seconds to write it for a checkpoint and to read it
   back, against learning the group again.
Both sides of a row train on the same pairs; "ratio" is theirs : ours.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from benchmarks.side_by_side import Work, arguments, compare, machine, write_table
from sfv.backbones.video_unet import VideoUNet
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.rng import stream
from sfv.training.replay import Replay, ThetaStore
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast, with_memories
from sfv.types import EpisodeBatch

CHANNELS, SIZE, FRAMES, SEED, ACTION = 16, 8, 8, 0, "walk forward"
SETTINGS = SlowFastSettings(
    episodes_per_group=4,
    lora=LoRASettings(r=16, alpha=16.0),
    fast=FastSettings(num_steps=2, probe_draws=0, guard=None),
    precision="bf16",
    slow_batch_size=4,
)


@dataclass(frozen=True)
class Size:
    """How much one work does.

    Args:
        episodes: of a group.
        chunks: pairs of an episode.
        groups: outer iterations.
    """

    episodes: int = 4
    chunks: int = 4
    groups: int = 2

    @property
    def pairs(self) -> int:
        """Chunk pairs of all groups."""
        return self.episodes * self.chunks * self.groups


def make_learner() -> SlowLearner:
    """The tiny preset; its codec is not used."""
    codec = PCAPatchCodec(latent_channels=CHANNELS, patch=8)
    codec.fit(torch.rand(8, 3, 64, 64, generator=stream(SEED, "benchmark-frames")))
    denoiser = VideoUNet("tiny", latent_channels=CHANNELS)
    return SlowLearner(
        denoiser, codec, ActionTable((ACTION,)), num_context=FRAMES, num_generated=FRAMES
    )


def make_episodes(size: Size) -> list[EpisodeBatch]:
    """Random latents: what is in them costs nothing."""
    shape = (size.chunks, CHANNELS, 2 * FRAMES, SIZE, SIZE)
    return [
        EpisodeBatch(
            key=f"e{i}",
            pairs=torch.randn(shape, generator=stream(SEED, "benchmark-pairs", i)),
            actions=[ACTION] * size.chunks,
        )
        for i in range(size.episodes)
    ]


class Data(pl.LightningDataModule):
    """Given batches, in order."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> "DataLoader[Any]":
        """As they are."""
        generator = stream(SEED, "benchmark-loader")
        return DataLoader(self.batches, batch_size=None, generator=generator)  # type: ignore[arg-type]


def make_trainer(steps: int, folder: Path) -> pl.Trainer:
    """Bare: nothing is written, logged or shown."""
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", plugins=[MixedPrecision("bf16-mixed", "cpu")],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def loop(size: Size, settings: SlowFastSettings, folder: Path) -> Work:
    """The slow-fast loop over all groups."""
    settings = replace(settings, episodes_per_group=size.episodes)
    steps = -(-size.episodes * size.chunks // settings.slow_batch_size) * size.groups

    def work() -> None:
        trainer = make_trainer(steps, folder)
        fit_slow_fast(trainer, make_learner(), Data(make_episodes(size)), settings)

    return work


def plain(size: Size, batch_size: int, folder: Path) -> Work:
    """Slow learning alone, on as many batches of the same pairs."""
    pairs = torch.cat([episode["pairs"] for episode in make_episodes(size)])
    batches = [
        {"latents": part, "actions": [ACTION] * len(part), "num_context": FRAMES}
        for part in torch.split(pairs, batch_size)
    ]

    def work() -> None:
        trainer = make_trainer(len(batches) * size.groups, folder)
        trainer.fit(make_learner(), Data(batches))

    return work


def by_hand(size: Size, settings: SlowFastSettings, folder: Path) -> Work:
    """The fast phases, without any trainer, then plain slow learning: the least that a loop can cost."""
    slow = plain(size, settings.slow_batch_size, folder)

    def work() -> None:
        with with_memories(make_trainer(1, folder), make_learner(), settings) as phase:
            for group in range(size.groups):
                phase.replay.begin(group)
                courses = phase.courses(make_episodes(size), group * size.episodes)
                phase.learn(courses, lambda reports: None)
        slow()

    return work


def stores(size: Size, folder: Path) -> dict[str, dict[str, float]]:
    """What keeping one group costs, in each store."""
    found: dict[str, dict[str, float]] = {}
    names: tuple[ThetaStore, ...] = ("float32", "bfloat16", "disk")
    for name in names:
        settings = replace(SETTINGS, theta_store=name)
        with with_memories(make_trainer(1, folder / name), make_learner(), settings) as phase:
            phase.replay.begin(1)
            began = perf_counter()
            phase.learn(phase.courses(make_episodes(size), 0), lambda reports: None)
            learned = perf_counter()
            phase.replay.save()
            saved = perf_counter()
            Replay(folder / name / "replay", name).load(1)
            loaded = perf_counter()
            kept = [i.memory for i in phase.replay.items if isinstance(i.memory, torch.Tensor)]
            files = (folder / name / "replay").rglob("item-*")
            found[name] = {
                "ram_bytes_of_a_theta": sum(tensor.nbytes for tensor in kept) / len(phase.replay),
                "file_bytes_of_an_item": sum(f.stat().st_size for f in files) / len(phase.replay),
                "seconds_to_learn": learned - began,
                "seconds_to_save": saved - learned,
                "seconds_to_load": loaded - saved,
            }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the table."""
    options = arguments(__doc__, argv)
    size, repeats = (Size(2, 2, 1), 2) if options.quick else (Size(), 5)
    naive = replace(SETTINGS, episodes_at_once=1, slow_batch_size=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = loop(size, SETTINGS, folder)
        rows = {
            "slow steps : in the loop": compare(
                plain(size, SETTINGS.slow_batch_size, folder), whole, repeats
            ),
            "by hand : in the loop": compare(by_hand(size, SETTINGS, folder), whole, repeats),
            "loop: batched : one by one": compare(whole, loop(size, naive, folder), repeats),
        }
        kept = stores(size, folder / "stores")
    context = {"pairs": size.pairs, "fast_steps": SETTINGS.fast.num_steps, "stores": kept}
    write_table(options.json, rows, {**machine(), **context, "preset": "tiny"})
    for store, row in kept.items():
        print(store, ", ".join(f"{key} {value:.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
