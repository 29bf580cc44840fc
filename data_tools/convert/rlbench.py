"""Convert RLBench demonstrations from their pickle-free export.

    python -m data_tools.convert.rlbench --export rlbench_export --split-file tasks.json --out data/rlbench

RLBench stores pickles, which nothing here loads. `data_tools/convert/rlbench_export.py` is run where
RLBench is installed and its files are trusted, and writes the export. See docs/datasets/rlbench.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.convert import common, options
from data_tools.convert.film import pictures
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
    read_json,
    skip_of,
)
from data_tools.convert.timeline import Layout
from sfv.names import is_hidden

FORMAT = "sfv.rlbench/1"
EPISODE = "episode.json"
STOPPED = 0.1
"""Joint speed, rad/s, below which the arm rests: RLBench's demonstrations rest at waypoints."""
GRIPPER_STEPS = 4
"""Steps around a change of the gripper that count as closing or opening."""
SHORTEST = 3
"""Steps; a shorter stretch belongs to the phase before it."""
SLOPE = 1.0
"""Vertical over horizontal way from which on a move is up or down."""

WIDTHS = {
    "gripper_open": 1,
    "gripper_pose": 7,
    "joint_positions": 7,
    "joint_velocities": 7,
}
"""Numbers a step of each signal that is used."""


@dataclass(frozen=True)
class Payload:
    """What a worker has to know besides the recording.

    Args:
        path: the episode's JSON.
        fps: steps a second.
        with_task: put the task's sentence behind each phase.
    """

    path: Path
    fps: float
    with_task: bool


