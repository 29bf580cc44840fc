"""Convert a folder of your own: videos, or folders of pictures, and one table of actions.

    python -m data_tools.convert.folder --root my_data --name mine --domain navigation \
        --licence CC0-1.0 --split train --out data/mine

The table is `actions.csv` or `actions.jsonl`; see docs/datasets/folder.md.
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
    SetupError,
    Skip,
    Source,
    Span,
    inside,
    need_dir,
    number,
    read_csv,
    read_jsonl,
    skip_of,
)
from data_tools.convert.timeline import Layout
from sfv.data.schema import DOMAINS, ID_PATTERN
from sfv.media.reader import VIDEO_SUFFIXES
from sfv.names import is_hidden
from sfv.texts import same_form

COLUMNS = ("video", "start", "stop", "text", "scene")
TABLES = ("actions.csv", "actions.jsonl")
LONGEST_NAME = 40


def find(root: Path, name: str, domain: str, licence: str, picture_fps: float) -> Source:
    """List the videos that the table names, and those that it does not.

    Raises:
        SetupError: no folder, no table or two, a bad name, a domain that is not known.
        BadInput: the table cannot be used.
    """
    need_dir(root, "the folder with the videos and the table (--root)")
    if not re.fullmatch(ID_PATTERN, name) or len(name) > LONGEST_NAME:
        raise SetupError(
            f"--name {name!r}: allowed are letters, digits, '_' and '-', {LONGEST_NAME} at most"
        )
    if not picture_fps > 0:
        raise SetupError(f"--picture-fps {picture_fps}: allowed are numbers above 0")
    found, skips = _annotated(root)
    recordings = []
    for video, (scene, spans) in sorted(found.items()):
        try:
            path = inside(root, video, "column video")
            if not path.exists():
                raise BadInput(f"video file is missing: {video}")
        except BadInput as error:
            skips.append(skip_of(f"video {video}", error))
            continue
        fps = picture_fps if path.is_dir() else None
        key = video if path.is_dir() else str(Path(video).with_suffix(""))
        recordings.append(Recording(key, scene, path, picture_fps=fps, payload=tuple(spans)))
    for path in sorted(root.rglob("*")):
        known = same_form(str(path.relative_to(root)))
        if path.suffix.lower() in VIDEO_SUFFIXES and known not in found:
            reason = "hidden file" if is_hidden(path, root) else "video without an action"
            skips.append(Skip(f"video {known}", reason, fault=False))
    return Source(
        name=name,
        domain=_domain(domain),
        licence=licence,
        source=f"own recordings ({name})",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint="fill the column 'scene' of the table: the place where the video was taken",
        settings={"licence": licence, "picture_fps": picture_fps},
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Give the rows of one video."""
    return Details(recording.payload)


def _annotated(root: Path) -> tuple[dict[str, tuple[str, list[Span]]], list[Skip]]:
    """Scene and actions of each video, and the rows that cannot be used."""
    found: dict[str, tuple[str, list[Span]]] = {}
    skips = []
    for index, row in enumerate(_rows(root), 1):
        try:
            video, scene = _text(row, "video", index), _text(row, "scene", index)
            span = _span(row, index)
            first, spans = found.setdefault(video, (scene, []))
            if first != scene:
                raise BadInput(f"video in two scenes: {video!r} in {first!r} and {scene!r}")
            spans.append(span)
        except BadInput as error:
            skips.append(skip_of(f"row {index}", error))
    return found, skips


def _rows(root: Path) -> list[dict[str, Any]]:
    present = [name for name in TABLES if (root / name).is_file()]
    if len(present) != 1:
        raise SetupError(f"{root}: has {present or 'no table'}; needed is one of {list(TABLES)}")
    path = root / present[0]
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    return [
        {**{name: row[name] for name in COLUMNS},
         "raw": {name: cell for name, cell in row.items() if name not in COLUMNS and cell} or None}
        for row in read_csv(path, COLUMNS)
    ]  # fmt: skip


def _text(row: dict[str, Any], name: str, index: int) -> str:
    """Read a text in the form that names are compared in; an empty scene is an error later, with a hint."""
    value = row.get(name, "" if name == "scene" else None)
    if not isinstance(value, str) or (name != "scene" and not value.strip()):
        raise BadInput(f"{name!r} is no text: row {index} has {value!r}")
    return same_form(value.strip())


def _span(row: dict[str, Any], index: int) -> Span:
    start = number(row.get("start"), f"start of row {index}")
    stop = number(row.get("stop"), f"stop of row {index}")
    return Span(_text(row, "text", index), start, stop, row.get("raw"))


def _domain(domain: str) -> Any:
    if domain not in DOMAINS:
        raise SetupError(f"--domain {domain}: allowed are {list(DOMAINS)}")
    return domain


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.folder",
        description="Convert your own videos and a table of actions to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument("--root", type=Path, required=True, help="folder with the videos and the table")
    p.add_argument("--name", required=True, help="of the data set; begins ids and scenes")
    p.add_argument("--domain", choices=DOMAINS, required=True, help="kind of world")
    p.add_argument("--licence", required=True, help="of the frames; SPDX name where there is one")
    p.add_argument("--picture-fps", type=float, default=10.0, help="of folders of pictures")
    options.add_common(p, lossless=False, filler="stand still")
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    source = find(args.root, args.name, args.domain, args.licence, args.picture_fps)
    return common.run(args, source, read_details, "data_tools.convert.folder")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
