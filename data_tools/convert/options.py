"""Options that all converters share: what to make, and which scene goes to which split."""

import argparse
import re
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

from data_tools.convert.film import Shape
from data_tools.convert.recording import BadInput, NotWanted, Recording, SetupError, read_json
from data_tools.convert.timeline import Layout
from data_tools.files import LOSSLESS, Quality, h264, settings_hash
from sfv.data.schema import SPLITS, Split
from sfv.texts import same_form

VERSION = "1"


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode; the number of workers does not.

    Args:
        layout: how time is cut.
        shape: of the frames.
        quality: of the videos.
        tool: the converter's module.
        own: the converter's own settings.
    """

    layout: Layout
    shape: Shape
    quality: Quality
    tool: str
    own: dict[str, object]

    def hash(self) -> str:
        return settings_hash({"version": VERSION, **asdict(self)})


def add_common(
    p: argparse.ArgumentParser, lossless: bool, filler: str, need_split: bool = True
) -> None:
    """Add the options that every converter has.

    Args:
        p: the converter's parser.
        lossless: the default quality, for simulators; else h264.
        filler: example of a text for `--fill`.
        need_split: the source itself knows no splits.
    """
    p.add_argument(
        "--out", type=Path, required=True, help="folder for ID.mp4, ID.json, summary.json"
    )
    split = p.add_mutually_exclusive_group(required=need_split)
    split.add_argument("--split", choices=SPLITS, help="all scenes go to this split")
    split.add_argument(
        "--split-file",
        type=Path,
        metavar="JSON",
        help='{"train": [SCENE, ...], "val": [...], "test": [...]}; a scene may be a pattern '
        "(P0?), and its very name goes before patterns",
    )
    p.add_argument("--fps", type=int, default=8, help="frames a second of the episodes")
    p.add_argument("--size", default="64", metavar="H[xW]", help="frame height and width, pixels")
    p.add_argument(
        "--fit",
        choices=("crop", "pad"),
        default="crop",
        help="cut the middle out, or add black bars",
    )
    p.add_argument("--chunk-frames", type=int, default=8, help="frames of an action")
    p.add_argument("--min-chunks", type=int, default=2, help="actions that an episode has at least")
    p.add_argument(
        "--max-chunks", type=int, default=0, help="at most; then a new one starts; 0: any"
    )
    p.add_argument(
        "--fill",
        metavar="TEXT",
        help=f"text for time without an action ({filler!r}); else it is cut",
    )
    p.add_argument(
        "--quality",
        choices=("lossless", "h264"),
        default="lossless" if lossless else "h264",
        help="of the videos; episodes that share shards need one quality",
    )
    p.add_argument("--crf", type=int, default=18, help="of h264: 0 (best) to 51 (smallest)")
    p.add_argument("--workers", type=int, default=1, help="processes; changes no result")
    p.add_argument(
        "--resume", action="store_true", help="keep what an earlier call finished in --out"
    )


def formatter() -> type[argparse.HelpFormatter]:
    """How converters print their help."""
    return argparse.ArgumentDefaultsHelpFormatter


def read_settings(args: argparse.Namespace, tool: str, own: dict[str, object]) -> Settings:
    """Check the common options.

    Raises:
        SetupError: a value out of range.
    """
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", args.size)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < 8:
        raise SetupError(
            f"--size {args.size}: allowed are H or HxW in pixels from 8 on, e.g. 64x112"
        )
    if args.quality == "h264" and (height % 2 or width % 2):
        raise SetupError(f"--size {args.size}: h264 needs even numbers; or give --quality lossless")
    for name, least in (
        ("fps", 1), ("chunk_frames", 1), ("min_chunks", 1), ("max_chunks", 0), ("workers", 1),
    ):  # fmt: skip
        if getattr(args, name) < least:
            flag = f"--{name.replace('_', '-')}"
            raise SetupError(
                f"{flag} {getattr(args, name)}: allowed are whole numbers from {least} on"
            )
    if 0 < args.max_chunks < args.min_chunks:
        raise SetupError(
            f"--max-chunks {args.max_chunks} --min-chunks {args.min_chunks}: the first has to be 0 "
            "or at least the second"
        )
    if args.fill is not None and not args.fill.strip():
        raise SetupError("--fill: got an empty text; give some words, or leave it out")
    try:
        quality = LOSSLESS if args.quality == "lossless" else h264(args.crf)
    except ValueError as error:
        raise SetupError(f"--crf: {error}") from error
    layout = Layout(args.fps, args.chunk_frames, args.min_chunks, args.max_chunks, args.fill)
    return Settings(layout, Shape(height, width, args.fit), quality, tool, own)


def read_splits(
    args: argparse.Namespace, own: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Give the patterns of scenes of each split.

    Args:
        args: with the common options.
        own: the source's own splits, for when the options name none.

    Raises:
        SetupError: no splits, or the split file is not as it should be.
    """
    if args.split:
        return {args.split: ["*"]}
    if not args.split_file:
        if own is None:
            raise SetupError("no split: give --split or --split-file")
        return own
    try:
        given = read_json(args.split_file)
    except BadInput as error:
        raise SetupError(f"--split-file: {error}") from error
    good = isinstance(given, dict) and given and set(given) <= set(SPLITS) and all(
        isinstance(scenes, list) and all(isinstance(s, str) and s for s in scenes)
        for scenes in given.values()
    )  # fmt: skip
    if not good:
        raise SetupError(
            f"--split-file {args.split_file}: needed is an object with lists of scenes under some "
            f"of {list(SPLITS)}"
        )
    return {split: list(scenes) for split, scenes in given.items()}


def split_of(recording: Recording, splits: dict[str, list[str]], hint: str) -> Split:
    """Find the split of a recording's scene.

    Raises:
        SetupError: no scene, or a scene that two splits claim.
        NotWanted: no split claims the scene, or the source says otherwise.
    """
    if not recording.scene:
        raise SetupError(
            f"{recording.key}: the scene is missing, and splits go by scene (no test scene is ever "
            f"trained on); {hint}"
        )
    scene = same_form(recording.scene)
    forms = {split: [same_form(pattern) for pattern in splits[split]] for split in splits}
    found = [split for split, patterns in forms.items() if scene in patterns] or [
        split
        for split, patterns in forms.items()
        if any(fnmatchcase(scene, pattern) for pattern in patterns)
    ]
    if len(found) > 1:
        raise SetupError(f"scene {recording.scene!r} stands in {found}; give it to one split")
    if not found:
        raise NotWanted(f"scene in no split of the split file: {recording.scene!r}")
    return cast(Split, found[0])
