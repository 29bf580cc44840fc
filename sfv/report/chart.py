"""Geometry of small line charts; the HTML template draws them as inline SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

XScale = Callable[[int], float]
YScale = Callable[[float], float]
WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34  # room for ticks and the axis' name


@dataclass(frozen=True)
class Tick:
    """One tick: its place in the drawing and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: unbroken pieces as SVG `points`, and (x, y, text) of each number."""

    name: str
    pieces: list[str]
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw one chart; `zero` is the height of the line y = 0."""

    name: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: float | None


def line_chart(name: str, series: Mapping[str, Sequence[float]]) -> Chart | None:
    """Lay out one number a chunk for each series; None where there is no finite number to draw.

    A number that is not finite leaves a gap.
    """
    finite = [y for numbers in series.values() for y in numbers if math.isfinite(y)]
    if not finite:
        return None
    longest = max(map(len, series.values()))
    steps = _round_steps(min(finite), max(finite))
    bottom, top = steps[0], steps[-1]

    def x_of(chunk_idx: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * chunk_idx / max(longest - 1, 1), 1)

    def y_of(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom), 1)

    digits = max(0, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9))
    stride = max(1, math.ceil(longest / 8))
    return Chart(
        name=name,
        lines=[_line(row, numbers, x_of, y_of) for row, numbers in series.items()],
        x_ticks=[Tick(x_of(i), str(i)) for i in range(0, longest, stride)],
        y_ticks=[Tick(y_of(value), f"{value:.{digits}f}") for value in steps],
        zero=y_of(0.0) if bottom < 0 < top else None,
    )


def _line(name: str, numbers: Sequence[float], x_of: XScale, y_of: YScale) -> Line:
    pieces: list[list[str]] = [[]]
    dots = []
    for chunk_idx, value in enumerate(numbers):
        if not math.isfinite(value):
            pieces.append([])
            continue
        x, y = x_of(chunk_idx), y_of(value)
        pieces[-1].append(f"{x},{y}")
        dots.append((x, y, f"{name}, chunk {chunk_idx}: {value:.4g}"))
    return Line(name, [" ".join(piece) for piece in pieces if piece], dots)


def _round_steps(low: float, high: float) -> list[float]:
    """Return about four evenly spaced round numbers whose ends enclose low and high."""
    if low == high:
        low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]
