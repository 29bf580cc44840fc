"""The demo's learning, rollout and measuring stages: the library's own parts, wired small."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from sfv.backbones.video_unet import VideoUNet
from sfv.data.datamodule import EpisodeDataModule
from sfv.demo.settings import ACTIONS, DemoSettings
from sfv.diffusion.schedule import NoiseSchedule
from sfv.evaluation.evaluate import measure, write_outputs
from sfv.fast.addressed_learner import AddressedSettings
from sfv.generation.episodes import load_episodes
from sfv.generation.settings import GenerationSettings, Row
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.model_folder import find_model
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel, read_description
from sfv.report.table import format_table
from sfv.training.ema import EMA
from sfv.training.fit import train
from sfv.training.logger import tensorboard_logger
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings

SCHEDULE = NoiseSchedule(prediction_type="v_prediction")
EMA_DECAY = 0.98
LOOP_LEARNING_RATE = 1e-4


def base_settings(settings: DemoSettings) -> dict[str, Any]:
    """What training goes on from; with random weights nothing."""
    if settings.base is None:
        return {}
    return {"base": read_description(find_model(settings.base))["denoiser"]["fingerprint"]}


def slow_settings(settings: DemoSettings) -> dict[str, Any]:
    """What decides the result of slow learning."""
    return {
        "steps": settings.slow_steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "ema": EMA_DECAY,
        "seed": settings.seed,
        **(base_settings(settings) if settings.base else {"schedule": asdict(SCHEDULE)}),
    }


def slow(part: Path, latents: Path, settings: DemoSettings) -> None:
    """Train Φ on windows, on from the base model where there is one."""

    def one_cycle(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.slow_steps, pct_start=0.1
        )

    learner = _learner(
        latents, settings, settings.learning_rate, scheduler=one_cycle, init_from=settings.base
    )
    data = _data(latents, learner, settings, "windows")
    trainer = _trainer(part, settings.slow_steps, max(1, settings.slow_steps // 2))
    with _fewer_warnings():
        train(trainer, learner, data, None, part, slow_settings(settings))


def loop_settings(settings: DemoSettings) -> dict[str, Any]:
    """What decides the result of the slow-fast loop."""
    return {
        "steps": settings.loop_steps,
        "chunks": settings.loop_chunks,
        "learning_rate": LOOP_LEARNING_RATE,
        "lora": asdict(settings.lora),
        "fast": asdict(settings.fast),
        "seed": settings.seed,
    }


def slow_fast(part: Path, latents: Path, model: Path, settings: DemoSettings) -> None:
    """Go on training Φ inside the slow-fast loop."""
    learner = _learner(latents, settings, LOOP_LEARNING_RATE, init_from=model)
    data = _data(latents, learner, settings, "episodes")
    addressed = learner.world_model.address is not None
    loop = SlowFastSettings(
        episodes_per_group=8 if addressed else 2,
        max_chunks=settings.loop_chunks,
        memory="addressed" if addressed else "temp_lora",
        addressed=AddressedSettings(odometry="recorded"),
        lora=settings.lora,
        fast=replace(settings.fast, probe_draws=0),
        precision="bf16",
        seed=settings.seed,
        episodes_at_once=2,
        slow_batch_size=settings.batch_size if addressed else 1,
        plain_share=0.35 if addressed else 0.0,
    )
    trainer = _trainer(part, settings.loop_steps, settings.loop_steps)
    with _fewer_warnings():
        train(trainer, learner, data, loop, part, loop_settings(settings))


def report_settings(settings: DemoSettings) -> dict[str, Any]:
    """What decides the report."""
    return {"episodes": settings.test_episodes, **asdict(_generation(settings))}


def report(part: Path, shards: Path, model: Path, settings: DemoSettings) -> None:
    """Roll out on the held-out maps, measure, write the report."""
    world = WorldModel.load(model)
    episodes = load_episodes(shards / "test", world, settings.test_episodes)
    rows: tuple[Row, ...] = ("none", "fast")
    if world.address is not None:
        rows = ("none", "temp_lora", "fast")
    measured = measure(world, episodes, rows, _generation(settings))
    measured.report["settings"]["demo"] = asdict(settings)
    notes = [
        "A small world model, trained for minutes on two CPU cores, in places that it has not seen. All "
        "rows use the same weights Φ, actions and sampling noise; those with memory also learn while they "
        "generate. Intervals are over very few walks: read them before the values."
    ]
    write_outputs(part, episodes, measured, "sfv demo", notes)


def show(out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Print the table and where to look; return the report."""
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    print(format_table(content))
    print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    print(f"look at:  {out / 'report.html'}   (videos side by side, table, curves)")
    print(f"numbers:  {out / 'report.json'}")
    print(f"logs:     tensorboard --logdir {out}")
    print(f"model:    {out / 'slow_fast' / 'model'}   (for sfv rollout and sfv evaluate)")
    return content


def _learner(
    latents: Path,
    settings: DemoSettings,
    learning_rate: float,
    scheduler: Any = None,
    init_from: str | Path | None = None,
) -> SlowLearner:
    base = _untrained(latents, settings) if init_from is None else _like(init_from)
    return SlowLearner(
        base.denoiser,
        base.codec,
        base.text,
        base.schedule,
        base.num_context,
        base.num_generated,
        address=base.address,
        optimizer=lambda p: torch.optim.AdamW(p, lr=learning_rate, betas=(0.9, 0.99)),
        lr_scheduler=scheduler,
        init_from=None if init_from is None else str(init_from),
        seed=settings.seed,
    )


def _untrained(latents: Path, settings: DemoSettings) -> WorldModel:
    codec = PCAPatchCodec.load(latents / "codec.safetensors")
    return WorldModel(
        VideoUNet("tiny", latent_channels=codec.latent_channels, seed=settings.seed),
        codec,
        ActionTable(ACTIONS, seed=settings.seed),
        SCHEDULE,
        settings.chunk_frames,
        settings.chunk_frames,
    )


def _like(folder: str | Path) -> WorldModel:
    """A saved model's parts to be trained; the denoiser is new, and knows nothing of the folder's path."""
    world = WorldModel.load(folder)
    world.denoiser = type(world.denoiser)(**world.denoiser.settings())
    world.text.requires_grad_(True).train()
    return world


def _data(
    latents: Path, learner: SlowLearner, settings: DemoSettings, mode: Any
) -> EpisodeDataModule:
    return EpisodeDataModule(
        train=str(latents / "train"),
        val=str(latents / "val"),
        mode=mode,
        batch_size=settings.batch_size,
        num_context=settings.chunk_frames,
        num_generated=settings.chunk_frames,
        seed=settings.seed,
        codec_fingerprint=learner.world_model.codec.fingerprint(),
    )


def _trainer(part: Path, steps: int, val_every: int) -> pl.Trainer:
    # Its remarks on devices and cloud services are nothing that a demo's reader can act on.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    return pl.Trainer(
        max_steps=steps,
        precision="bf16-mixed",
        logger=tensorboard_logger(part),
        callbacks=[EMA(EMA_DECAY, update_starting_at_step=steps // 4)],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=val_every,
        log_every_n_steps=5,
    )


def _generation(settings: DemoSettings) -> GenerationSettings:
    return GenerationSettings(
        sampler=settings.sampler,
        lora=settings.lora,
        fast=settings.fast,
        precision="bf16",
        seed=settings.seed,
        videos_at_once=2 * settings.test_episodes,
    )


@contextmanager
def _fewer_warnings() -> Iterator[None]:
    """Hide warnings that a demo's reader cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
