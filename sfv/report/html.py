"""The report as one HTML file that needs nothing else: no server, no network, no other file."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sfv.files import write_bytes
from sfv.report import chart
from sfv.report.catalogue import Group, Metric, format_number
from sfv.report.gap import TITLE, gap_sentences, gap_table
from sfv.report.rows import (
    Cell,
    Difference,
    Report,
    Row,
    best_rows,
    flatten,
    format_interval,
    parse_report,
)
from sfv.report.video import encode_mp4

SHOWN_HEIGHT = 256  # small frames are enlarged towards this height, by whole factors
FACTS = {"command": "Command", "seed": "Seed", "git_commit": "Commit", "date": "Date"}


@dataclass(frozen=True)
class VideoPanel:
    """Videos of one episode, played together.

    Attributes:
        title: what is seen, e.g. the walk's name.
        frames: one video a label, in the order in which they are shown; lengths may differ.
        fps: frames per second of all of them.
        marks: (frame_idx, label) of moments worth finding, e.g. where the return begins.
    """

    title: str
    frames: Mapping[str, UInt8[np.ndarray, "_ height width 3"]]
    fps: float | int
    marks: Sequence[tuple[int, str]] = field(default_factory=list)


def write_report(
    path: Path | str,
    report: Mapping[str, Any],
    videos: Sequence[VideoPanel] = (),
    title: str = "Report",
    notes: Sequence[str] = (),
) -> None:
    """Write the HTML report.

    Args:
        path: the file; its folder is made if need be.
        report: the contents of a `report.json`.
        videos: one panel an episode.
        title: heading of the page.
        notes: paragraphs below the heading: what the reader should know.

    Raises:
        ValueError: a field of the report is missing, or a panel has no video or a mark outside it.
        OSError: the file could not be written; nothing is left behind.
    """
    write_bytes(Path(path), render(report, videos, title, notes).encode())


def render(
    report: Mapping[str, Any],
    videos: Sequence[VideoPanel] = (),
    title: str = "Report",
    notes: Sequence[str] = (),
) -> str:
    """Return the page that `write_report` writes."""
    parsed = parse_report(report)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = [
        chart.line_chart(name, curve, parsed.not_counted(name))
        for name, curve in parsed.curves.items()
    ]
    return environment.get_template("report.html").render(
        title=title,
        notes=[notes] if isinstance(notes, str) else notes,
        facts={
            label: parsed.settings[name]
            for name, label in FACTS.items()
            if parsed.settings.get(name) is not None
        },
        settings={k: v for k, v in flatten(parsed.settings).items() if k not in FACTS},
        counts={row.name: row.num for row in parsed.rows},
        tables=[_table(parsed, group, best_rows(parsed)) for group in parsed.groups],
        compared=bool(parsed.differences),
        gap_title=TITLE,
        gaps=gap_table(parsed.gaps) if parsed.gaps else [],
        gap_sentences=gap_sentences(parsed.gaps),
        remarks=parsed.notes(),
        panels=[_panel(panel) for panel in videos],
        charts=[drawing for drawing in charts if drawing is not None],
        chart=chart,
        passports=_passports(parsed),
    )


def _table(report: Report, group: Group, best: set[tuple[str, str]]) -> dict[str, Any]:
    """Return one group's table: a line a row, a line of the truth, a line a pair that was compared."""
    return {
        "group": group,
        "rows": [
            {
                "name": row.name,
                "num": row.num,
                "is_reference": row in report.references,
                "cells": [
                    _cell(row, metric, group, (row.name, metric.name) in best)
                    for metric in group.metrics
                ],
            }
            for row in (*report.rows, *_measured(report.references, group))
        ],
        "differences": _differences(report, group),
        "best_first": [
            "ascending" if metric.better == "lower" else "descending" for metric in group.metrics
        ],
    }


def _measured(rows: Sequence[Row], group: Group) -> list[Row]:
    return [row for row in rows if any(metric.name in row.cells for metric in group.metrics)]


