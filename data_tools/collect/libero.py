"""Collect robot tasks with LIBERO: a Panda arm, photo-scanned things, a sentence for each task.

    python3 -m venv .venv-libero && .venv-libero/bin/pip install -r requirements/libero.txt
    .venv-libero/bin/python -m data_tools.collect.libero --out data/libero/train --episodes 80

LIBERO needs an environment of its own (2 GB), so run this with that environment's Python, from the
repository. A scripted hand takes the thing that the task names to where it names; each phase is one
action in words. Rendered frames are for your own use: the scanned things have owners and terms.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_tools.collect.libero_engine import STEP_RATE, Engine, open_task, require_libero
from data_tools.collect.libero_film import Film, film_task
from data_tools.collect.runner import (
    Outcome,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    run_command,
    total,
)
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language, in_words
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, SchemaError, Split
from sfv.rng import seed_of

VERSION = "1"
SUITES = ("libero_object", "libero_spatial")
TASKS = 10
"""Tasks of a suite."""

HELD_OUT = (8, 9)
"""Tasks of the test split alone, in each suite."""

STARTS = {"train": range(40), "val": range(40, 45), "test": range(45, 50)}
"""Recorded starts of each task by split."""

EVERY = (1, 2, 4, 5)


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        split: picks tasks and starts.
        suite: of tasks.
        tasks: numbers in the suite, taken in turn.
        size: height and width of the frames, pixels.
        every: control steps a frame; the robot makes 20 a second.
        seed: of the words.
        language: plain or varied words.
    """

    split: Split
    suite: str
    tasks: tuple[int, ...]
    size: int
    every: int
    seed: int
    language: Language = "plain"
    version: str = VERSION

    noun: ClassVar[str] = "tries"
    measures: ClassVar[tuple[str, ...]] = ("frames",)
    jobs_per_worker: ClassVar[int] = 1

    def __post_init__(self) -> None:
        allowed = tasks_of(self.split)
        for number in self.tasks:
            if number not in allowed:
                raise SchemaError(
                    f"--tasks {number}: not a task of --split {self.split}; its tasks: {allowed}"
                )
        if self.size % 2 or not 32 <= self.size <= 480:
            raise SchemaError(f"--size {self.size}: allowed are even numbers from 32 to 480")
        if self.every not in EVERY:
            raise SchemaError(f"--every {self.every}: allowed are {EVERY}")

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def episode_id(self, index: int) -> str:
        suite = self.suite.replace("_", "-")
        return f"{suite}-{self.split}-{self.task_of(index)}-{self.start_of(index):02d}"

    def scene_of(self, index: int) -> str:
        """The task: loading it is what takes time. Its starts are the episodes' scenes."""
        return f"{self.task_of(index):02d}"

    def task_of(self, index: int) -> int:
        return self.tasks[index % len(self.tasks)]

    def start_of(self, index: int) -> int:
        """The recorded start.

        Raises:
            SchemaError: all starts of the split are used up.
        """
        starts, turn = STARTS[self.split], index // len(self.tasks)
        if turn >= len(starts):
            raise SchemaError(
                f"--episodes {index + 1}: {len(self.tasks)} tasks have {len(starts)} starts each in "
                f"split {self.split}; ask for at most {len(self.tasks) * len(starts)}"
            )
        return starts[turn]

    def require(self) -> None:
        require_libero()

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes; each task is loaded once."""
        for number, chosen in groupby(indices, self.task_of):
            with open_task(self.suite, number, self.size) as engine:
                for index in chosen:
                    yield _film_one(self, folder, index, engine)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return {"frames": total(kept, "frames")}


def tasks_of(split: str) -> tuple[int, ...]:
    """Numbers of the tasks of a split."""
    return tuple(number for number in range(TASKS) if split == "test" or number not in HELD_OUT)


def _film_one(settings: Settings, folder: Path, index: int, engine: Engine) -> Outcome:
    def film(_: int) -> Mapping[str, Any]:
        filmed = film_task(engine, settings.start_of(index), settings.every)
        meta = _meta(settings, index, engine.sentence, filmed)
        write_episode(folder, meta, encode_mp4(filmed.frames, meta.fps))
        return {"frames": meta.num_frames}

    return attempt(settings.episode_id(index), 1, film)


def _meta(settings: Settings, index: int, sentence: str, filmed: Film) -> EpisodeMeta:
    task, start = settings.task_of(index), settings.start_of(index)
    rng = np.random.default_rng(seed_of(settings.seed, "libero-words", settings.split, index))
    return EpisodeMeta(
        id=settings.episode_id(index),
        split=settings.split,
        scene=f"{settings.suite}/task-{task}/start-{start:02d}",
        domain="robot",
        source=f"LIBERO, {settings.suite}",
        licence="NOASSERTION",
        fps=STEP_RATE / settings.every,
        num_frames=len(filmed.frames),
        height=settings.size,
        width=settings.size,
        actions=in_words(_actions(sentence, filmed), settings.language, rng),
        poses=None,
        revisits=(),
        provenance=Provenance("data_tools.collect.libero", VERSION, recipe_hash(settings)),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def _actions(sentence: str, filmed: Film) -> list[Action]:
    """One action a phase; `raw` holds the robot's commands and where things were, metres."""
    actions = []
    for phase in filmed.phases:
        span = slice(phase.start, phase.stop)
        raw = {
            "task": sentence,
            "control": filmed.controls[span].round(4).tolist(),
            "hand": filmed.hands[span].round(4).tolist(),
            "thing": filmed.things[span].round(4).tolist(),
            "success": any(filmed.success[span]),
        }
        actions.append(Action(phase.text, phase.start, phase.stop, raw))
    return actions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "libero",
        "Collect robot tasks with LIBERO (MuJoCo, no display).",
        episodes=80, size=128, workers=1,
    )  # fmt: skip
    p.add_argument("--suite", choices=SUITES, default=SUITES[0], help="of tasks")
    p.add_argument(
        "--tasks",
        type=int,
        nargs="+",
        metavar="N",
        help=f"none: all of the split; only in the test split: {HELD_OUT}",
    )
    p.add_argument("--every", type=int, default=2, help="control steps a frame, of 20 a second")
    add_language(p)
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    return Settings(
        split=args.split,
        suite=args.suite,
        tasks=tuple(tasks_of(args.split) if args.tasks is None else args.tasks),
        size=args.size,
        every=args.every,
        seed=args.seed,
        language=args.language,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
