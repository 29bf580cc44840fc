"""Geometry of small line charts; the HTML template draws them as inline SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sfv.report.curves import Curve

Scale = Callable[[float], float]
WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34  # room for ticks and the axis' name
MAX_TICKS = 8
LOG_SPAN = 16  # an axis whose ends have this ratio shows ratios evenly: gaps come as 1, 2, 4, ...


@dataclass(frozen=True)
class Tick:
    """One tick: its place in the drawing and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: unbroken pieces as SVG `points`, (x, y, text) of each number, bands of intervals.

    `why` says why the series does not count and is drawn grey; "" where it counts.
    """

    name: str
    pieces: list[str]
    dots: list[tuple[float, float, str]]
    bands: list[str] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw one chart; `zero` is the height of the line y = 0."""

    name: str
    axis: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: float | None


def line_chart(name: str, curve: Curve, not_counted: Mapping[str, str] = {}) -> Chart | None:
    """Lay out the lines of a curve; None where there is no finite number to draw.

    A number that is not finite leaves a gap.

    Args:
        name: of the curve.
        curve: its numbers.
        not_counted: rows that do not count, and why.
    """
    shown = [*curve.rows.values(), *curve.low.values(), *curve.high.values()]
    finite = [y for numbers in shown for y in numbers if math.isfinite(y)]
    if not any(math.isfinite(y) for numbers in curve.rows.values() for y in numbers):
        return None
    steps = _round_steps(min(finite), max(finite))
    bottom, top = steps[0], steps[-1]
    x_of = _x_scale(curve.x)

    def y_of(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom), 1)

    digits = max(0, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9))
    stride = max(1, math.ceil(len(curve.x) / MAX_TICKS))
    return Chart(
        name=name,
        axis=curve.axis,
        lines=[_line(row, curve, x_of, y_of, not_counted.get(row, "")) for row in curve.rows],
        x_ticks=[Tick(x_of(x), f"{x:g}") for x in curve.x[::stride]],
        y_ticks=[Tick(y_of(value), f"{value:.{digits}f}") for value in steps],
        zero=y_of(0.0) if bottom < 0 < top else None,
    )


def _x_scale(places: Sequence[float]) -> Scale:
    low, high = places[0], places[-1]
    scale: Scale = math.log if low > 0 and high / low >= LOG_SPAN else float
    start, span = scale(low), scale(high) - scale(low)

    def x_of(place: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (scale(place) - start) / (span or 1), 1)

    return x_of


def _line(name: str, curve: Curve, x_of: Scale, y_of: Scale, why: str) -> Line:
    pairs = list(zip(curve.x, curve.rows[name], strict=False))
    dots = [
        (x_of(x), y_of(y), f"{name}, {curve.axis} {x:g}: {y:.4g}")
        for x, y in pairs
        if math.isfinite(y)
    ]
    pieces = [" ".join(f"{x_of(x)},{y_of(y)}" for x, y in piece) for piece in _unbroken(pairs)]
    return Line(name, pieces, dots, _bands(name, curve, x_of, y_of), why)


def _bands(name: str, curve: Curve, x_of: Scale, y_of: Scale) -> list[str]:
    """Polygons between both ends of the intervals: forth along the lower ends, back along the upper."""
    if name not in curve.low:
        return []
    ends = list(zip(curve.x, curve.low[name], curve.high[name], strict=True))
    bands = []
    for piece in _unbroken(ends):
        forth = [f"{x_of(x)},{y_of(low)}" for x, low, _ in piece]
        back = [f"{x_of(x)},{y_of(high)}" for x, _, high in reversed(piece)]
        bands.append(" ".join([*forth, *back]))
    return bands


def _unbroken(points: Sequence[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    """Cut a line at its gaps."""
    pieces: list[list[tuple[float, ...]]] = [[]]
    for point in points:
        if all(map(math.isfinite, point)):
            pieces[-1].append(point)
        else:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _round_steps(low: float, high: float) -> list[float]:
    """Return about four evenly spaced round numbers whose ends enclose low and high."""
    if low == high:
        low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]
