"""Collect drives through the tracks of SuperTuxKart; the game's own driver drives.

    .venv-kart/bin/python -m data_tools.collect.supertuxkart --out data/kart/train --episodes 30
    .venv-kart/bin/python -m data_tools.collect.supertuxkart --out data/kart/laps --split test --drive laps

Optional: needs Debian's supertuxkart-data and xvfb and an environment of its own (the message of a
missing part holds the commands), and draws a few pictures a second without a GPU. Poses are exact;
pictures of one place differ a little from lap to lap (particles, camera).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

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
from data_tools.collect.supertuxkart_engine import (
    ASSETS,
    STEP_SECONDS,
    Game,
    open_game,
    require_supertuxkart,
)
from data_tools.collect.supertuxkart_words import Moment, phases, revisits
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language, in_words
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, SchemaError, Split
from sfv.rng import seed_of

Frames = NDArray[np.uint8]

VERSION = "1"
MAX_ATTEMPTS = 5
MIN_WAY = 0.25
"""Metres a frame, on average: a kart that is stuck covers less."""

TRACKS = {
    "train": (
        "abyss", "black_forest", "cocoa_temple", "cornfield_crossing", "fortmagma",
        "gran_paradiso_island", "mines", "minigolf", "olivermath", "ravenbridge_mansion",
        "snowmountain", "snowtuxpeak", "stk_enterprise", "volcano_island", "xr591",
    ),
    "val": ("lighthouse", "sandtrack"),
    "test": ("candela_city", "hacienda", "scotland", "zengarden"),
}  # fmt: skip
"""The tracks of each split, fixed and disjoint."""

FRAMES = {"pieces": 160, "laps": 2000}
"""Default lengths; a lap takes 300 to 900 frames."""

KARTS = ("tux", "gnu", "nolok", "sara_the_racer", "wilber", "xue")


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode.

    Args:
        split: picks the tracks.
        drive: `pieces` from anywhere on the track, or `laps` from the start line.
        frames: of a piece; most frames of laps.
        tracks: names, taken in turn.
        size: height and width of the frames, pixels.
        seed: of places, karts and the game.
        language: plain or varied words.
        assets: the game's data folder.
    """

    split: Split
    drive: Literal["pieces", "laps"]
    frames: int
    tracks: tuple[str, ...]
    size: int
    seed: int
    language: Language = "plain"
    version: str = VERSION
    assets: Path = field(default=ASSETS, metadata={"decides": False})

    noun: ClassVar[str] = "drives"
    measures: ClassVar[tuple[str, ...]] = ("frames", "return_psnr")
    jobs_per_worker: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in self.tracks:
            if name not in TRACKS[self.split]:
                raise SchemaError(
                    f"--tracks {name}: not a track of --split {self.split}; its tracks: "
                    f"{' '.join(TRACKS[self.split])} (no track stands in two splits)"
                )
        if self.size % 2 or not 32 <= self.size <= 128 or self.frames < 16:
            raise SchemaError(
                f"--size {self.size} --frames {self.frames}: allowed are even sizes from 32 to 128 "
                "and frames from 16 on"
            )

    def settings(self) -> dict[str, Any]:
        chosen = [f.name for f in fields(self) if f.metadata.get("decides", True)]
        return {name: getattr(self, name) for name in chosen}

    def episode_id(self, index: int) -> str:
        track = self.scene_of(index).replace("_", "-")
        return f"kart-{self.split}-{self.drive}-{index:05d}-{track}"

    def scene_of(self, index: int) -> str:
        return self.tracks[index % len(self.tracks)]

    def require(self) -> None:
        require_supertuxkart(self.assets)

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Film and write episodes with one start of the game."""
        with open_game(self.assets, self.size) as game:
            for index in indices:
                yield _film_one(self, folder, index, game)

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept) | {"frames": total(kept, "frames")}


def _film_one(settings: Settings, folder: Path, index: int, game: Game) -> Outcome:
    def film(number: int) -> Mapping[str, Any]:
        keys = (settings.split, settings.drive, index, number)
        rng = np.random.default_rng(seed_of(settings.seed, "kart-drive", *keys))
        frames, moments = _drive(settings, index, game, rng)
        meta = _meta(settings, index, moments)
        write_episode(folder, meta, encode_mp4(frames, meta.fps))
        psnr = revisit_psnr(frames, list(meta.revisits))
        return {"frames": meta.num_frames, "return_psnr": psnr}

    return attempt(settings.episode_id(index), MAX_ATTEMPTS, film)


def _drive(
    settings: Settings, index: int, game: Game, rng: np.random.Generator
) -> tuple[Frames, list[Moment]]:
    """Film a piece of the track, or two laps."""
    kart = KARTS[int(rng.integers(len(KARTS)))]
    place = float(rng.random()) if settings.drive == "pieces" else None
    frames: list[Frames] = []
    moments: list[Moment] = []
    with game.race(settings.scene_of(index), kart, int(rng.integers(2**31)), 3, place) as race:
        while len(frames) < settings.frames and race.laps < 2:
            frame, moment = race.step()
            frames.append(frame)
            moments.append(moment)
    places = np.array([moment.pose[:3] for moment in moments])
    if np.linalg.norm(np.diff(places, axis=0), axis=1).mean() < MIN_WAY:
        raise Skipped("the kart got stuck")
    return np.array(frames), moments


def _meta(settings: Settings, index: int, moments: Sequence[Moment]) -> EpisodeMeta:
    rng = np.random.default_rng(seed_of(settings.seed, "kart-words", settings.split, index))
    return EpisodeMeta(
        id=settings.episode_id(index),
        split=settings.split,
        scene=f"supertuxkart/{settings.scene_of(index)}",
        domain="driving",
        source="SuperTuxKart 1.4, Debian's supertuxkart-data; credits: its file CREDITS",
        licence="CC-BY-SA-4.0",
        fps=1 / STEP_SECONDS,
        num_frames=len(moments),
        height=settings.size,
        width=settings.size,
        actions=in_words(_actions(moments), settings.language, rng),
        poses=tuple(moment.pose for moment in moments),
        revisits=tuple(revisits(moments)),
        provenance=Provenance("data_tools.collect.supertuxkart", VERSION, recipe_hash(settings)),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def _actions(moments: Sequence[Moment]) -> list[Action]:
    """One action a phase; `raw` holds steer (-1 is left), acceleration, brake and the speed."""
    return [
        Action(
            phase.text,
            phase.start,
            phase.stop,
            {
                "control": [
                    [round(value, 3) for value in moment.control]
                    for moment in moments[phase.start : phase.stop]
                ],
                "speed": [round(m.speed, 2) for m in moments[phase.start : phase.stop]],
            },
        )
        for phase in phases(moments)
    ]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(
        "supertuxkart",
        "Collect drives through the tracks of SuperTuxKart (software rendering on a virtual screen).",
        episodes=30, size=64, workers=1,
    )  # fmt: skip
    p.add_argument(
        "--drive",
        choices=("pieces", "laps"),
        default="pieces",
        help="pieces: from anywhere on a track; laps: two laps from the start line",
    )
    p.add_argument(
        "--frames",
        type=int,
        help=f"of a piece, or most frames of laps; none: {FRAMES['pieces']}, {FRAMES['laps']}",
    )
    p.add_argument("--tracks", nargs="+", metavar="TRACK", help="none: all of the split")
    p.add_argument("--assets", type=Path, default=ASSETS, help="the game's data folder")
    add_language(p)
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn the command's arguments into settings."""
    return Settings(
        split=args.split,
        drive=args.drive,
        frames=FRAMES[args.drive] if args.frames is None else args.frames,
        tracks=tuple(args.tracks or TRACKS[args.split]),
        size=args.size,
        seed=args.seed,
        language=args.language,
        assets=args.assets,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    return run_command(settings_of, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
