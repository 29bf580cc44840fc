import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfv.report.chart import Chart, line_chart
from sfv.report.curves import parse_curves
from sfv.report.figure import filmstrip


def drawn(*args: Any, **settings: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(filmstrip(*args, **settings))))


def test_filmstrip_puts_each_frame_in_its_cell(frames: np.ndarray) -> None:
    videos = {"true": frames, "memory": 255 - frames}
    picture = drawn(videos, [2, 11, 19], scale=3)
    height, width = 30 * 3, 44 * 3
    left = picture.shape[1] - 14 - 3 * width - 2 * 4
    top = picture.shape[0] - 14 - 2 * height - 4
    for column, index in enumerate((2, 11, 19)):
        for row, video in enumerate(videos.values()):
            y, x = top + row * (height + 4), left + column * (width + 4)
            expected = np.kron(video[index], np.ones((3, 3, 1), np.uint8))
            assert (picture[y : y + height, x : x + width] == expected).all()
    labels = picture[top : top + height, :left]
    assert labels.min() < 60, "the row's label is dark on white"
    assert (picture[:, :10] == 255).all(), "and keeps off the edge"


def test_filmstrip_headings_can_be_chosen(frames: np.ndarray) -> None:
    plain = drawn({"true": frames}, [3, 4])
    named = drawn({"true": frames}, [3, 4], column_labels=["out", "return"])
    assert plain.shape == named.shape
    assert (plain[:34] != named[:34]).any()
    assert (plain[40:] == named[40:]).all()


def test_filmstrip_names_what_is_wrong(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'fast' has frames 0..4; \[5, 19\] are not among them"):
        filmstrip({"true": frames, "fast": frames[:5]}, [0, 5, 19])
    with pytest.raises(ValueError, match="at least one video and one frame index"):
        filmstrip({"true": frames}, [])
    with pytest.raises(ValueError, match=r"one height and width.*'b': \(29, 44\)"):
        filmstrip({"a": frames, "b": frames[:, :29]}, [0])
    with pytest.raises(ValueError, match="1 column labels for 2 frames"):
        filmstrip({"a": frames}, [0, 1], column_labels=["x"])


def chart_of(name: str, content: dict[str, Any]) -> Chart | None:
    return line_chart(name, parse_curves({name: content})[name])


def test_chart_scales_both_axes() -> None:
    chart = chart_of("fast/loss", {"fast": [0.1, 0.3, 0.2], "copy": [0.4]})
    assert chart is not None
    assert [tick.text for tick in chart.y_ticks] == ["0.1", "0.2", "0.3", "0.4"]
    assert [tick.place for tick in chart.y_ticks] == [186.0, 128.0, 70.0, 12.0]
    assert [(tick.place, tick.text) for tick in chart.x_ticks] == [
        (52.0, "0"),
        (240.0, "1"),
        (428.0, "2"),
    ]
    assert chart.lines[0].pieces == ["52.0,186.0 240.0,70.0 428.0,128.0"]
    assert chart.lines[1].pieces == ["52.0,12.0"]
    assert chart.zero is None


def test_chart_shows_zero_and_leaves_gaps() -> None:
    nan = float("nan")
    chart = chart_of("fast/gain", {"fast": [-0.02, nan, 0.02, 0.04]})
    assert chart is not None
    assert [tick.text for tick in chart.y_ticks] == ["-0.02", "0.00", "0.02", "0.04"]
    assert chart.zero == 128.0
    assert [len(piece.split()) for piece in chart.lines[0].pieces] == [1, 2]
    assert [text for _, _, text in chart.lines[0].dots][1] == "fast, chunk 2: 0.02"


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-7])
def test_chart_of_equal_numbers_has_room_around_them(value: float) -> None:
    chart = chart_of("flat", {"fast": [value, value]})
    assert chart is not None
    (_, first, _), (_, second, _) = chart.lines[0].dots
    assert first == second
    assert 12 < first < 186


def test_chart_of_nothing_is_left_out() -> None:
    assert chart_of("empty", {"fast": []}) is None
    assert chart_of("empty", {"fast": [float("nan")]}) is None


def test_a_curve_over_gaps_shows_ratios_evenly_and_its_interval_as_a_band() -> None:
    content = {
        "x": [2, 8, 32],
        "rows": {"fast": [30, 20, None], "none": [10, 10, 10]},
        "low": {"fast": [20, 10, None]},
        "high": {"fast": [40, 30, None]},
        "axis": "gap",
        "unit": "frames",
    }
    chart = chart_of("recall", content)
    assert chart is not None and chart.axis == "gap (frames)"
    assert [(tick.place, tick.text) for tick in chart.x_ticks] == [
        (52.0, "2"),
        (240.0, "8"),
        (428.0, "32"),
    ]
    fast, none = chart.lines
    assert fast.pieces == ["52.0,70.0 240.0,128.0"]
    assert fast.bands == ["52.0,128.0 240.0,186.0 240.0,70.0 52.0,12.0"]
    assert none.bands == [] and none.pieces == ["52.0,186.0 240.0,186.0 428.0,186.0"]
    assert fast.dots[1][2] == "fast, gap (frames) 8: 20"
