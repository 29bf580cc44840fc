import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_utilities.core.rank_zero import rank_zero_only
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import img_mime_type_detector
from torch.utils.tensorboard import SummaryWriter

from sfv.report.tensorboard import add_video, log_curves, log_hparams, log_report, log_row
from tests.report.conftest import with_truth


def events_of(folder: str | Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def new_logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="run", version="v0", default_hp_metric=False)


@pytest.mark.parametrize("kind", ["writer", "logger"])
def test_a_video_comes_back_whole(kind: str, frames: np.ndarray, tmp_path: Path) -> None:
    logger = new_logger(tmp_path)
    writer: Any = SummaryWriter(logger.log_dir) if kind == "writer" else logger
    add_video(writer, "long/rollout", frames, step=30, fps=8.0)
    add_video(writer, "long/rollout", frames[:7], step=60, fps=8.0)
    (writer if kind == "writer" else logger.experiment).close()
    first, second = events_of(logger.log_dir).Images("long/rollout")
    assert (first.step, second.step) == (30, 60)
    assert (first.width, first.height) == (44, 30)
    gif = Image.open(io.BytesIO(first.encoded_image_string))
    assert (gif.format, gif.size, gif.n_frames) == ("GIF", (44, 30), 20)
    assert img_mime_type_detector.from_bytes(first.encoded_image_string) == "image/gif"
    gif.seek(13)
    square = np.asarray(gif.convert("RGB"))[12, 2 * 13 + 3]
    assert np.abs(square.astype(int) - (250, 240, 60)).max() < 12
    assert Image.open(io.BytesIO(second.encoded_image_string)).n_frames == 7


def test_other_ranks_write_nothing(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = new_logger(tmp_path)
    add_video(logger, "long/rollout", frames, step=0, fps=8.0)
    log_row(logger, "fast", {"psnr": 20.0})
    log_hparams(logger, {"seed": 1}, {"psnr": 20.0})
    assert list(tmp_path.rglob("events*")) == []


def test_hparams_are_named_as_flags(tmp_path: Path) -> None:
    logger = new_logger(tmp_path)
    params = {
        "seed": 3,
        "fast": {"lr": 0.001, "opt": {"name": "adam"}},
        "sizes": [1, 2],
        "to": None,
    }
    log_hparams(logger, params, {"val/psnr": 21.5})
    logger.experiment.close()
    events = events_of(logger.log_dir)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = metadata.parse_session_start_info_plugin_data(content)
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()
    }
    assert values == {
        "seed": 3.0,
        "fast.lr": 0.001,
        "fast.opt.name": "adam",
        "sizes": "[1, 2]",
        "to": "None",
    }
    assert [event.value for event in events.Scalars("val/psnr")] == [21.5]
    tags = events.PluginTagToContent(metadata.PLUGIN_NAME)
    assert metadata.EXPERIMENT_TAG not in tags, "one run does not speak for all"


def test_a_row_becomes_scalars(report: dict[str, Any], tmp_path: Path) -> None:
    logger = new_logger(tmp_path)
    report["rows"]["fast"]["metrics"]["fvd"]["value"] = None
    for name, row in report["rows"].items():
        log_row(logger, name, row["metrics"], step=40)
    log_row(logger, "fast", {"psnr": 22.5, "scuts": None}, step=50)
    logger.experiment.close()
    events = events_of(logger.log_dir)
    psnr = [(event.step, event.value) for event in events.Scalars("report/psnr/fast")]
    assert psnr == [(40, pytest.approx(21.16)), (50, 22.5)]
    assert sorted(events.Tags()["scalars"]) == [
        "report/fvd/none",
        "report/fvd_floor/fast",
        "report/fvd_floor/none",
        "report/lpips/fast",
        "report/lpips/none",
        "report/psnr/fast",
        "report/psnr/none",
    ]


def test_a_curve_s_places_are_its_steps(tmp_path: Path) -> None:
    logger = new_logger(tmp_path)
    recall = {"x": [3, 24, 48], "rows": {"fast": [30.0, None, 20.0]}, "axis": "gap"}
    log_curves(logger, {"recall": recall, "fast/loss": {"fast": [0.5, 0.25]}})
    logger.experiment.close()
    events = events_of(logger.log_dir)
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert found == {
        "curve/recall/fast": [(3, 30.0), (48, 20.0)],
        "curve/fast/loss/fast": [(0, 0.5), (1, 0.25)],
    }


def test_a_report_is_logged_with_the_truth_and_the_gaps(
    report: dict[str, Any], tmp_path: Path
) -> None:
    logger = new_logger(tmp_path)
    log_report(logger, with_truth(report))
    logger.experiment.close()
    events = events_of(logger.log_dir)
    names = {name for name in events.Tags()["scalars"] if "truth" in name or "gap" in name}
    assert names == {
        "report/psnr/decoded truth",
        "report/src/decoded truth",
        "report/src/truth",
        "gap_closed/return_lpips/decoded/fast",
        "gap_closed/return_lpips/truth/fast",
    }
    assert events.Scalars("report/src/truth")[0].value == 99.0
    assert events.Scalars("report/psnr/fast")[0].value == pytest.approx(21.16)
