"""What a benchmark leaves for eyes: HTML with videos side by side, TensorBoard, `report.json` last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfv.evaluation.benchmark.methods import Protocol
from sfv.evaluation.benchmark.spec import Benchmark
from sfv.evaluation.benchmark.walks import Walk
from sfv.files import write_json
from sfv.generation.videos import read_video
from sfv.report.html import VideoPanel, write_report
from sfv.report.tensorboard import add_video, log_hparams, log_report, open_logger
from sfv.report.video import side_by_side

SHOWN_WALKS, SHOWN_FRAMES = 3, 400
SHOWN_ROWS = 3
"""Videos in one TensorBoard card: the truth and the first rows; the HTML page has all."""

NOTE = (
    "Way back: the true way out is seen, the way back generated. Long video: only the first chunk is true. "
    "The ceiling is the true walk's first against its later visits, the floor another place of the "
    "same walk (true; for scene return the row's own video). Intervals are over walks; a "
    "difference counts where its paired interval excludes zero, over 10 walks or more."
)


def write_outputs(
    out: Path,
    walks: Sequence[Walk],
    rows: Mapping[str, Mapping[Protocol, Path]],
    report: Mapping[str, Any],
    benchmark: Benchmark,
) -> None:
    """Write TensorBoard logs, the HTML report and, last, `report.json`."""
    logger = open_logger(out)
    log_report(logger, report)
    headline = {
        f"{name}/{row}": cell["value"]
        for row, content in report["rows"].items()
        for name, cell in content["metrics"].items()
        if cell["value"] is not None
    }
    log_hparams(logger, report["settings"], headline)
    panels = [_panel(walk, rows) for walk in shown(walks)]
    for panel in panels:
        labels = list(panel.frames)[:SHOWN_ROWS]
        frames = side_by_side([panel.frames[label] for label in labels], labels)
        add_video(logger, f"way_back/{panel.title}", frames, 0, panel.fps)
    logger.finalize("success")
    title = f"Benchmark {benchmark.label}"
    notes = [NOTE, *spread_lines(report)]
    write_report(out / "report.html", report, panels, title, notes)
    write_json(out / "report.json", report)


def spread_lines(report: Mapping[str, Any]) -> list[str]:
    """Which seeds were averaged, and for each row how far they lie apart; nothing where there was one."""
    told = report.get("seeds")
    if told is None:
        return []
    lines = [
        f"Sampling seeds {', '.join(map(str, told['seeds']))}: a walk's value is the mean over them."
    ]
    for row, metrics in told["spread"].items():
        parts = [f"{name} {cell['std']:.3g}" for name, cell in metrics.items()]
        if parts:
            lines.append(f"Standard deviation over seeds of row {row}: {', '.join(parts)}.")
    return lines


def shown(walks: Sequence[Walk]) -> list[Walk]:
    """A walk of each of the first parts that are not too long to play."""
    first = {walk.part: walk for walk in reversed(walks)}
    short = [walk for walk in first.values() if len(walk.video) <= SHOWN_FRAMES]
    return sorted(short or list(first.values())[:1], key=lambda walk: len(walk.video))[:SHOWN_WALKS]


def _panel(walk: Walk, rows: Mapping[str, Mapping[Protocol, Path]]) -> VideoPanel:
    """The truth beside every row: its way back where it has one, else its long video."""
    frames = {"true": walk.video.permute(0, 2, 3, 1).contiguous().numpy()}
    for row, folders in rows.items():
        folder = folders.get("return") or next(iter(folders.values()))
        video = read_video(folder / f"{walk.meta.id}.mp4")
        frames[row] = video.permute(0, 2, 3, 1).contiguous().numpy()
    return VideoPanel(walk.meta.id, frames, walk.meta.fps, [(walk.turn, "the way back begins")])
