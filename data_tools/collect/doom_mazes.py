"""Collect walks through own mazes with ViZDoom: endless scenes, exact returns, no display.

    python -m data_tools.collect.doom_mazes --out data/mazes/train --split train --episodes 200
    python -m data_tools.collect.doom_mazes --out data/mazes/test --split test --walk loop \
        --chunks 33 --episodes 8
    python -m data_tools.collect.doom_mazes --out data/plain/train --look plain --walk mixed \
        --chunks 17 --episodes 1600 --mazes 1600

The number of a maze decides it, and its last digit decides its split: 8 is val, 9 is test, the
others are train. Flames stand still, so frames at the same pose are the same to the last bit.
"""

import argparse
import math
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
from data_tools.collect.doom_looks import Style
from data_tools.collect.doom_maze import Maze, make_maze, wad
from data_tools.collect.doom_tours import (
    TURN_QUANTUM,
    Offset,
    around_a_block,
    beside,
    draw_offset,
    round_trip,
    turn_around,
    turn_range,
)
from data_tools.collect.doom_walks import ACTIONS, Walk, explore, there_and_back
from data_tools.collect.runner import (
    Outcome,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    revisit_report,
    run_command,
)
from data_tools.collect.scenes import scene_number
from data_tools.language import Language
from sfv.data.schema import Provenance, SchemaError, Split
from sfv.rng import seed_of

VERSION = "1"
MAX_ATTEMPTS = 30

WANDER_UNDO = 0.35
"""Chance of a wandering walk to take chunks back: half of its chunks come back (explore: a third)."""

Kind = Literal["explore", "wander", "return", "beside", "turn360", "round-trip", "loop", "mixed"]
MIX: tuple[Kind, ...] = ("return", "beside", "return", "beside", "wander")
"""Kinds that a mixed set takes in turn; half of the chunks that are targets come back."""

LENGTHS: dict[str, tuple[int, int, str]] = {
    "explore": (2, 1, "any number from 2 on"),
    "wander": (2, 1, "any number from 2 on"),
    "return": (3, 2, "n+1 out and n back: an odd number from 3 on, e.g. 27"),
    "beside": (3, 2, "n+1 out and n back: an odd number from 3 on, e.g. 27"),
    "mixed": (3, 2, "n+1 out and n back: an odd number from 3 on, e.g. 17"),
    "turn360": (9, 1, "1 of walking and 8 for once around: a number from 9 on"),
    "round-trip": (11, 2, "n+1 out, 4 turning, n back, 4 turning: an odd number from 11 on"),
    "loop": (18, 1, "more than the shortest way around, 16: a number from 18 on, e.g. 33"),
}
"""Kind of walk → least number of chunks, step, and the rule in words."""


MAX_SHIFT, MAX_TURN = 64, 90.0