def _cell(row: Row, metric: Metric, group: Group, is_best: bool) -> dict[str, Any]:
    cell = row.cells.get(metric.name, Cell(None))
    beside = [
        (companion, row.cells[companion.name].value)
        for companion in group.companions[metric.name]
        if companion.name in row.cells
    ]
    known = cell.value is not None and math.isfinite(cell.value)
    return {
        "number": repr(cell.value) if known else "",
        "value": format_number(cell.value, metric.digits),
        "interval": format_interval(cell, metric.digits),
        "mark": "still" if not row.counts(metric.name) else "best" if is_best else "",
        "why": row.still,
        "beside": [
            (companion, format_number(value, companion.digits))
            for companion, value in beside
            if value is not None
        ],
    }


def _differences(report: Report, group: Group) -> list[dict[str, Any]]:
    """Return one line of cells for each pair of rows that were compared video by video."""
    lines = []
    for row, against in dict.fromkeys((gap.row, gap.against) for gap in report.differences):
        gaps = {g.metric: g for g in report.differences if (g.row, g.against) == (row, against)}
        cells = [_gap_cell(gaps.get(m.name), m.digits, report) for m in group.metrics]
        if any(cell["value"] for cell in cells):
            lines.append({"name": f"{row} − {against}", "cells": cells})
    return lines


def _gap_cell(gap: Difference | None, digits: int, report: Report) -> dict[str, str]:
    """Print a difference with signs; a metric that was not compared gets an empty cell."""
    if gap is None:
        return {"value": "", "interval": "", "mark": ""}
    value = f"{gap.value:+.{digits}f}"
    known = gap.low is not None and gap.high is not None
    interval = f"[{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]" if known else ""
    return {
        "value": value.replace("-", "−"),
        "interval": interval.replace("-", "−"),
        "mark": "" if report.counts(gap) else "still",
    }


def _panel(panel: VideoPanel) -> dict[str, Any]:
    """Encode one panel's videos and place its marks on the slider."""
    where = f"video panel {panel.title!r}"
    if not panel.frames:
        raise ValueError(f"{where} has no videos: give at least one labelled array of frames.")
    num_frames = max(len(frames) for frames in panel.frames.values())
    for frame_idx, label in panel.marks:
        if not 0 <= frame_idx < num_frames:
            raise ValueError(
                f"{where}: mark {label!r} is at frame {frame_idx}; allowed are 0..{num_frames - 1}."
            )
    return {
        "title": panel.title,
        "fps": panel.fps,
        "num_frames": num_frames,
        "marks": [
            {"frame_idx": i, "label": label, "share": i / max(num_frames - 1, 1)}
            for i, label in sorted(panel.marks)
        ],
        "videos": [
            {"label": label, "num_frames": len(frames), "data": _base64_mp4(frames, panel.fps)}
            for label, frames in panel.frames.items()
        ],
    }


def _base64_mp4(frames: np.ndarray, fps: float | int) -> str:
    upscale = max(1, SHOWN_HEIGHT // frames.shape[1])
    return base64.b64encode(encode_mp4(frames, fps, upscale=upscale)).decode()


def _passports(report: Report) -> list[dict[str, Any]]:
    """Return how each metric was measured; rows that were measured alike share one entry."""
    entries = []
    for metric in (m for group in report.groups for m in group.metrics):
        groups: dict[str, dict[str, Any]] = {}
        for row in report.rows:
            cell = row.cells.get(metric.name)
            if cell is None or not cell.passport:
                continue
            known = isinstance(cell.passport, Mapping)
            items = flatten(cell.passport) if known else {"protocol": str(cell.passport)}
            items = {key: value for key, value in items.items() if value not in ("", "None")}
            group = groups.setdefault(repr(items), {"items": items, "rows": []})
            group["rows"].append(row.name)
        if groups:
            entries.append({"label": metric.label, "groups": list(groups.values())})
    return entries
