"""Convert BDD-X: dash-camera videos of BDD100K with what the driver does, in words.

    python -m data_tools.convert.driving --annotations BDD-X-Annotations_v1.csv \
        --lists BDD-X-Dataset --videos bdd100k/videos --info bdd100k/info \
        --out data/bddx

See docs/datasets/driving.md.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from data_tools.convert import common, options
from data_tools.convert.recording import (
    BadInput,
    Details,
    Recording,
    Samples,
    SetupError,
    Skip,
    Source,
    Span,
    compact,
    inside,
    need_dir,
    number,
    read_csv,
    read_json,
    read_text,
    skip_of,
)
from data_tools.convert.timeline import Layout
from sfv.data.schema import SPLITS
from sfv.names import is_hidden

SLOTS = 15
"""Actions that a row of the annotation file has room for."""
VIDEO_SUFFIXES = (".mov", ".mp4")
STATE = ("speed", "course", "latitude", "longitude", "accuracy")
"""What BDD100K notes of the car about once a second."""

_OTHER_ROW = "another annotator's row of the same video"


def find(annotations: Path, videos: Path, info: Path | None, lists: Path | None) -> Source:
    """List the videos that the annotations name.

    Raises:
        SetupError: a folder is not there, or no video was found in it.
        BadInput: the annotation file cannot be used.
    """
    need_dir(videos, "BDD100K's folder of videos (--videos)")
    files = _by_stem(videos, VIDEO_SUFFIXES)
    infos = (
        _by_stem(need_dir(info, "BDD100K's folder of info (--info)"), (".json",)) if info else {}
    )
    official = _official_splits(lists)
    recordings, skips, seen = [], [], set()
    for index, row in enumerate(read_csv(annotations, _columns(1)), 1):
        stem = Path(row["Input.Video"].strip()).stem
        key = f"{index:05d}-{stem}"
        if not any(cell.strip() for cell in row.values()):
            skips.append(Skip(key, "empty row", fault=False))
            continue
        try:
            if not stem:
                raise BadInput("row without a video: column Input.Video is empty")
            if stem not in files:
                raise BadInput(f"video file is missing: {stem}")
            spans = _spans(row)
        except BadInput as error:
            skips.append(skip_of(key, error))
            continue
        if stem in seen:
            skips.append(Skip(key, _OTHER_ROW, stem, fault=False))
            continue
        seen.add(stem)
        split = official.get(stem)
        if lists and split is None:
            skips.append(Skip(key, "video in none of the lists", stem, fault=False))
            continue
        payload = (spans, infos.get(stem))
        recordings.append(Recording(stem, stem[:8], files[stem], split=split, payload=payload))
    return Source(
        name="bddx",
        domain="driving",
        licence="BDD100K and BDD-X terms (educational, research and not-for-profit use)",
        source="BDD-X annotations of BDD100K videos",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint="video names begin with the eight characters of their ride",
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Give the actions of one video, and speed and course where they are known."""
    spans, info = recording.payload
    if info is None:
        return Details(spans, left_out=(("videos without speed and course", 1),))
    return Details(spans, (_state(read_json(info), info),))


def split_scenes(lists: Path) -> dict[str, list[str]]:
    """Turn the official lists of videos into lists of rides, each in one split.

    A ride of which videos stand in several lists goes to test before val before train; its videos
    of the other lists are left out (and counted) when converting.

    Raises:
        SetupError: a list is missing.
    """
    rides: dict[str, str] = {}
    official = _official_splits(lists)
    for split in ("train", "val", "test"):
        rides |= {video[:8]: split for video, given in official.items() if given == split}
    return {split: sorted(r for r, given in rides.items() if given == split) for split in SPLITS}


def _columns(slot: int) -> tuple[str, ...]:
    return ("Input.Video", *(f"Answer.{slot}{name}" for name in ("start", "end", "action")))


def _spans(row: dict[str, str]) -> tuple[Span, ...]:
    """Actions of a row, in whole seconds.

    Annotators wrote "0 to 11, 12 to 19" as well as "0 to 11, 11 to 19": a hole of one second
    between two actions is closed, and an action lasts one second at least.
    """
    cells = []
    for slot in range(1, SLOTS + 1):
        _, start, end, action = (row.get(name) or "" for name in _columns(slot))
        if start.strip() or end.strip() or action.strip():
            where = f"Answer.{slot} of {row['Input.Video']}"
            begin, last = number(start, f"{where} start"), number(end, f"{where} end")
            cells.append((begin, last, action, row.get(f"Answer.{slot}justification") or ""))
    if not cells:
        raise BadInput(f"row without an action: {row['Input.Video']}")
    cells.sort(key=lambda cell: cell[0])
    follows = [cell[0] for cell in cells[1:]] + [math.inf]
    spans = []
    for (begin, last, action, reason), follow in zip(cells, follows, strict=True):
        stop = follow if follow - last == 1 else max(last, begin + 1)
        raw = {"justification": reason.strip()} if reason.strip() else None
        spans.append(Span(action.strip().rstrip("."), begin, stop, raw))
    return tuple(spans)


def _state(info: Any, path: Path) -> Samples:
    """Speed, course and place over time; time stamps are milliseconds."""
    if not isinstance(info, dict) or not isinstance(info.get("locations"), list):
        raise BadInput(f"info without a list 'locations': {path.name}")
    origin = number(info.get("startTime"), f"{path.name} startTime")
    rows = []
    for place in info["locations"]:
        if not isinstance(place, dict):
            raise BadInput(f"info without a list 'locations': {path.name}")
        time = (number(place.get("timestamp"), f"{path.name} timestamp") - origin) / 1000
        rows.append((time, {name: compact(place[name]) for name in STATE if name in place}))
    rows.sort(key=lambda row: row[0])
    return Samples("car", tuple(time for time, _ in rows), tuple(state for _, state in rows))


def _official_splits(lists: Path | None) -> dict[str, str]:
    """Video → split; a line of a list is `ROW_VIDEO`."""
    if lists is None:
        return {}
    found: dict[str, str] = {}
    for split in SPLITS:
        try:
            lines = read_text(lists / f"{split}.txt").split("\n")
        except BadInput as error:
            raise SetupError(
                f"--lists: {error}; needed are train.txt, val.txt, test.txt"
            ) from error
        names = [line.strip() for line in lines if line.strip()]
        found |= {name.partition("_")[2] or name: split for name in names}
    return found


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files below a folder by name; links that lead out of it are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not is_hidden(path, folder):
            found[path.stem] = inside(folder, str(path.relative_to(folder)), "a link")
    if not found:
        raise SetupError(f"{folder}: no {' or '.join(suffixes)} file in it or below")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.driving",
        description="Convert BDD-X (BDD100K videos with actions in words) to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument("--annotations", type=Path, required=True, help="BDD-X-Annotations_v1.csv")
    p.add_argument("--videos", type=Path, required=True, help="BDD100K videos, .mov, at any depth")
    p.add_argument("--info", type=Path, help="BDD100K info, .json, at any depth: speed and course")
    p.add_argument(
        "--lists", type=Path, help="folder of train.txt, val.txt, test.txt; gives splits too"
    )
    options.add_common(p, lossless=False, filler="the car drives on", need_split=False)
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    source = find(args.annotations, args.videos, args.info, args.lists)
    splits = split_scenes(args.lists) if args.lists else None
    return common.run(args, source, read_details, "data_tools.convert.driving", splits)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
