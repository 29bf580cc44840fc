"""What a run of plans leaves for eyes: HTML with imagined and real videos, TensorBoard, `report.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfv.files import write_json
from sfv.generation.videos import read_video
from sfv.planning.rows import video_paths
from sfv.planning.score import Plan
from sfv.report.html import VideoPanel, write_report
from sfv.report.tensorboard import add_video, log_hparams, log_row, open_logger
from sfv.report.video import side_by_side

SHOWN_EPISODES, SHOWN_ROWS = 3, 2

NOTE = (
    "Dist is the mean distance from the way points of the way back, which are earlier places; dist_NAME is "
    "the distance from one way point. Success: every named way point within the tolerance. oracle plans "
    "with the engine itself as world model, random takes any action. Intervals are over episodes; a "
    "difference counts where its paired interval excludes zero, over 10 episodes or more."
)


def write_outputs(
    out: Path, plans: Mapping[str, Sequence[Plan]], report: Mapping[str, Any], fps: float
) -> None:
    """Write TensorBoard logs, the HTML report and, last, `report.json`."""
    logger = open_logger(out)
    for row, content in report["rows"].items():
        log_row(logger, row, content["metrics"])
        for i, value in enumerate(report["episodes"][row]):
            logger.log_metrics({f"plan/dist/{row}": value["dist"]}, i)
    headline = {
        f"{name}/{row}": cell["value"]
        for row, content in report["rows"].items()
        for name, cell in content["metrics"].items()
        if cell["value"] is not None
    }
    log_hparams(logger, report["settings"], headline)
    panels = _panels(out, plans, fps)
    for panel in panels:
        labels = list(panel.frames)[: 2 * SHOWN_ROWS]
        frames = side_by_side([panel.frames[label] for label in labels], labels)
        add_video(logger, f"plan/{panel.title}", frames, 0, panel.fps)
    logger.finalize("success")
    title = f"Plans: {report['settings']['tasks']}"
    write_report(out / "report.html", report, panels, title, [NOTE])
    write_json(out / "report.json", report)


def _panels(out: Path, plans: Mapping[str, Sequence[Plan]], fps: float) -> list[VideoPanel]:
    """Imagined and real videos of the first episodes, all rows together."""
    names = [plan.episode for plan in next(iter(plans.values()))][:SHOWN_EPISODES]
    panels = []
    for name in names:
        frames: dict[str, Any] = {}
        for row in plans:
            real, imagined = video_paths(out / "rows" / row, name)
            if real.is_file():
                frames[f"{row} imagined"] = _frames(imagined)
                frames[f"{row} real"] = _frames(real)
        if frames:
            panels.append(VideoPanel(name, frames, fps))
    return panels


def _frames(path: Path) -> np.ndarray:
    video: np.ndarray = read_video(path).permute(0, 2, 3, 1).contiguous().numpy()
    return video
