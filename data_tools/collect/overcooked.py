"""Make episodes of the human games of Overcooked-AI: two people cook soup together.

    python -m data_tools.collect.overcooked --games data/overcooked/games --out data/overcooked/train

`--games` is what `data_tools.collect.overcooked_export` wrote; nothing here unpickles, and nothing is
simulated: these are recordings, six to seven steps a second, drawn with the game's sprites. An episode
follows one of the two cooks, who wears the blue hat; the texts say what this cook does.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_tools.collect.overcooked_draw import Sprites
from data_tools.collect.overcooked_export import SOURCE
from data_tools.collect.overcooked_words import Segment, segments
from data_tools.collect.runner import (
    MissingEngine,
    Outcome,
    add_language,
    attempt,
    new_parser,
    recipe_hash,
    run_command,
)
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language, in_words
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, SchemaError, Split
from sfv.names import is_hidden
from sfv.rng import seed_of
from sfv.texts import read_text

VERSION = "1"
VAL_EVERY = 6
"""Of the package's training games every sixth one is for val; its test games are for test."""

INSTALL = (
    "the recorded games are not there; download and export them with: pip download --no-deps "
    "--no-binary :all: --require-hashes -r requirements/overcooked.txt -d . && "
    "python -m data_tools.collect.overcooked_export overcooked_ai-1.1.0.tar.gz --out {games}"
)


