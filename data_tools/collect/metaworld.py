"""Collect robot manipulation with Meta-World: a Sawyer arm at a table, 50 tasks; no display needed.

    python -m data_tools.collect.metaworld --out data/metaworld/train --episodes 450
    python -m data_tools.collect.metaworld --out data/metaworld/test --split test --episodes 50
    python -m data_tools.collect.metaworld --out data/metaworld/return --split test --play return
    python -m data_tools.collect.metaworld --out data/metaworld/walk --split test --walk return \
        --chunks 21 --every 4

`--play policy` films each task's scripted policy, `--play return` carries a puck to a goal and back
to where it was. Every phase (reach, grasp, lift, carry, ...) is one action in words, as long as it takes;
with `--chunk-frames 8` it lasts whole chunks, as in the planning tasks `metaworld-return`.
`--walk return` films the same way in exactly `--chunks` actions of 8 frames, homed before, between and
after, and says in every frame where the (yellow) puck is: for benchmarks.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from data_tools.collect.metaworld_engine import STEP_RATE, Engine, open_task, require_metaworld
from data_tools.collect.metaworld_film import RETURN_TASK, Film, film_return, film_task
from data_tools.collect.metaworld_tasks import HELD_OUT, KNOWN, TASKS
from data_tools.collect.metaworld_walk import film_walk
from data_tools.collect.pictures import revisit_psnr
from data_tools.collect.runner import (
    Outcome,
    Skipped,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    revisit_report,
    run_command,
    total,
)
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language, in_words
from sfv.data.objects import Camera, SceneObject
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, SchemaError, Split
from sfv.rng import seed_of

Play = Literal["policy", "return", "walk"]
VERSION = "1"
MAX_ATTEMPTS = 10
MIN_RETURN_PSNR = 28.0
EVERY = (1, 2, 4, 5, 8, 10)
"""Control steps a frame that give a whole number of frames a second."""

SPLIT_TASKS = {"train": KNOWN, "val": KNOWN, "test": tuple(TASKS)}
"""Layouts of val and test are new ones; the tasks of HELD_OUT stand in test alone."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        split: picks the layouts, and for `test` adds the held-out tasks.
        play: `policy`, `return` or `walk`.
        tasks: names, taken in turn.
        size: height and width of the frames, pixels.
        every: control steps a frame; the robot makes 80 a second.
        seed: of the layouts.
        language: plain or varied words.
        chunks: of a `walk`, 8 frames each; 0 for the other plays.
        hand_poses: poses are those of the hand (metres, yaw 0): an inverse model reads its moves.
        chunk_frames: of a `return`: every phase lasts a multiple of so many frames; 0: as long as it takes.
    """

    split: Split
    play: Play
    tasks: tuple[str, ...]
    size: int
    every: int
    seed: int
    language: Language = "plain"
    version: str = VERSION
    chunks: int = 0
    hand_poses: bool = False
    chunk_frames: int = 0

    noun: ClassVar[str] = "tries"
    measures: ClassVar[tuple[str, ...]] = ("frames", "return_psnr")
    jobs_per_worker: ClassVar[int] = 4

    def __post_init__(self) -> None:
        allowed = SPLIT_TASKS[self.split] if self.play == "policy" else (RETURN_TASK,)
        for name in self.tasks:
            if name not in allowed:
                raise SchemaError(
                    f"--tasks {name}: not a task of --split {self.split} --play {self.play}; its "
                    f"tasks: {' '.join(allowed)}"
                )
        if self.size % 2 or not 32 <= self.size <= 480:
            raise SchemaError(f"--size {self.size}: allowed are even numbers from 32 to 480")
        if self.every not in EVERY:
            raise SchemaError(f"--every {self.every}: allowed are {EVERY}")
        if self.play == "walk" and (self.chunks < 3 or self.chunks % 2 == 0):
            raise SchemaError(
                f"--chunks {self.chunks}: a return walk needs n+1 out and n back: an odd number from 3 "
                "on, e.g. 21 with --every 4"
            )

        if self.chunk_frames < 0 or (self.chunk_frames and self.play != "return"):
            raise SchemaError(
                f"--chunk-frames {self.chunk_frames}: allowed are 0 (phases as long as they take) or more, "
                "with --play return alone (cut --chunk-frames gives other episodes chunks)"
            )

    def settings(self) -> dict[str, Any]:
        """The fields; what a play does not use is left out: hashed as before there was any."""
        unused = set() if self.hand_poses else {"hand_poses"}
        unused |= set() if self.chunk_frames else {"chunk_frames"}
        unused |= set() if self.play == "walk" else {"chunks"}
        return {k: v for k, v in asdict(self).items() if k not in unused}

    def episode_id(self, index: int) -> str:
        kind = {"policy": "", "return": "return-", "walk": "walk-"}[self.play]
        return f"metaworld-{self.split}-{kind}{index:05d}-{self.scene_of(index)}"

    def scene_of(self, index: int) -> str:
        """The task: loading it is what takes time. Its layouts are the episodes' scenes."""
        return self.tasks[index % len(self.tasks)]

    def require(self) -> None:
        require_metaworld()

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes; each task is loaded once."""
        for task, chosen in groupby(indices, self.scene_of):
            with open_task(task, self.size) as engine:
                for index in chosen:
                    yield _film_one(self, folder, index, engine)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept) | {"frames": total(kept, "frames")}


def _film_one(settings: Settings, folder: Path, index: int, engine: Engine) -> Outcome:
    episode, task = settings.episode_id(index), settings.scene_of(index)

    def film(number: int) -> Mapping[str, Any]:
        keys = (settings.split, settings.play, task, index, number)
        layout = seed_of(settings.seed, "metaworld-layout", *keys) % 2**32
        rng = np.random.default_rng(seed_of(settings.seed, "metaworld-goal", *keys))
        things: tuple[SceneObject, ...] = ()
        if settings.play == "walk":
            filmed, puck = film_walk(engine, layout, settings.every, rng, settings.chunks)
            things = (puck,)
        elif settings.play == "return":
            whole = settings.chunk_frames or 1
            filmed = film_return(engine, layout, settings.every, rng, whole)
        else:
            filmed = film_task(engine, TASKS[task], layout, settings.every)
        psnr = revisit_psnr(filmed.frames, filmed.revisits)
        if psnr and psnr[0] < MIN_RETURN_PSNR:
            raise Skipped("revisit looks different (the arm came back in another shape)")
        meta = _meta(settings, index, layout, filmed)
        if things:
            meta = replace(
                meta, objects=things, camera=_camera(engine, settings.size), poses=_hands(filmed)
            )
        write_episode(folder, meta, encode_mp4(filmed.frames, meta.fps))
        return {"frames": meta.num_frames, "return_psnr": psnr}

    return attempt(episode, MAX_ATTEMPTS, film)


def _meta(settings: Settings, index: int, layout: int, filmed: Film) -> EpisodeMeta:
    task = settings.scene_of(index)
    rng = np.random.default_rng(seed_of(settings.seed, "metaworld-words", settings.split, index))
    return EpisodeMeta(
        id=settings.episode_id(index),
        split=settings.split,
        scene=f"metaworld/{task}/layout-{layout}",
        domain="robot",
        source="Meta-World",
        licence="MIT",
        fps=STEP_RATE / settings.every,
        num_frames=len(filmed.frames),
        height=settings.size,
        width=settings.size,
        actions=in_words(_actions(settings, task, filmed), settings.language, rng),
        poses=_hands(filmed) if settings.hand_poses else None,
        revisits=tuple(filmed.revisits),
        provenance=Provenance("data_tools.collect.metaworld", VERSION, recipe_hash(settings)),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def _camera(engine: Engine, size: int) -> Camera:
    rows = engine.camera.projection(engine.env.unwrapped.model, size).round(6).tolist()
    return tuple((a, b, c, d) for a, b, c, d in rows)


def _hands(filmed: Film) -> tuple[tuple[float, float, float, float], ...]:
    """The hand's places as poses; it never turns."""
    places = [moment.hand.round(4).tolist() for moment in filmed.moments]
    return tuple((x, y, z, 0.0) for x, y, z in places)


