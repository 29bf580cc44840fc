"""`sfv demo`: collect, shard, encode, learn slowly, learn slow-fast, roll out, measure, report."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sfv.data.index import INDEX_SCHEMA
from sfv.demo import learn
from sfv.demo.settings import DemoSettings
from sfv.demo.stages import MARKER, Pipeline, Stage
from sfv.files import claimed


def demo(
    out: Path = Path("runs/demo"),
    quick: bool = False,
    minutes: float | None = None,
    seed: int = 0,
    scratch: bool = False,
) -> None:
    """Run the whole path on a small world: real video from a 3D engine, on the CPU.

    Finished stages are kept, so an interrupted demo goes on where it was; a stage is done again when
    its settings changed.

    Args:
        out: folder of the demo; new, empty, or an earlier demo's.
        quick: the short version, about 3 minutes on 2 cores (the full one: about 10).
        minutes: of slow training on 2 cores instead of the default (half a minute; --scratch: 2).
        seed: of collecting, training and sampling; equal seeds give an equal report.json.
        scratch: begin with random weights, not with the reference checkpoint.
    """
    settings = DemoSettings(seed=seed)
    if scratch:
        settings = settings.from_scratch()
    if quick:
        settings = settings.quick()
    if minutes is not None:
        settings = settings.for_minutes(minutes)
    run_demo(out, settings)


def run_demo(out: Path, settings: DemoSettings) -> dict[str, Any]:
    """Run the demo with given settings and return its report.

    Raises:
        FileExistsError: `out` holds something else, or another demo runs there.
    """
    with claimed(out, MARKER, "a demo folder"):
        return _run_stages(out, settings)


def _run_stages(out: Path, settings: DemoSettings) -> dict[str, Any]:
    pipeline = Pipeline(out)
    episodes = pipeline.run(_collect(settings))
    shards = pipeline.run(_shard(episodes))
    latents = pipeline.run(_encode(shards, settings))
    slow = pipeline.run(
        Stage(
            "slow",
            f"slow learning: {settings.slow_steps} steps of masked conditional diffusion",
            learn.slow_settings(settings),
            lambda part: learn.slow(part, latents, settings),
            needs=("latents",),
        )
    )
    loop = pipeline.run(
        Stage(
            "slow_fast",
            f"slow-fast loop: {settings.loop_steps} slow steps with episodic memory inside",
            learn.loop_settings(settings),
            lambda part: learn.slow_fast(part, latents, slow / "model", settings),
            needs=("slow",),
        )
    )
    report = pipeline.run(
        Stage(
            "report",
            f"{settings.test_episodes} walks there and back in places not seen before, with and without "
            "memory",
            learn.report_settings(settings),
            lambda part: learn.report(part, shards, loop / "model", settings),
            needs=("slow_fast",),
        )
    )
    for name in ("report.json", "report.html"):
        shutil.copyfile(report / name, out / name)
    return learn.show(out, pipeline.seconds)


def _collect(settings: DemoSettings) -> Stage:
    in_mazes = settings.base is not None
    walks = ("mixed", "return") if in_mazes else ("explore", "explore")
    splits = {
        "train": (settings.train_episodes, walks[0], settings.train_chunks),
        "val": (settings.val_episodes, walks[1], settings.train_chunks),
        "test": (settings.test_episodes, "return", settings.test_chunks),
    }
    tool = "collect.doom_mazes" if in_mazes else "collect.doom"

    def run(part: Path) -> None:
        for split, (num, walk, chunks) in splits.items():
            mazes = ["--look=plain", f"--mazes={num}"] if in_mazes else []
            _tool(
                tool,
                f"--out={part / split}",
                f"--episodes={num}",
                f"--split={split}",
                f"--walk={walk}",
                f"--chunks={chunks}",
                f"--size={settings.size}",
                f"--seed={settings.seed}",
                *mazes,
            )

    title = f"{settings.train_episodes} walks to train on, {settings.test_episodes} to test on (ViZDoom)"
    content = {"splits": splits, "size": settings.size, "seed": settings.seed, "tool": tool}
    return Stage("episodes", title, content, run)


def _shard(episodes: Path) -> Stage:
    def run(part: Path) -> None:
        folders = [str(episodes / split) for split in ("train", "val", "test")]
        _tool("write_shards", *folders, f"--out={part}", "--workers=1")

    format = {"format": INDEX_SCHEMA}
    return Stage("shards", "WebDataset shards", format, run, needs=("episodes",))


def _encode(shards: Path, settings: DemoSettings) -> Stage:
    def run(part: Path) -> None:
        codec = [] if settings.base is None else [f"--codec-model={settings.base}"]
        options = ["--workers=1", "--resume", *codec]
        _tool("encode_latents", f"--shards={shards}", f"--out={part}", *options)

    how = (
        "fit a frame codec on the train split" if settings.base is None else "take the base's codec"
    )
    content = learn.base_settings(settings)
    return Stage("latents", f"{how} and encode", content, run, needs=("shards",))


def _tool(name: str, *arguments: str) -> None:
    """Run a data tool in a process of its own: the library does not import the tools."""
    command = [sys.executable, "-m", f"data_tools.{name}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(
            f"`{' '.join(command)}` failed with exit code {done.returncode} (its message is above); "
            "mend that and run the demo again"
        )
