"""Collect action-annotated walks through Freedoom levels with ViZDoom; no display is needed.

    python -m data_tools.collect.doom --out data/doom/train --split train --episodes 150
    python -m data_tools.collect.doom --out data/doom/test --split test --walk return \
        --chunks 27 --episodes 8
    python -m data_tools.collect.doom --out data/doom/loops --split test --walk loop --chunks 37

Each chunk of 8 frames is one action in words. The walks are exact in pose: they are planned on the
level's geometry and filmed pose by pose, so a reverse action comes back to the very same place.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from data_tools.collect.doom_engine import open_engine, require_vizdoom
from data_tools.collect.doom_film import Stage, Take, film_walk, skipping_bad_walks
from data_tools.collect.doom_level import standing_places
from data_tools.collect.doom_tours import around_a_rectangle, round_trip, turn_around
from data_tools.collect.doom_walks import ACTIONS, NoWay, Walk, explore, there_and_back
from data_tools.collect.runner import (
    Outcome,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    revisit_report,
    run_command,
)
from data_tools.language import Language
from sfv.data.schema import Provenance, SchemaError, Split
from sfv.rng import seed_of

VERSION = "1"
MAX_ATTEMPTS = 30

VAL_MAPS = ("MAP04", "MAP13", "MAP22")
TEST_MAPS = ("MAP05", "MAP10", "MAP15", "MAP20", "MAP26")
_LEFT_OUT = ("MAP30",)
TRAIN_MAPS = tuple(
    name
    for name in (f"MAP{i:02d}" for i in range(1, 33))
    if name not in VAL_MAPS + TEST_MAPS + _LEFT_OUT
)
MAPS = {"train": TRAIN_MAPS, "val": VAL_MAPS, "test": TEST_MAPS}
"""The levels of each split, fixed and disjoint: Freedoom: Phase 2 without the last boss's arena,
a sea of lava."""

Kind = Literal["explore", "return", "turn360", "round-trip", "loop"]
LENGTHS: dict[str, tuple[int, int, str]] = {
    "turn360": (9, 1, "1 of walking and 8 for once around: a number from 9 on"),
    "round-trip": (11, 2, "n+1 out, 4 turning, n back, 4 turning: an odd number from 11 on"),
    "loop": (
        16,
        1,
        "12 for the shortest way around and a third more: a number from 16 on, e.g. 37",
    ),
}
"""Kind of tour → least number of chunks, step, and the rule in words."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode; the number of episodes and of workers does not.

    Args:
        split: picks the levels.
        walk: what is walked; all but `explore` test memory.
        chunks: actions an episode, 8 frames each.
        size: height and width of the frames, pixels.
        seed: of the walks and of the engine.
        maps: levels, taken in turn.
        actions: what the walker may do.
        language: the actions' own texts, or varied words.
    """

    split: Split
    walk: Kind
    chunks: int
    size: int
    seed: int
    maps: tuple[str, ...]
    actions: tuple[str, ...]
    version: str = VERSION
    language: Language = "plain"

    noun: ClassVar[str] = "walks"
    measures: ClassVar[tuple[str, ...]] = ("return_psnr",)
    jobs_per_worker: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name in self.maps:
            if name not in MAPS[self.split]:
                raise SchemaError(
                    f"--maps {name}: not a level of split {self.split!r}; its levels: "
                    f"{' '.join(MAPS[self.split])} (no level stands in two splits)"
                )
        if self.walk == "return" and (self.chunks < 3 or self.chunks % 2 == 0):
            raise SchemaError(
                f"--chunks {self.chunks}: a return walk has n+1 chunks out and n back, so it needs "
                "an odd number from 3 on, e.g. 27"
            )
        if self.walk in LENGTHS:
            least, step, rule = LENGTHS[self.walk]
            if self.chunks < least or (self.chunks - least) % step:
                raise SchemaError(f"--chunks {self.chunks}: a {self.walk} walk needs {rule}")
        if self.chunks < 2 or not 16 <= self.size <= 120:
            raise SchemaError(
                f"--chunks {self.chunks} --size {self.size}: allowed are chunks >= 2 and "
                "16 <= size <= 120"
            )

    def settings(self) -> dict[str, Any]:
        """The fields; plain language is left out: its episodes are those of version 1."""
        fields = asdict(self)
        return {k: v for k, v in fields.items() if (k, v) != ("language", "plain")}

    def episode_id(self, index: int) -> str:
        return f"doom-{self.split}-{self.walk}-{index:05d}-{self.scene_of(index).lower()}"

    def scene_of(self, index: int) -> str:
        return self.maps[index % len(self.maps)]

    def require(self) -> None:
        require_vizdoom()

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes; each level is read once where its episodes stand together."""
        with open_engine(survey=True) as surveyor, open_engine() as engine:
            for name, chosen in groupby(indices, self.scene_of):
                surveyor.load(name, seed=0)
                level = surveyor.level()
                stage = Stage(engine, level, standing_places(level))
                for index in chosen:
                    yield _collect_one(self, folder, index, stage)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept)


