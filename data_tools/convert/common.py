"""The part that all converters share: workers, resuming, writing and the summary."""

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_tools.convert.film import duration, frames_at
from data_tools.convert.options import VERSION, Settings, read_settings, read_splits, split_of
from data_tools.convert.recording import (
    BadInput,
    Details,
    NotWanted,
    Recording,
    SetupError,
    Skip,
    Source,
    read_json,
    skip_of,
)
from data_tools.convert.timeline import Layout, Stretch, lay_out
from data_tools.files import encode_mp4, write_episode
from sfv.data.schema import SPLITS, Encoding, EpisodeMeta, Provenance, SchemaError, Split, to_json
from sfv.files import WAIT, check_writable, locked, write_json
from sfv.names import ascii_name, is_hidden
from sfv.texts import printable

SUMMARY = "summary.json"
ROWS = ".inputs"
"""Folder with one row of the summary for each input that was converted; what --resume goes by."""

OTHER_SPLIT = "the source's own split differs from its scene's"

ReadDetails = Callable[[Recording, Layout], Details]


@dataclass(frozen=True)
class Job:
    """One input for a worker.

    Args:
        recording: what to convert.
        split: where its episodes go.
        source: the data set, without its lists of inputs.
        settings: what to make.
        read_details: reads the annotations; a function of a module, so that it can be pickled.
        folder: for the episodes.
    """

    recording: Recording
    split: Split
    source: Source
    settings: Settings
    read_details: ReadDetails
    folder: Path


Row = dict[str, Any]
"""What became of one input, as the summary lists it."""


