"""Quality against cost, as a PNG and as a page that needs nothing else."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from sfv.files import replacing, write_bytes
from sfv.report.draw import font_of

WIDTH, HEIGHT, MARGIN = 720, 440, 70
COLOURS = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#b8860b", "#444444")
GREY = "#b5b5b5"


@dataclass(frozen=True)
class Point:
    """One method: its cost and quality, with an interval where there is one.

    `still` says why its quality does not count, and makes it grey; "" where it counts.
    """

    name: str
    cost: float
    value: float
    low: float | None
    high: float | None
    still: str = ""


@dataclass(frozen=True)
class Axis:
    """Maps numbers to pixels."""

    low: float
    high: float
    start: float
    end: float

    def place(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * i / 4 for i in range(5)]


def colour_of(points: Sequence[Point], i: int) -> str:
    """A point's colour; grey is for what does not count."""
    return GREY if points[i].still else COLOURS[i % len(COLOURS)]


def axes_of(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Axes that enclose all points and intervals, with a little room."""
    heights = [
        v for p in points for v in (p.value, p.low, p.high) if v is not None and math.isfinite(v)
    ]
    x_low, x_high = _widened([p.cost for p in points])
    y_low, y_high = _widened(heights)
    return (
        Axis(x_low, x_high, MARGIN, WIDTH - 20),
        Axis(y_low, y_high, HEIGHT - MARGIN, 20),
    )


def _widened(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def write_png(path: Path, points: Sequence[Point], x_name: str, y_name: str) -> None:
    """Draw the points with their intervals."""
    x, y = axes_of(points)
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = font_of(13)
    for number in x.ticks():
        draw.text(
            (x.place(number), HEIGHT - MARGIN + 8), f"{number:.3g}", "black", font, anchor="ma"
        )
    for number in y.ticks():
        draw.line([(MARGIN, y.place(number)), (WIDTH - 20, y.place(number))], "#dddddd")
        draw.text((MARGIN - 6, y.place(number)), f"{number:.4g}", "black", font, anchor="rm")
    draw.text((WIDTH / 2, HEIGHT - 26), x_name, "black", font, anchor="ma")
    draw.text((6, 4), y_name, "black", font)
    for i, point in enumerate(points):
        colour, place = colour_of(points, i), (x.place(point.cost), y.place(point.value))
        if point.low is not None and point.high is not None:
            draw.line([(place[0], y.place(point.low)), (place[0], y.place(point.high))], colour, 2)
        draw.circle(place, 5, colour)
        draw.text((place[0] + 8, place[1]), point.name, colour, font, anchor="lm")
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def write_html(path: Path, points: Sequence[Point], x_name: str, y_name: str, table: str) -> None:
    """Write a page with the plot (hover for numbers) and the table."""
    x, y = axes_of(points)
    lines = [
        f'<line x1="{MARGIN}" x2="{WIDTH - 20}" y1="{y.place(n)}" y2="{y.place(n)}" stroke="#ddd"/>'
        f'<text x="{MARGIN - 6}" y="{y.place(n) + 4}" text-anchor="end">{n:.4g}</text>'
        for n in y.ticks()
    ]
    lines += [
        f'<text x="{x.place(n)}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{n:.3g}</text>'
        for n in x.ticks()
    ]
    lines += [_dot(point, colour_of(points, i), x, y) for i, point in enumerate(points)]
    lines.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(x_name)}</text>'
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison of runs</title>'
        f"<style>body{{font:14px sans-serif;margin:2em}}</style><h1>{html.escape(y_name)}</h1>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(lines)}</svg>'
        f"<pre>{html.escape(table)}</pre></html>\n"
    )
    write_bytes(path, page.encode())


def _dot(point: Point, colour: str, x: Axis, y: Axis) -> str:
    at_x, at_y = x.place(point.cost), y.place(point.value)
    bar = ""
    if point.low is not None and point.high is not None:
        bar = (
            f'<line x1="{at_x}" x2="{at_x}" y1="{y.place(point.low)}" y2="{y.place(point.high)}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
    name = html.escape(point.name)
    still = f"; does not count: {html.escape(point.still)}" if point.still else ""
    return (
        f'{bar}<circle cx="{at_x}" cy="{at_y}" r="5" fill="{colour}"><title>{name}: {point.value:.5g} at '
        f'{point.cost:.3g}{still}</title></circle><text x="{at_x + 8}" y="{at_y + 4}">{name}</text>'
    )