def _collect_one(settings: Settings, folder: Path, index: int, stage: Stage) -> Outcome:
    map_name, episode = settings.scene_of(index), settings.episode_id(index)

    def film(number: int) -> Mapping[str, Any]:
        keys = (settings.split, settings.walk, index, number)
        rng = np.random.default_rng(seed_of(settings.seed, "doom-walk", *keys))
        take = Take(
            episode,
            settings.split,
            f"freedoom2/{map_name}",
            "ViZDoom, Freedoom: Phase 2",
            Provenance("data_tools.collect.doom", VERSION, recipe_hash(settings)),
            settings.size,
            settings.walk != "explore",
            settings.language,
            np.random.default_rng(seed_of(settings.seed, "doom-words", *keys)),
        )
        with skipping_bad_walks():
            walk = _plan(settings, stage, rng)
            stage.engine.load(map_name, seed_of(settings.seed, "doom-engine", *keys))
            return film_walk(take, walk, stage, folder)

    return attempt(episode, MAX_ATTEMPTS, film)


def _plan(settings: Settings, stage: Stage, rng: np.random.Generator) -> Walk:
    if not len(stage.places):
        raise NoWay("no room to stand in")
    level, places, chunks = stage.level, stage.places, settings.chunks
    match settings.walk:
        case "explore":
            return explore(level, places, rng, chunks, settings.actions)
        case "return":
            return there_and_back(level, places, rng, chunks, settings.actions)
        case "turn360":
            return turn_around(level, places, rng, chunks)
        case "round-trip":
            return round_trip(level, places, rng, chunks)
        case "loop":
            return around_a_rectangle(level, places, rng, chunks)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "doom",
        "Collect action-annotated walks through Freedoom levels (ViZDoom, no display).",
        episodes=150, size=64, workers=2,
    )  # fmt: skip
    p.add_argument(
        "--walk",
        choices=get_args(Kind),
        default="explore",
        help="explore: random, with turns back; return: n+1 chunks out, n back by reverse actions; "
        "turn360: once around and on; round-trip: out, half turn, back, half turn; loop: around a "
        "rectangle of free floor, again and again",
    )
    p.add_argument("--chunks", type=int, default=25, help="actions an episode, 8 frames each")
    p.add_argument("--maps", nargs="+", metavar="MAPnn", help="levels; none: all of the split")
    p.add_argument("--strafe", action="store_true", help='also "step left" and "step right"')
    add_language(p)
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    return Settings(
        split=args.split,
        walk=args.walk,
        chunks=args.chunks,
        size=args.size,
        seed=args.seed,
        maps=tuple(args.maps or MAPS[args.split]),
        actions=ACTIONS if args.strafe else ACTIONS[:4],
        language=args.language,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
