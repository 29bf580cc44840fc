"""Videos, settings, report rows and curves in TensorBoard.

TensorBoard's image dashboard plays GIF, so a video is an image summary that holds GIF bytes.
(torch's own `add_video` encodes with moviepy, and fails with moviepy 2.)
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from sfv.report.curves import parse_curves
from sfv.report.rows import flatten, parse_report
from sfv.report.video import encode_gif

RGB = 3  # Summary.Image's number for three colour channels


@runtime_checkable
class Logger(Protocol):
    """What we use of the `TensorBoardLogger` of Lightning and of Fabric."""

    @property
    def experiment(self) -> Any: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_hyperparams(
        self, params: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None: ...

    def finalize(self, status: str) -> None: ...


def open_logger(folder: Path) -> Logger:
    """A logger for what is measured after training; its events lie in `FOLDER/tensorboard`."""
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def add_video(
    writer: Any,
    tag: str,
    frames: UInt8[np.ndarray, "t height width 3"],
    step: int,
    fps: float | int,
) -> None:
    """Write one video that plays in TensorBoard's image dashboard.

    Args:
        writer: a torch `SummaryWriter`, or a `TensorBoardLogger` (where ranks other than 0 write
            nothing).
        tag: name of the card, e.g. `"val/rollout"`.
        frames: at least one frame.
        step: slow step at which the video was made.
        fps: frames per second, at most 50.
    """
    experiment = writer.experiment if isinstance(writer, Logger) else writer
    file_writer = experiment._get_file_writer()
    if file_writer is None:  # Lightning's stand-in on ranks other than 0
        return
    height, width = frames.shape[1:3]
    image = Summary.Image(
        height=height,
        width=width,
        colorspace=RGB,
        encoded_image_string=encode_gif(frames, fps),
    )
    file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def log_hparams(
    logger: Logger, params: Mapping[str, Any], metrics: Mapping[str, float | int]
) -> None:
    """Fill TensorBoard's HParams dashboard.

    Nested settings get dotted names, as the command line's flags have. Lightning would also declare this
    run's settings and metrics to be those of all runs; TensorBoard believes the first such declaration it
    finds, and then shows neither which settings differ nor what other runs measured.
    """
    from torch.utils.tensorboard.summary import hparams

    flat = flatten(params)
    logger.log_hyperparams(flat, {})  # keeps them for hparams.yaml
    logger.log_metrics(metrics, 0)
    file_writer = logger.experiment._get_file_writer()
    if file_writer is None:  # Lightning's stand-in on ranks other than 0
        return
    _, start, end = hparams(flat, dict(metrics))  # type: ignore[no-untyped-call]
    for summary in (start, end):
        file_writer.add_summary(summary, 0)


def log_row(
    logger: Logger,
    row_name: str,
    metrics: Mapping[str, float | int | Mapping[str, Any] | None],
    step: int = 0,
) -> None:
    """Write one row of a report as scalars `report/METRIC/ROW`.

    Args:
        logger: Lightning's `TensorBoardLogger`.
        row_name: the report's row, e.g. `"fast"`.
        metrics: numbers, or a report's cells with their `"value"`; what was not measured is
            left out.
        step: slow step of the measured weights.
    """
    scalars = {}
    for name, cell in metrics.items():
        value = cell["value"] if isinstance(cell, Mapping) else cell
        if value is not None:
            scalars[f"report/{name}/{row_name}"] = float(value)
    logger.log_metrics(scalars, step)


def log_curves(logger: Logger, curves: Mapping[str, Any]) -> None:
    """Write a report's curves as scalars `curve/NAME/ROW`; what was not measured is left out.

    Args:
        logger: Lightning's `TensorBoardLogger`.
        curves: as in a `report.json`; the place on the axis (a chunk, a gap) becomes the step.
    """
    for name, curve in parse_curves(curves).items():
        for row, values in curve.rows.items():
            for x, y in zip(curve.x, values, strict=False):
                if math.isfinite(y):
                    logger.log_metrics({f"curve/{name}/{row}": y}, round(x))


def log_report(logger: Logger, report: Mapping[str, Any]) -> None:
    """Write what a report's tables say: its rows, the truth's, the shares of gaps.

    Rows and truth become `report/METRIC/ROW`, shares `gap_closed/METRIC/END/ROW`.

    Args:
        logger: Lightning's `TensorBoardLogger`.
        report: the contents of a `report.json`.
    """
    parsed = parse_report(report)
    for row in (*parsed.rows, *parsed.references):
        log_row(logger, row.name, {name: cell.value for name, cell in row.cells.items()})
    shares = {f"gap_closed/{gap.metric}/{gap.end}/{gap.row}": gap.value for gap in parsed.gaps}
    logger.log_metrics({name: value for name, value in shares.items() if value is not None}, 0)