_NAMES: dict[Style, str] = {"textured": "mazes", "plain": "plain"}
_SCENES: dict[Style, str] = {"textured": "maze", "plain": "plain-maze"}
_SOURCES: dict[Style, str] = {
    "textured": "ViZDoom, own maze with textures of Freedoom: Phase 2",
    "plain": "ViZDoom, own maze in plain colours, things of Freedoom: Phase 2",
}


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        split: picks the mazes.
        walk: what is walked; all but `explore` and `wander` test memory.
        chunks: actions an episode, 8 frames each.
        size: height and width of the frames, pixels.
        seed: of the walks; a maze depends on its number alone.
        mazes: how many mazes, taken in turn.
        language: the actions' own texts, or varied words.
        look: textures of Freedoom, or plain colours.
        shift: least and greatest way of `beside` to a side, map units; (0, 0): none.
        turn: least and greatest turn of `beside`, degrees; (0, 0): none.
    """

    split: Split
    walk: Kind
    chunks: int
    size: int
    seed: int
    mazes: int
    language: Language = "plain"
    look: Style = "textured"
    shift: tuple[int, int] = (6, 48)
    turn: tuple[float, float] = (5.0, 30.0)
    version: str = VERSION

    noun: ClassVar[str] = "walks"
    measures: ClassVar[tuple[str, ...]] = ("return_psnr",)
    jobs_per_worker: ClassVar[int] = 2

    def __post_init__(self) -> None:
        least, step, rule = LENGTHS[self.walk]
        if self.chunks < least or (self.chunks - least) % step:
            raise SchemaError(f"--chunks {self.chunks}: a {self.walk} walk needs {rule}")
        if self.mazes < 1 or not 16 <= self.size <= 120:
            raise SchemaError(
                f"--mazes {self.mazes} --size {self.size}: allowed are mazes >= 1 and "
                "16 <= size <= 120"
            )
        if not 0 <= self.shift[0] <= self.shift[1] <= MAX_SHIFT:
            raise SchemaError(
                f"--shift {_words(self.shift)}: needs 0 <= LEAST <= GREATEST <= {MAX_SHIFT}"
            )
        low, end = turn_range(self.turn) if all(map(math.isfinite, self.turn)) else (0, 0)
        if not (self.turn[0] >= 0 and low < end and self.turn[1] <= MAX_TURN):
            raise SchemaError(
                f"--turn {_words(self.turn)}: needs 0 <= LEAST <= GREATEST <= {MAX_TURN:g} with a "
                f"multiple of {TURN_QUANTUM} in between, e.g. 5.625 5.625"
            )

    def settings(self) -> dict[str, Any]:
        """The fields; those that change nothing are left out, so that hashes of old sets hold."""
        idle = {"look"} if self.look == "textured" else set()
        idle |= set() if self.walk in ("beside", "mixed") else {"shift", "turn"}
        return {name: value for name, value in asdict(self).items() if name not in idle}

    def kind_of(self, index: int) -> Kind:
        """What the episode walks."""
        return MIX[index % len(MIX)] if self.walk == "mixed" else self.walk

    def episode_id(self, index: int) -> str:
        name = f"{_NAMES[self.look]}-{self.split}-{self.kind_of(index)}"
        return f"{name}-{index:05d}-{self.number_of(index):06d}"

    def scene_of(self, index: int) -> str:
        return f"{_SCENES[self.look]}/{self.number_of(index):06d}"

    def offset_of(self, index: int) -> Offset:
        """Where the way back of `beside` lies; the same for every attempt, so none is favoured."""
        seed = seed_of(self.seed, "maze-offset", self.split, index)
        return draw_offset(np.random.default_rng(seed), self.shift, self.turn)

    def number_of(self, index: int) -> int:
        """Number of the episode's maze."""
        return scene_number(self.split, index % self.mazes)

    def require(self) -> None:
        require_vizdoom()

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes; all mazes are in one WAD, so the engine starts once."""
        numbers = sorted(set(map(self.number_of, indices)))
        mazes = {number: make_maze(number, self.look) for number in numbers}
        with open_engine(wad=wad(list(mazes.values()))) as engine:
            for number, chosen in groupby(indices, self.number_of):
                level = mazes[number].level()
                stage = Stage(engine, level, standing_places(level))
                for index in chosen:
                    yield _collect_one(self, folder, index, stage, mazes[number])

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept)


def _words(values: tuple[float, float]) -> str:
    return f"{values[0]:g} {values[1]:g}"


def _collect_one(settings: Settings, folder: Path, index: int, stage: Stage, maze: Maze) -> Outcome:
    episode, kind = settings.episode_id(index), settings.kind_of(index)

    def film(number: int) -> Mapping[str, Any]:
        # `beside` goes out as `return` does, so that the two differ on the way back alone
        keys = (settings.split, "return" if kind == "beside" else kind, index, number)
        rng = np.random.default_rng(seed_of(settings.seed, "maze-walk", *keys))
        take = Take(
            episode,
            settings.split,
            settings.scene_of(index),
            _SOURCES[settings.look],
            Provenance("data_tools.collect.doom_mazes", VERSION, recipe_hash(settings)),
            settings.size,
            kind not in ("explore", "wander"),
            settings.language,
            np.random.default_rng(seed_of(settings.seed, "maze-words", *keys)),
            exact=True,
        )
        with skipping_bad_walks():
            walk = plan(kind, settings.chunks, stage, maze, rng, settings.offset_of(index))
            stage.engine.load(maze.map_name, seed_of(settings.seed, "maze", *keys), still=True)
            return film_walk(take, walk, stage, folder)

    return attempt(episode, MAX_ATTEMPTS, film)


def plan(
    kind: Kind, chunks: int, stage: Stage, maze: Maze, rng: np.random.Generator, offset: Offset
) -> Walk:
    """Plan a walk of this kind; only `beside` takes the offset.

    Raises:
        NoWay: there is no room for it; try again.
    """
    level, places = stage.level, stage.places
    if kind == "explore":
        return explore(level, places, rng, chunks, ACTIONS[:4])
    if kind == "wander":
        return explore(level, places, rng, chunks, ACTIONS[:4], WANDER_UNDO)
    if kind == "beside":
        return beside(level, places, rng, chunks, offset)
    if kind == "return":
        return there_and_back(level, places, rng, chunks, ACTIONS[:4])
    if kind == "turn360":
        return turn_around(level, places, rng, chunks)
    if kind == "round-trip":
        return round_trip(level, places, rng, chunks)
    return around_a_block(maze, rng, chunks)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "doom_mazes",
        "Collect action-annotated walks through own mazes (ViZDoom, no display).",
        episodes=200, size=64, workers=2,
    )  # fmt: skip
    p.add_argument(
        "--walk",
        choices=get_args(Kind),
        default="explore",
        help="explore: random, with turns back; wander: with more of them; return: out and back by "
        "reverse actions; beside: the same, but the way back is shifted or turned; turn360: once "
        "around and on; round-trip: out, half turn, back, half turn; loop: around a block of the "
        "maze, again and again; mixed: return, beside, return, beside, wander, in turn",
    )
    p.add_argument(
        "--look",
        choices=get_args(Style),
        default="textured",
        help="textured: textures of Freedoom; plain: plain colours and simple patterns",
    )
    _add_range(p, "--shift", int, (6, 48), "beside: way to a side, map units")
    _add_range(p, "--turn", float, (5.0, 30.0), "beside: turn to a side, degrees")
    p.add_argument("--chunks", type=int, default=33, help="actions an episode, 8 frames each")
    p.add_argument("--mazes", type=int, default=100, help="mazes of the split, taken in turn")
    add_language(p)
    return p


def _add_range(
    p: argparse.ArgumentParser, flag: str, kind: type, default: tuple[float, float], what: str
) -> None:
    p.add_argument(
        flag,
        type=kind,
        nargs=2,
        metavar=("LEAST", "GREATEST"),
        default=default,
        help=f"{what}; 0 0: none. With both given, a third of the walks is shifted, a third turned, "
        "a third both",
    )


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    return Settings(
        split=args.split,
        walk=args.walk,
        chunks=args.chunks,
        size=args.size,
        seed=args.seed,
        mazes=args.mazes,
        language=args.language,
        look=args.look,
        shift=tuple(args.shift),
        turn=tuple(args.turn),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