def run(
    args: argparse.Namespace,
    source: Source,
    read_details: ReadDetails,
    tool: str,
    splits: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """Convert every recording of a data set into `args.out` and write `summary.json` there.

    Args:
        args: with the common options.
        source: what was found.
        read_details: reads the annotations of one recording.
        tool: the converter's module.
        splits: the source's own, for when the options name none.

    Returns:
        the summary.

    Raises:
        SetupError: see `read_settings`, `read_splits`, `split_of`; or `args.out` holds other episodes.
        FileExistsError: another process converts there.
        OSError: `args.out` cannot be written.
    """
    settings = read_settings(args, tool, {"source": source.name, **source.settings})
    _check_keys(source)
    rows = [_skipped(skip) for skip in source.skips]
    jobs = []
    bare = Source(source.name, source.domain, source.licence, source.source, ())
    for recording, split in _assigned(source, read_splits(args, splits), rows):
        jobs.append(Job(recording, split, bare, settings, read_details, args.out))
    check_writable(args.out)
    with locked(args.out, WAIT):
        return _run(args, source, jobs, rows, settings)


def _run(
    args: argparse.Namespace, source: Source, jobs: list[Job], rows: list[Row], settings: Settings
) -> dict[str, Any]:
    before = _finished(jobs, args.out, settings, args.resume)
    left = [job for job in jobs if job.recording.key not in before]
    with tqdm(total=len(jobs), initial=len(before), desc=source.name, unit="input") as bar:
        for row in _convert_all(left, args.workers):
            rows.append(row)
            bar.update()
    summary = _summary(settings, [*rows, *before.values()], len(before))
    write_json(args.out / SUMMARY, summary)
    return summary


def finish(summary: dict[str, Any]) -> int:
    """Print a summary; 1 when an input was broken or nothing was kept."""
    shown = {name: part for name, part in summary.items() if name != "rows"}
    print(printable(json.dumps(shown, indent=1, ensure_ascii=False), keep="\n"))
    return 1 if summary["inputs"]["broken"] or not summary["episodes"]["kept"] else 0


def main(convert: Callable[[argparse.Namespace], dict[str, Any]], args: argparse.Namespace) -> int:
    """Run a converter; errors that a user can mend become one line."""
    try:
        return finish(convert(args))
    except (SetupError, BadInput, SchemaError, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2


def _check_keys(source: Source) -> None:
    """Refuse two inputs whose episodes would have one name."""
    seen: dict[str, str] = {}
    for recording in source.recordings:
        name = ascii_name(recording.key)
        if name in seen:
            raise SetupError(
                f"inputs {seen[name]!r} and {recording.key!r} would both be named {name!r}; rename one or "
                "convert them into two folders"
            )
        seen[name] = recording.key


def _assigned(
    source: Source, splits: dict[str, list[str]], rows: list[Row]
) -> Iterator[tuple[Recording, Split]]:
    for recording in source.recordings:
        try:
            split = split_of(recording, splits, source.scene_hint)
        except NotWanted as error:
            rows.append(_skipped(skip_of(recording.key, error, fault=False)))
            continue
        if recording.split not in (None, split):
            detail = f"{recording.split}, {split}"
            rows.append(_skipped(Skip(recording.key, OTHER_SPLIT, detail, fault=False)))
            continue
        yield recording, split


def _finished(jobs: list[Job], out: Path, settings: Settings, resume: bool) -> dict[str, Row]:
    """Rows of inputs that an earlier call with equal settings converted."""
    episodes = [path for path in out.glob("*.json") if not is_hidden(path, out)]
    present = sorted(path.name for path in episodes if path.name != SUMMARY)
    if present and not resume:
        raise SetupError(
            f"{out} holds {len(present)} episodes already; give --resume to keep them and go on, or "
            "choose another --out"
        )
    finished = {}
    for job in jobs:
        path = _row_path(job)
        if not path.is_file():
            continue
        row = read_json(path)
        if row["settings"] != settings.hash() or row["split"] != job.split:
            raise SetupError(
                f"{path}: was converted with other settings ({row['settings']}, {row['split']}; now "
                f"{settings.hash()}, {job.split}); use those of then ({SUMMARY}) or another --out"
            )
        files = [out / f"{key}{suffix}" for key in row["episodes"] for suffix in (".json", ".mp4")]
        if all(file.is_file() for file in files):
            finished[job.recording.key] = row
    return finished


def _convert_all(jobs: list[Job], workers: int) -> Iterator[Row]:
    if workers <= 1 or len(jobs) <= 1:
        yield from map(convert_one, jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn) as pool:
        futures = [pool.submit(convert_one, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died (out of memory?); run again with --resume"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def convert_one(job: Job) -> Row:
    """Convert one input: all its episodes are written, or none."""
    recording = job.recording
    try:
        details = job.read_details(recording, job.settings.layout)
        stretches, left_out = lay_out(details, duration(recording), job.settings.layout)
        if not stretches:
            raise NotWanted(f"no episode long enough: {_counts(left_out)}")
        metas = [_meta(job, stretch, index) for index, stretch in enumerate(stretches)]
        _check_json(metas)
        videos = [_encode(job, stretch) for stretch in stretches]
    except (BadInput, NotWanted) as error:
        return _skipped(skip_of(recording.key, error, isinstance(error, BadInput)))
    for meta, video in zip(metas, videos, strict=True):
        write_episode(job.folder, meta, video)
    row = {
        "input": recording.key,
        "scene": recording.scene,
        "split": job.split,
        "episodes": [meta.id for meta in metas],
        "frames": sum(meta.num_frames for meta in metas),
        "actions": sum(len(meta.actions) for meta in metas),
        "left_out": dict(left_out),
        "settings": job.settings.hash(),
    }
    write_json(_row_path(job), row)
    return row


def _check_json(metas: list[EpisodeMeta]) -> None:
    """Refuse what a source's JSON may hold and standard JSON may not: infinity, half a character."""
    try:
        for meta in metas:
            to_json(meta).encode()
    except SchemaError:
        raise
    except ValueError as error:
        raise BadInput(f"annotations hold a value that JSON cannot: {error}") from error


def _encode(job: Job, stretch: Stretch) -> bytes:
    fps = job.settings.layout.fps
    begin = job.recording.start + stretch.first / fps
    times = (index / fps for index in range(stretch.num_frames))
    frames = frames_at(replace(job.recording, start=begin), times, job.settings.shape)
    return encode_mp4(frames, fps, job.settings.quality)


def _meta(job: Job, stretch: Stretch, index: int) -> EpisodeMeta:
    settings = job.settings
    return EpisodeMeta(
        id=f"{job.source.name}-{ascii_name(job.recording.key)}-{index:03d}",
        split=job.split,
        scene=f"{job.source.name}/{job.recording.scene}",
        domain=job.source.domain,
        source=job.source.source,
        licence=job.source.licence,
        fps=float(settings.layout.fps),
        num_frames=stretch.num_frames,
        height=settings.shape.height,
        width=settings.shape.width,
        actions=stretch.actions,
        poses=None,
        revisits=(),
        provenance=Provenance(settings.tool, VERSION, settings.hash()),
        encoding=Encoding("video", settings.quality.codec, "uint8"),
    )


def _row_path(job: Job) -> Path:
    return job.folder / ROWS / f"{ascii_name(job.recording.key)}.json"


def _skipped(skip: Skip) -> Row:
    return {"input": skip.key, "skipped": skip.reason, "detail": skip.detail, "broken": skip.fault}


def _counts(left_out: Counter[str]) -> str:
    return (
        ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "no video"
    )


def _summary(settings: Settings, rows: list[Row], before: int) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: row["input"])
    kept = [row for row in rows if "episodes" in row]
    skipped = [row for row in rows if "skipped" in row]
    left_out: Counter[str] = Counter()
    for row in kept:
        left_out.update(row["left_out"])
    return {
        "settings": asdict(settings) | {"hash": settings.hash(), "version": VERSION},
        "inputs": {
            "found": len(rows),
            "kept": len(kept),
            "of them from before": before,
            "skipped": len(skipped),
            "broken": sum(row["broken"] for row in skipped),
        },
        "skipped": dict(sorted(Counter(row["skipped"] for row in skipped).items())),
        "episodes": {
            "kept": sum(len(row["episodes"]) for row in kept),
            "frames": sum(row["frames"] for row in kept),
            "actions": sum(row["actions"] for row in kept),
            "by split": dict(sorted(Counter(
                {split: sum(len(r["episodes"]) for r in kept if r["split"] == split)
                 for split in SPLITS}
            ).items())),
        },
        "left out of kept inputs": dict(sorted(left_out.items())),
        "rows": rows,
    }  # fmt: skip