def find(export: Path, fps: float, scene_by: str, with_task: bool) -> Source:
    """List the episodes of an export.

    Raises:
        SetupError: no such folder.
    """
    need_dir(export, "the folder that rlbench_export.py wrote (--export)")
    recordings, skips = [], []
    for path in sorted(export.rglob(EPISODE)):
        key = str(path.parent.relative_to(export))
        if is_hidden(path, export):
            skips.append(Skip(key, "hidden file", fault=False))
            continue
        try:
            given = _read(path)
            folder = inside(path.parent, str(given["camera"]), f"{key} camera")
            if not folder.is_dir():
                raise BadInput(f"folder of pictures is missing: {key}/{given['camera']}")
        except BadInput as error:
            skips.append(skip_of(key, error))
            continue
        task = str(given["task"])
        scene = task if scene_by == "task" else f"{task}/variation{given['variation']}"
        payload = Payload(path, fps, with_task)
        recordings.append(Recording(key, scene, folder, picture_fps=fps, payload=payload))
    return Source(
        name="rlbench",
        domain="robot",
        licence="RLBench licence (non-commercial research)",
        source="RLBench demonstrations",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint="run rlbench_export.py again: it writes the task's name",
        settings={"source_fps": fps, "scene_by": scene_by, "with_task": with_task},
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Put the phases of one demonstration into words.

    Raises:
        BadInput: a signal is missing or does not have one row a picture.
    """
    payload: Payload = recording.payload
    given = _read(payload.path)
    signals = {name: _signal(given, name, width) for name, width in WIDTHS.items()}
    lengths = {len(signal) for signal in signals.values()} | {len(pictures(recording.video))}
    if len(lengths) != 1:
        raise BadInput(
            f"signals and pictures differ in number: {recording.key} has {sorted(lengths)}"
        )
    task = str(given["descriptions"][0]).strip()
    spans = []
    for begin, end, phase, waypoint in phases(signals):
        text = f"{phase}, to {task}" if payload.with_task else phase
        raw = {"phase": phase, "waypoint": waypoint, "task": task}
        spans.append(Span(text, begin / payload.fps, end / payload.fps, raw))
    times = tuple(step / payload.fps for step in range(len(signals["gripper_open"])))
    kept = ("gripper_open", "gripper_pose", "joint_positions")
    samples = tuple(
        Samples(name, times, tuple(compact(row) for row in signals[name].tolist())) for name in kept
    )
    return Details(tuple(spans), samples)


def phases(signals: dict[str, NDArray[np.float64]]) -> list[tuple[int, int, str, int]]:
    """Cut a demonstration where the gripper changes and where the arm rests at a waypoint.

    Returns:
        (first step, one past the last, words, number of the waypoint it leads to).
    """
    is_open = signals["gripper_open"][:, 0] > 0.5
    resting = np.abs(signals["joint_velocities"]).max(axis=1) < STOPPED
    kinds = _kinds(is_open, resting)
    found: list[tuple[int, int, str, int]] = []
    begin, waypoint, grasped = 0, 0, False
    for end in [*np.flatnonzero(np.diff(kinds) != 0) + 1, len(kinds)]:
        kind = int(kinds[begin])
        if kind == 0:
            waypoint += 1
            text = _move(signals["gripper_pose"][begin:end], bool(is_open[begin]), grasped)
        elif kind == 3:
            text = "hold still"
        else:
            grasped = kind == 1
            text = "close the gripper" if grasped else "open the gripper"
        found.append((begin, int(end), text, waypoint))
        begin = int(end)
    return _merged(found)


def _kinds(is_open: NDArray[np.bool_], resting: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each step: 0 the arm moves, 1 the gripper closes, 2 it opens, 3 the arm rests."""
    kinds = np.where(resting, 3, 0)
    for change in np.flatnonzero(is_open[1:] != is_open[:-1]) + 1:
        low, high = max(0, change - GRIPPER_STEPS // 2), change + GRIPPER_STEPS // 2
        kinds[low:high] = 2 if is_open[change] else 1
    return np.asarray(kinds, dtype=np.int64)


def _move(pose: NDArray[np.float64], is_open: bool, grasped: bool) -> str:
    """Words for the way from one waypoint to the next, by its slope; z points up."""
    way = pose[-1, :3] - pose[0, :3]
    steep = abs(way[2]) >= SLOPE * float(np.hypot(way[0], way[1])) and way[2] != 0
    if not is_open and grasped:
        return ("lift" if way[2] > 0 else "lower") if steep else "carry"
    if not is_open:
        return ("push up" if way[2] > 0 else "push down") if steep else "push"
    if steep:
        return "move up" if way[2] > 0 else "reach down"
    return "reach"


def _merged(found: list[tuple[int, int, str, int]]) -> list[tuple[int, int, str, int]]:
    """Join stretches that are too short, and neighbours of one text, to the one before."""
    merged: list[tuple[int, int, str, int]] = []
    for begin, end, text, waypoint in found:
        short = end - begin < SHORTEST and "gripper" not in text
        if merged and (short or merged[-1][2] == text):
            first, _, before, number_before = merged.pop()
            merged.append((first, end, before, number_before))
        else:
            merged.append((begin, end, text, waypoint))
    return merged


def _read(path: Path) -> dict[str, Any]:
    given = read_json(path)
    if not isinstance(given, dict) or given.get("format") != FORMAT:
        raise BadInput(f"not an export of the form {FORMAT}: {path.parent.name}/{path.name}")
    names = ("task", "variation", "camera", "descriptions")
    missing = [name for name in (*names, *WIDTHS) if not given.get(name) and given.get(name) != 0]
    if missing or not isinstance(given.get("descriptions"), list):
        raise BadInput(f"export lacks {(missing or ['descriptions'])[0]!r}: {path.parent.name}")
    return given


def _signal(given: dict[str, Any], name: str, width: int) -> NDArray[np.float64]:
    rows = given[name] if isinstance(given[name], list) else []
    table = [row if isinstance(row, list) else [row] for row in rows]
    if not table or any(len(row) != width for row in table):
        raise BadInput(f"export's {name!r} is not a list with {width} numbers a step")
    return np.array([[number(cell, name) for cell in row] for row in table], dtype=np.float64)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.rlbench",
        description="Convert a pickle-free export of RLBench demonstrations to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument("--export", type=Path, required=True, help="folder that rlbench_export.py wrote")
    p.add_argument("--source-fps", type=float, default=20.0, help="steps a second of the simulator")
    p.add_argument(
        "--scene-by", choices=("task", "variation"), default="task", help="what counts as one place"
    )
    p.add_argument(
        "--no-task", action="store_true", help="words of the phase alone, without the task"
    )
    options.add_common(p, lossless=True, filler="hold still")
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    if not args.source_fps > 0:
        raise SetupError(f"--source-fps {args.source_fps}: allowed are numbers above 0")
    source = find(args.export, args.source_fps, args.scene_by, not args.no_task)
    return common.run(args, source, read_details, "data_tools.convert.rlbench")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
