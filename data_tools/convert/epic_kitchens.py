"""Convert EPIC-KITCHENS-100: annotation CSVs and one video file each.

    python -m data_tools.convert.epic_kitchens --annotations EPIC_100_train.csv \
        --videos EPIC-KITCHENS --split-file kitchens.json --out data/epic

The scene is the participant's kitchen (P01), so splits go by kitchen. See docs/datasets/epic_kitchens.md.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from data_tools.convert import common, options
from data_tools.convert.recording import (
    BadInput,
    Details,
    Recording,
    Skip,
    Source,
    Span,
    inside,
    need_dir,
    read_csv,
    skip_of,
)
from data_tools.convert.timeline import Layout

NEEDED = (
    "narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration",
)  # fmt: skip
KEPT = ("narration_id", "verb", "verb_class", "noun", "noun_class")
"""Columns that go into an action's raw, where the file has them."""
PLACES = tuple(
    f"{folder}{{v}}.{end}" for folder in ("{p}/videos/", "{p}/", "") for end in ("MP4", "mp4")
)
"""Where a video is looked for: first as the official download script lays it out."""


def find(annotations: list[Path], videos: Path) -> Source:
    """List the videos that the annotations name.

    Raises:
        SetupError: no folder of videos.
        BadInput: an annotation file cannot be used.
    """
    need_dir(videos, "the folder that holds P01, P02, ... (--videos)")
    spans: dict[str, list[Span]] = {}
    kitchens: dict[str, str] = {}
    skips, seen = [], set()
    for path in annotations:
        for row in read_csv(path, NEEDED):
            key = f"narration {row['narration_id']}"
            if key in seen:
                skips.append(Skip(key, "narration_id twice", str(path)))
                continue
            seen.add(key)
            try:
                span = _span(row)
            except BadInput as error:
                skips.append(skip_of(key, error))
                continue
            spans.setdefault(row["video_id"], []).append(span)
            kitchens.setdefault(row["video_id"], row["participant_id"])
    recordings = []
    for video, found in sorted(spans.items()):
        try:
            path = _video(videos, kitchens[video], video)
        except BadInput as error:
            skips.append(skip_of(f"video {video}", error))
            continue
        recordings.append(Recording(video, kitchens[video], path, payload=tuple(found)))
    return Source(
        name="epic",
        domain="human",
        licence="CC-BY-NC-4.0",
        source="EPIC-KITCHENS-100",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint="fill the column participant_id (P01, ...) of the annotation file",
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Give the narrations of one video."""
    return Details(recording.payload)


def seconds(timestamp: str, where: str) -> float:
    """Read `HH:MM:SS.ss`.

    Raises:
        BadInput: another form.
    """
    match = re.fullmatch(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d+)?)", timestamp.strip())
    if not match:
        raise BadInput(f"not a time HH:MM:SS.ss: {where} is {timestamp!r}")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _span(row: dict[str, str]) -> Span:
    where = f"{row['narration_id']} start_timestamp"
    start = seconds(row["start_timestamp"], where)
    stop = seconds(row["stop_timestamp"], f"{row['narration_id']} stop_timestamp")
    for name in ("video_id", "participant_id"):
        if not re.fullmatch(r"[A-Za-z0-9_-]*", row[name]):
            raise BadInput(f"not a plain name: {name} of {row['narration_id']} is {row[name]!r}")
    raw = {name: row[name] for name in KEPT if name in row}
    return Span(row["narration"], start, stop, raw)


def _video(videos: Path, kitchen: str, video: str) -> Path:
    for place in PLACES:
        path = inside(videos, place.format(p=kitchen or ".", v=video), "video_id or participant_id")
        if path.is_file():
            return path
    raise BadInput(
        f"video file is missing: {video}, looked for as {kitchen}/videos/{video}.MP4 and {video}.MP4"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.epic_kitchens",
        description="Convert EPIC-KITCHENS-100 (annotation CSVs and videos) to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument(
        "--annotations", type=Path, nargs="+", required=True, metavar="CSV",
        help="EPIC_100_train.csv, EPIC_100_validation.csv (the test file has no narrations)",
    )  # fmt: skip
    p.add_argument(
        "--videos", type=Path, required=True, help="folder that holds P01/videos/P01_01.MP4"
    )
    options.add_common(p, lossless=False, filler="do something else")
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    source = find(args.annotations, args.videos)
    return common.run(args, source, read_details, "data_tools.convert.epic_kitchens")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
