"""Check shards before a long run: index, sizes, hashes, schema, every frame, scenes and codecs.

    python -m data_tools.check_shards data/doom/shards --contact-sheet sheet.png

Goes on after a fault and reports each one; exits with 1 when there was any.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_tools.write_shards import check_scenes
from sfv.data.index import INDEX, ShardError, ShardIndex, find_shards
from sfv.data.schema import SPLITS, EpisodeMeta, SchemaError
from sfv.data.shards import read_shard, sha256_of
from sfv.data.stages import decode
from sfv.files import check_writable, write_bytes
from sfv.texts import printable

SHEET_ROWS = 12
SHEET_COLUMNS = 12


@dataclass
class Report:
    """What was found.

    Args:
        lines: one a split.
        faults: one a fault; empty when all is well.
        metas: of all readable episodes.
        strips: rows of the contact sheet.
    """

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    metas: list[EpisodeMeta] = field(default_factory=list)
    strips: list[NDArray[np.uint8]] = field(default_factory=list)


def check(folder: Path, frames: bool = True) -> Report:
    """Check every split in `folder`, or `folder` itself when it is a split's.

    Args:
        folder: holds `train/` and so on, or `index.json`.
        frames: also decode every episode (the slow part).
    """
    report = Report()
    places = [folder] if (folder / INDEX).is_file() else [folder / split for split in SPLITS]
    present = [place for place in places if place.is_dir()]
    if not present:
        report.faults.append(f"{folder}: neither {INDEX} nor one of the folders {SPLITS}")
    for place in present:
        try:
            index = find_shards(place)
        except ShardError as error:
            report.faults.append(str(error))
            continue
        _check_split(index, frames, report)
    try:
        check_scenes(iter(report.metas))
    except SchemaError as error:
        report.faults.append(str(error))
    return report


def _check_split(index: ShardIndex, frames: bool, report: Report) -> None:
    before = len(report.metas)
    for shard in tqdm(index.shards, desc=f"check {index.split}", unit="shard"):
        path = index.folder / shard.name
        if sha256_of(path) != shard.sha256:
            report.faults.append(f"{path}: content differs from the hash in {INDEX}; copy it again")
        try:
            for sample in read_shard(path, shard):
                if sample.meta.split != index.split:
                    report.faults.append(
                        f"{path}: {sample.meta.id} is of split {sample.meta.split!r}, the index "
                        f"says {index.split!r}"
                    )
                report.metas.append(sample.meta)
                if frames:
                    video = decode(sample, str(path))
                    if index.kind == "video" and len(report.strips) < SHEET_ROWS:
                        report.strips.append(_strip(video.permute(0, 2, 3, 1).numpy()))
        except (ShardError, SchemaError) as error:
            report.faults.append(str(error))
    metas = report.metas[before:]
    num_frames = sum(meta.num_frames for meta in metas)
    num_bytes = sum(shard.num_bytes for shard in index.shards)
    report.lines.append(
        f"{index.split}: {len(metas)} of {index.num_samples} episodes, {num_frames} frames, "
        f"{len({meta.scene for meta in metas})} scenes, {len(index.shards)} shards, "
        f"{num_bytes / 1e6:.1f} MB, {index.kind} {index.codec}"
    )


def _strip(video: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames spread evenly over an episode, side by side."""
    picked = np.linspace(0, len(video) - 1, SHEET_COLUMNS).round().astype(int)
    return np.concatenate(list(video[picked]), axis=1)


def contact_sheet(strips: list[NDArray[np.uint8]]) -> bytes:
    """One PNG: a row for each episode, time from left to right."""
    width = min(strip.shape[1] for strip in strips)
    sheet = np.ascontiguousarray(np.concatenate([strip[:, :width] for strip in strips]))
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = sheet.shape[:2]
    encoder.pix_fmt = "rgb24"
    packets = encoder.encode(av.VideoFrame.from_ndarray(sheet, format="rgb24"))
    return b"".join(bytes(packet) for packet in [*packets, *encoder.encode(None)])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.check_shards",
        description="Check shards: index, sizes, hashes, schema, every frame, scenes and codecs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("shards", type=Path, help="folder of train/, val/, test/, or one of them")
    p.add_argument("--no-frames", action="store_true", help="do not decode the frames (faster)")
    p.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="PNG",
        help=f"write {SHEET_COLUMNS} frames of each of the first {SHEET_ROWS} episodes (video only)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 when there was a fault."""
    args = parser().parse_args(argv)
    if args.contact_sheet and args.no_frames:
        print("error: --contact-sheet needs the frames; leave out --no-frames", file=sys.stderr)
        return 2
    try:
        if args.contact_sheet:
            check_writable(args.contact_sheet.parent)
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    report = check(args.shards, not args.no_frames)
    print("\n".join(map(printable, report.lines)))
    if args.contact_sheet:
        if report.strips:
            write_bytes(args.contact_sheet, contact_sheet(report.strips))
        else:
            report.faults.append(f"{args.shards}: no video to draw a contact sheet of")
    for fault in report.faults:
        print(f"fault: {printable(fault)}", file=sys.stderr)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