@dataclass(frozen=True)
class Clip:
    """Frames `start` to `stop` of a game, from the eyes of one cook."""

    game: str
    cook: int
    start: int
    stop: int


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        games: folder of the exported games.
        split: picks the games.
        frames: least frames of an episode; it ends with the next event.
        size: height and width of the frames, pixels.
        seed: of the order and of the words.
        language: plain or varied words.
        clips: the episodes there are; found when left out.
    """

    games: Path
    split: Split
    frames: int
    size: int
    seed: int
    language: Language = "plain"
    version: str = VERSION
    clips: tuple[Clip, ...] = field(default=(), repr=False)

    noun: ClassVar[str] = "clips"
    measures: ClassVar[tuple[str, ...]] = ("frames",)
    jobs_per_worker: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.size % 2 or not 32 <= self.size <= 480:
            raise SchemaError(f"--size {self.size}: allowed are even numbers from 32 to 480")
        if self.frames < 16:
            raise SchemaError(f"--frames {self.frames}: allowed are numbers from 16 on")
        self.require()
        if not self.clips:
            found = find_clips(self.games, self.split, self.frames)
            rng = np.random.default_rng(seed_of(self.seed, "overcooked-order", self.split))
            mixed = tuple(found[int(i)] for i in rng.permutation(len(found)))
            object.__setattr__(self, "clips", mixed)

    def settings(self) -> dict[str, Any]:
        """Without the folder's name and what follows from the rest."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("games", "clips")}
        return fields | {"source": json.loads((self.games / SOURCE).read_text())["sha256"]}

    def episode_id(self, index: int) -> str:
        clip = self._clip(index)
        return f"overcooked-{clip.game}-cook{clip.cook}-{clip.start:04d}"

    def scene_of(self, index: int) -> str:
        return f"overcooked/{self._clip(index).game}"

    def require(self) -> None:
        if not (self.games / SOURCE).is_file():
            raise MissingEngine(f"{self.games}: {INSTALL.format(games=self.games)}")

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Draw and write episodes; each game is read once."""
        sprites = Sprites(self.games / "sprites")
        for name, chosen in groupby(indices, lambda index: self._clip(index).game):
            game = _read(self.games / f"{name}.json")
            for index in chosen:
                yield self._film_one(index, game, sprites, folder)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return {"clips in this split": len(self.clips)}

    def _film_one(
        self, index: int, game: dict[str, Any], sprites: Sprites, folder: Path
    ) -> Outcome:
        clip = self._clip(index)

        def film(_: int) -> dict[str, Any]:
            shown = game["states"][clip.start + 1 : clip.stop + 1]
            frames = [sprites.draw(s, game["terrain"], clip.cook, self.size) for s in shown]
            meta = _meta(self, index, game)
            write_episode(folder, meta, encode_mp4(np.array(frames), meta.fps))
            return {"frames": meta.num_frames}

        return attempt(self.episode_id(index), 1, film)

    def _clip(self, index: int) -> Clip:
        if index >= len(self.clips):
            raise SchemaError(
                f"--episodes {index + 1}: the {self.split} games give {len(self.clips)} episodes "
                f"of {self.frames} frames; ask for at most as many, or for shorter ones"
            )
        return self.clips[index]


def find_clips(games: Path, split: Split, frames: int) -> tuple[Clip, ...]:
    """Cut every game of a split into clips that end with an event, for each of its two cooks."""
    clips = []
    for path in sorted(games.glob("*.json")):
        if path.name != SOURCE and not is_hidden(path, games) and split_of(path.stem) == split:
            game = _read(path)
            for cook in (0, 1):
                found = segments(game["states"], game["terrain"], cook)
                clips += [Clip(path.stem, cook, *span) for span in spans(found, frames)]
    return tuple(clips)


def split_of(game: str) -> Split:
    """The split of a game, from its name LAYOUT-TABLE-NUMBER."""
    _, table, number = game.rsplit("-", 2)
    if table == "test":
        return "test"
    return "val" if int(number) % VAL_EVERY == VAL_EVERY - 1 else "train"


def spans(found: Sequence[Segment], frames: int) -> list[tuple[int, int]]:
    """Group segments into spans of at least `frames` frames; a shorter rest is left out."""
    result, start = [], found[0].start if found else 0
    for segment in found:
        if segment.stop - start >= frames:
            result.append((start, segment.stop))
            start = segment.stop
    return result


def _read(path: Path) -> dict[str, Any]:
    game = json.loads(read_text(path))
    if not isinstance(game, dict) or "states" not in game:
        raise SchemaError(f"{path}: is no exported game; export the games again")
    return game


def _meta(settings: Settings, index: int, game: dict[str, Any]) -> EpisodeMeta:
    clip = settings.clips[index]
    rng = np.random.default_rng(seed_of(settings.seed, "overcooked-words", settings.split, index))
    return EpisodeMeta(
        id=settings.episode_id(index),
        split=settings.split,
        scene=settings.scene_of(index),
        domain="human",
        source="Overcooked-AI, human-human games",
        licence="NOASSERTION",
        fps=1 / game["step_seconds"],
        num_frames=clip.stop - clip.start,
        height=settings.size,
        width=settings.size,
        actions=in_words(_actions(clip, game), settings.language, rng),
        poses=None,
        revisits=(),
        provenance=Provenance("data_tools.collect.overcooked", VERSION, recipe_hash(settings)),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def _actions(clip: Clip, game: dict[str, Any]) -> list[Action]:
    """One action a segment; `raw` holds both cooks' keys, the actor's first, and the score."""
    actions = []
    for segment in segments(game["states"], game["terrain"], clip.cook):
        if clip.start <= segment.start and segment.stop <= clip.stop:
            keys = game["actions"][segment.start : segment.stop]
            raw = {
                "keys": [[pair[clip.cook], pair[1 - clip.cook]] for pair in keys],
                "score": game["score"][segment.stop - 1],
            }
            start, stop = segment.start - clip.start, segment.stop - clip.start
            actions.append(Action(segment.text, start, stop, raw))
    return actions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "overcooked",
        "Make episodes of the recorded human games of Overcooked-AI.",
        episodes=100, size=64, workers=2,
    )  # fmt: skip
    p.add_argument("--games", type=Path, required=True, help="what overcooked_export wrote")
    p.add_argument("--frames", type=int, default=160, help="least frames of an episode")
    add_language(p)
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    return Settings(args.games, args.split, args.frames, args.size, args.seed, args.language)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