def _actions(settings: Settings, task: str, filmed: Film) -> list[Action]:
    """One action a phase; `raw` holds the robot's commands and where things were, metres."""
    sentence = TASKS[task].sentence
    if settings.play != "policy":
        sentence += " and back to where it was"
    actions = []
    for phase in filmed.phases:
        moments = filmed.moments[phase.start : phase.stop]
        raw = {
            "task": sentence,
            "control": filmed.controls[phase.start : phase.stop].round(4).tolist(),
            "hand": [moment.hand.round(4).tolist() for moment in moments],
            "thing": [moment.thing.round(4).tolist() for moment in moments],
            "gripper": [round(moment.opening, 4) for moment in moments],
            "success": any(moment.success for moment in moments),
        }
        actions.append(Action(phase.text, phase.start, phase.stop, raw))
    return actions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "metaworld",
        "Collect robot manipulation with Meta-World (MuJoCo, no display).",
        episodes=450, size=64, workers=2,
    )  # fmt: skip
    p.add_argument(
        "--play",
        choices=("policy", "return"),
        default="policy",
        help="policy: each task's scripted policy; return: a puck to a goal and back",
    )
    p.add_argument(
        "--walk",
        choices=("return",),
        help="return: to a goal and back, every action in whole chunks, for benchmarks; none: --play",
    )
    p.add_argument("--chunks", type=int, default=21, help="actions of a --walk, 8 frames each")
    p.add_argument(
        "--chunk-frames",
        type=int,
        default=0,
        help="--play return: every phase lasts whole chunks of so many frames; 0: as long as it takes",
    )
    p.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help=f"none: all of the split; only in the test split: {' '.join(HELD_OUT)}",
    )
    p.add_argument("--every", type=int, default=2, help="control steps a frame, of 80 a second")
    p.add_argument(
        "--hand-poses",
        action="store_true",
        help="poses are the hand's places: for an inverse dynamics model",
    )
    add_language(p)
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    play: Play = "walk" if args.walk else args.play
    tasks = SPLIT_TASKS[args.split] if play == "policy" else (RETURN_TASK,)
    return Settings(
        split=args.split,
        play=play,
        tasks=tuple(args.tasks or tasks),
        size=args.size,
        every=args.every,
        seed=args.seed,
        language=args.language,
        chunks=args.chunks if play == "walk" else 0,
        hand_poses=args.hand_poses,
        chunk_frames=args.chunk_frames,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
