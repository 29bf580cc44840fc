"""Collect walks through Minetest worlds: real game, exact poses, blocks placed and dug.

    python -m data_tools.collect.minetest --out data/minetest/train --split train --episodes 64
    python -m data_tools.collect.minetest --out data/minetest/test --split test --walk landmark \
        --chunks 26 --episodes 8

The number of a world decides its map, and its last digit its split: 8 is val, 9 is test, the
others are train. Each view is filmed until two pictures of it agree, so nothing is missing.

The map, the walks and the words come out the same in a second run; the pictures nearly so: what is far
away may arrive late and differ in a few pixels.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.minetest_engine import Minetest, World, open_minetest, require_minetest
from data_tools.collect.minetest_film import FPS, film, frame_psnr, little_to_see
from data_tools.collect.minetest_objects import built_object
from data_tools.collect.minetest_walks import (
    NOBODY,
    Ground,
    NoWay,
    Walk,
    explore,
    landmark,
    revisits,
    there_and_back,
)
from data_tools.collect.minetest_words import tell
from data_tools.collect.pictures import revisit_psnr, shrink
from data_tools.collect.runner import (
    Outcome,
    Skipped,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    revisit_report,
    run_command,
)
from data_tools.collect.scenes import scene_number
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language
from sfv.data.schema import Encoding, EpisodeMeta, Provenance, SchemaError, Split
from sfv.rng import seed_of

VERSION = "1"
MAX_ATTEMPTS = 12
MIN_RETURN_PSNR = 35.0
MAX_LANDMARK_PSNR = 32.0
"""A block that changes the picture less than this does not show."""

MAPGENS = ("v7", "v7", "valleys", "carpathian")
TIMES = (0.32, 0.4, 0.5, 0.6, 0.68)
_RADIUS = 40
"""Of the square that is walked in, blocks."""

_CHUNK, _CHUNK_CENTRE = 80, 8
"""The map is generated in cubes of 80 blocks; the middle of one is at 8."""

_MADE = 112
"""Of the square that is generated: the one that is walked in and all that is seen from there."""

_LEAST_LEVEL, _LEAST_LAND, _MOST_LAND = 6, 0.45, 0.95
"""Height above the sea, and share of columns to stand on: more is a plain where nothing stands, which
is taken only where the first few places are no better."""

_STARTS = 60
_CANDIDATES, _CENTRES, _SPREAD = 128, 6, 40

Kind = Literal["explore", "return", "landmark"]
LENGTHS: dict[str, tuple[int, int, str]] = {
    "explore": (2, 1, "any number from 2 on"),
    "return": (3, 2, "n+1 out and n back: an odd number from 3 on, e.g. 27"),
    "landmark": (
        12,
        2,
        "2 for placing a block, then half out, half back: an even number from 12 on",
    ),
}
"""Kind of walk → least number of chunks, step, and the rule in words."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        split: picks the worlds.
        walk: what is walked; `return` and `landmark` test memory.
        chunks: actions an episode, 8 frames each.
        size: height and width of the frames, pixels.
        seed: of the walks; a world depends on its number alone.
        worlds: how many worlds, taken in turn.
        language: the actions' own texts, or varied words.
    """

    split: Split
    walk: Kind
    chunks: int
    size: int
    seed: int
    worlds: int
    language: Language = "plain"
    version: str = VERSION

    noun: ClassVar[str] = "walks"
    measures: ClassVar[tuple[str, ...]] = ("return_psnr", "landmark_psnr", "passes")
    jobs_per_worker: ClassVar[int] = 2

    def __post_init__(self) -> None:
        least, step, rule = LENGTHS[self.walk]
        if self.chunks < least or (self.chunks - least) % step:
            raise SchemaError(f"--chunks {self.chunks}: a {self.walk} walk needs {rule}")
        if self.worlds < 1 or not 16 <= self.size <= 512 or self.size % 2:
            raise SchemaError(
                f"--worlds {self.worlds} --size {self.size}: allowed are worlds >= 1 and even sizes, "
                "16 <= size <= 512"
            )

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def episode_id(self, index: int) -> str:
        return f"minetest-{self.split}-{self.walk}-{index:05d}-{self.number_of(index):05d}"

    def scene_of(self, index: int) -> str:
        return f"minetest/{self.number_of(index):05d}"

    def number_of(self, index: int) -> int:
        """Number of the episode's world."""
        return scene_number(self.split, index % self.worlds)

    def require(self) -> None:
        require_minetest()

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes: one start of the game for each world."""
        for number, chosen in groupby(indices, self.number_of):
            with open_minetest(make_world(number), 2 * self.size) as game:
                try:
                    ground = find_ground(game, number)
                except NoWay:
                    for index in chosen:
                        yield Outcome(self.episode_id(index), False, ("a world without land",))
                    continue
                for index in chosen:
                    yield _collect_one(self, folder, index, game, ground)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        """Revisits, and how much the built block changes the picture (dB; low is visible)."""
        found = [o.measures.get("landmark_psnr") for o in kept]
        shown = [psnr for psnr in found if psnr]
        mean = round(sum(shown) / len(shown), 2) if shown else None
        return revisit_report(kept) | {"landmark psnr dB": mean}


def make_world(number: int) -> World:
    """The world with this number."""
    rng = np.random.default_rng(seed_of(0, "minetest-world", number))
    return World(
        seed=int(rng.integers(2**31)),
        mapgen=MAPGENS[int(rng.integers(len(MAPGENS)))],
        time=TIMES[int(rng.integers(len(TIMES)))],
    )


def find_ground(game: Minetest, number: int) -> Ground:
    """Make a piece of land, and read where one can stand on it.

    Raises:
        NoWay: there is too little land.
    """
    rng = np.random.default_rng(seed_of(0, "minetest-place", number))
    chunks = rng.integers(-_SPREAD, _SPREAD, (_CANDIDATES, 2))
    places = (chunks * _CHUNK + _CHUNK_CENTRE).tolist()
    levels = game.ask("level", places=places)["levels"]
    good = [(*p, int(v)) for p, v in zip(places, levels, strict=True) if v >= _LEAST_LEVEL]
    plain: Ground | None = None
    for x, y, level in good[:_CENTRES]:
        span = {"x": x, "z": y, "bottom": level - 24, "top": level + 40}
        game.ask("emerge", r=_MADE, **span)
        told = game.ask("ground", r=_RADIUS, room=3, **span)
        side = 2 * _RADIUS + 1
        heights = np.array(told["heights"], dtype=np.int64).reshape(side, side)
        tops = np.array(told["names"])[np.array(told["tops"], dtype=np.int64)]
        ground = Ground(x - _RADIUS, y - _RADIUS, heights, tops.reshape(side, side))
        land = (heights > NOBODY).mean()
        if _LEAST_LAND <= land <= _MOST_LAND:
            return ground
        if land > _MOST_LAND:
            plain = plain or ground
    if plain is None:
        raise NoWay
    return plain


def plan(kind: Kind, ground: Ground, rng: np.random.Generator, chunks: int) -> Walk:
    """Plan a walk of this kind.

    Raises:
        NoWay: no start that was tried has room for it.
    """
    makers = {"explore": explore, "return": there_and_back, "landmark": landmark}
    for _ in range(_STARTS):
        with suppress(NoWay):
            return makers[kind](ground, rng, chunks)
    raise NoWay


def _collect_one(
    settings: Settings, folder: Path, index: int, game: Minetest, ground: Ground
) -> Outcome:
    episode = settings.episode_id(index)

    def film_one(number: int) -> Mapping[str, Any]:
        keys = (settings.split, settings.walk, index, number)
        rng = np.random.default_rng(seed_of(settings.seed, "minetest-walk", *keys))
        words = np.random.default_rng(seed_of(settings.seed, "minetest-words", *keys))
        try:
            walk = plan(settings.walk, ground, rng, settings.chunks)
        except NoWay as error:
            raise Skipped("no way") from error
        pictures, passes = film(game, ground, walk)
        frames = shrink(pictures, settings.size, gamma=1.0)
        pairs = revisits(walk)
        psnr = revisit_psnr(frames, pairs)
        if little_to_see(frames):
            raise Skipped("little to see (sky, a wall)")
        if psnr and psnr[0] < MIN_RETURN_PSNR:
            raise Skipped("revisit looks different")
        shown = _landmark_psnr(frames, walk) if settings.walk == "landmark" else None
        if shown is not None and shown > MAX_LANDMARK_PSNR:
            raise Skipped("the block hardly shows")
        meta = _meta(settings, index, walk, ground, pairs, words)
        if settings.walk == "landmark":
            meta = replace(meta, objects=(built_object(walk, ground, settings.size),))
        write_episode(folder, meta, encode_mp4(frames, FPS))
        return {"return_psnr": psnr, "landmark_psnr": shown, "passes": passes}

    return attempt(episode, MAX_ATTEMPTS, film_one)


def _landmark_psnr(frames: NDArray[np.uint8], walk: Walk) -> float:
    """How alike the picture is before and after the first block was built."""
    frame = walk.edits[0].frame
    return frame_psnr(frames[frame - 1], frames[frame])


def _meta(
    settings: Settings,
    index: int,
    walk: Walk,
    ground: Ground,
    pairs: list[tuple[int, int]],
    words: np.random.Generator,
) -> EpisodeMeta:
    poses = tuple(
        (round(v.x, 3), round(v.y, 3), round(ground.height(v.x, v.y), 3), round(v.yaw, 3) % 360)
        for v in walk.views
    )
    return EpisodeMeta(
        id=settings.episode_id(index),
        split=settings.split,
        scene=settings.scene_of(index),
        domain="game",
        source="Minetest 5, Minetest Game and its contributors (media mostly CC-BY-SA-3.0)",
        licence="CC-BY-SA-3.0",
        fps=FPS,
        num_frames=len(poses),
        height=settings.size,
        width=settings.size,
        actions=tell(walk, ground, settings.language, words),
        poses=poses,
        revisits=tuple(pairs),
        provenance=Provenance("data_tools.collect.minetest", VERSION, recipe_hash(settings)),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "minetest",
        "Collect action-annotated walks through Minetest worlds (Debian's minetest and Xvfb).",
        episodes=64, size=64, workers=1,
    )  # fmt: skip
    p.add_argument(
        "--walk",
        choices=get_args(Kind),
        default="explore",
        help="explore: random, with turns back and blocks placed; return: out and back by reverse "
        "actions; landmark: place or dig a block, lose sight of it, come back",
    )
    p.add_argument("--chunks", type=int, default=26, help="actions an episode, 8 frames each")
    p.add_argument("--worlds", type=int, default=16, help="worlds of the split, taken in turn")
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
        worlds=args.worlds,
        language=args.language,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
