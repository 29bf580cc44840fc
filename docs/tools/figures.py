"""Draw the figures of the concept pages: `python docs/tools/figures.py`.

Plain SVG. By itself a figure follows the reader's system, light or dark; the site puts it into the page,
where it follows the site's switch (`docs/theme/site.css`). A test checks that the files are up to date.
"""

import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "figures"

STYLE = """
.sfv-figure{--ink:#1f2933;--line:#52606d;--plain:#eef1f4;--slow:#cfe3fa;--fast:#fde1c4;--true:#d5eed8;
--new:#e7dcf7}
@media (prefers-color-scheme:dark){.sfv-figure{--ink:#e4e7eb;--line:#9aa5b1;--plain:#2c333c;--slow:#1f3f63;
--fast:#6b4118;--true:#22482a;--new:#43305f}}
.sfv-figure text{font:14px system-ui,sans-serif;fill:var(--ink);text-anchor:middle}
.sfv-figure text.small{font-size:12px}
.sfv-figure path{stroke:var(--line);stroke-width:1.5;fill:none}
.sfv-figure rect{stroke:var(--line)}
.sfv-figure .tip{fill:var(--line);stroke:none}
"""


def svg(title: str, width: int, height: int, parts: list[str]) -> str:
    """A whole figure; sizes in pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sfv-figure" role="img" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def box(x: int, y: int, width: int, height: int, colour: str, *lines: str) -> str:
    """A box with centred lines of text; x and y are its upper left corner."""
    middle, first = x + width // 2, y + height // 2 + 5 - 9 * (len(lines) - 1)
    texts = (
        f'<text x="{middle}" y="{first + 18 * i}"{"" if i == 0 else small()}>{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="var(--{colour})"/>'
        + "".join(texts)
    )


def small() -> str:
    """The attribute of a smaller text."""
    return ' class="small"'


def note(x: int, y: int, text: str) -> str:
    """A small text, centred at x."""
    return f'<text x="{x}" y="{y}"{small()}>{escape(text)}</text>'


def arrow(*points: tuple[int, int]) -> str:
    """A line through the points with a tip at its end; its last piece is horizontal or vertical."""
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    back_x, back_y = x - 8 * dx, y - 8 * dy
    tip = f"{x},{y} {back_x + 4 * dy},{back_y + 4 * dx} {back_x - 4 * dy},{back_y - 4 * dx}"
    path = " L".join(f"{a} {b}" for a, b in [*points[:-1], (back_x, back_y)])
    return f'<path d="M{path}"/><polygon class="tip" points="{tip}"/>'


def frames(x: int, y: int, num: int, colour: str) -> Iterator[str]:
    """A row of small empty boxes: frames."""
    for i in range(num):
        yield box(x + 26 * i, y, 22, 34, colour)


def slow_learner() -> str:
    """Section 1 of the method."""
    return svg(
        "Slow learning: clean context and noised new frames pass the U-Net; the loss is on the new ones",
        720,
        200,
        [
            *frames(10, 60, 4, "true"),
            *frames(114, 60, 4, "new"),
            note(60, 50, "f_p context: clean"),
            note(164, 116, "f_g new: noised"),
            arrow((222, 77), (290, 77)),
            box(290, 45, 150, 64, "slow", "video U-Net", "Φ is trained"),
            box(290, 145, 150, 34, "plain", "action c, timestep t"),
            arrow((365, 145), (365, 109)),
            arrow((440, 77), (500, 77)),
            *frames(506, 60, 4, "new"),
            note(556, 50, "ε of the new frames alone"),
            arrow((614, 77), (650, 77)),
            box(650, 55, 60, 44, "plain", "L(Φ)"),
        ],
    )


def fast_learner() -> str:
    """Section 3 of the method."""
    return svg(
        "Fast learning: chunk Y is generated from chunk X; Θ takes K steps on both; Y is the next context",
        720,
        250,
        [
            box(10, 30, 110, 50, "true", "chunk X", "context"),
            arrow((120, 55), (180, 55)),
            box(180, 30, 150, 50, "slow", "sampler", "Φ + Θ, action c"),
            arrow((330, 55), (390, 55)),
            box(390, 30, 110, 50, "new", "chunk Y", "generated"),
            arrow((65, 80), (65, 165), (180, 165)),
            arrow((445, 80), (445, 120), (255, 120), (255, 140)),
            box(180, 140, 150, 50, "plain", "X ++ Y, all frames", "noised, no action"),
            arrow((330, 165), (390, 165)),
            box(390, 140, 130, 50, "fast", "K steps on Θ", "Adam, Φ frozen"),
            arrow((520, 165), (580, 165)),
            box(580, 140, 130, 50, "fast", "Θ, with the walk", "for the next chunk"),
            arrow((500, 55), (645, 55), (645, 140)),
            note(570, 45, "Y is the next context"),
            note(
                360,
                230,
                "Θ starts fresh in every episode: the denoiser then equals its base exactly",
            ),
        ],
    )


def loop() -> str:
    """Section 4 of the method."""
    return svg(
        "The slow-fast loop: a fast phase makes memories of episodes, a slow phase trains with them inside",
        720,
        250,
        [
            box(10, 20, 330, 170, "plain"),
            note(175, 42, "fast phase: Φ frozen, a Θ for each episode"),
            box(30, 60, 90, 50, "fast", "Θ_0", "fresh"),
            arrow((120, 85), (150, 85)),
            box(150, 60, 70, 50, "fast", "Θ_1"),
            arrow((220, 85), (250, 85)),
            box(250, 60, 70, 50, "fast", "Θ_2"),
            note(135, 128, "learns pair 0"),
            note(240, 128, "learns pair 1"),
            note(175, 165, "kept: pair i, action, Θ_i before it learned the pair"),
            arrow((340, 105), (400, 105)),
            box(400, 20, 310, 170, "plain"),
            note(555, 42, "slow phase: Θ_i frozen"),
            box(420, 65, 120, 60, "fast", "pair i with Θ_i", "shuffled"),
            arrow((540, 95), (575, 95)),
            box(575, 65, 115, 60, "slow", "slow step on Φ", "loss of ε(Φ + Θ_i)"),
            arrow((555, 190), (555, 225), (175, 225), (175, 190)),
            note(365, 218, "the next group of episodes"),
        ],
    )


def memories() -> str:
    """What can be done with a memory."""
    return svg(
        "Memories: Θ of an episode is kept in a file, goes on, is forked, merged, or exported",
        720,
        210,
        [
            box(10, 75, 130, 54, "fast", "Θ in the rollout", "one row an episode"),
            arrow((140, 102), (210, 102)),
            box(210, 75, 150, 54, "plain", "memory file", "safetensors + header"),
            arrow((360, 88), (400, 88), (400, 37), (440, 37)),
            arrow((360, 102), (440, 102)),
            arrow((360, 116), (400, 116), (400, 167), (440, 167)),
            box(
                440, 12, 270, 50, "new", "go on with the walk", "exactly, moments of Adam included"
            ),
            box(440, 77, 270, 50, "fast", "fork, merge, scale, diff, truncate", "sfv memory VERB"),
            box(
                440, 142, 270, 50, "true", "export as a PEFT adapter", "read by peft and diffusers"
            ),
            note(285, 150, "refused by another base"),
        ],
    )


def data_path() -> str:
    """From raw video to a batch."""
    return svg(
        "The data path: sources become episodes, shards, latents, and windows for a batch",
        720,
        190,
        [
            box(10, 20, 120, 44, "true", "simulators"),
            box(10, 74, 120, 44, "true", "public data sets"),
            box(10, 128, 120, 44, "true", "your videos"),
            *(arrow((130, y), (160, y), (160, 96), (190, 96)) for y in (42, 150)),
            arrow((130, 96), (190, 96)),
            box(190, 66, 110, 60, "plain", "episodes", "mp4 + json"),
            arrow((300, 96), (330, 96)),
            box(330, 66, 110, 60, "plain", "shards", "tar + index"),
            arrow((440, 96), (470, 96)),
            box(470, 66, 100, 60, "slow", "latents", "a frozen codec"),
            arrow((570, 96), (600, 96)),
            box(600, 66, 110, 60, "new", "windows", "each once"),
            note(245, 150, "cut, annotate,"),
            note(245, 166, "filter, dedup"),
            note(650, 150, "any number of ranks,"),
            note(650, 166, "resumed exactly"),
        ],
    )


def evaluation() -> str:
    """A value and its passport."""
    return svg(
        "Evaluation: rows share actions and noise; values carry passports, unlike ones are not compared",
        720,
        210,
        [
            box(10, 20, 140, 44, "true", "true walk"),
            box(10, 80, 140, 44, "slow", "row none: Φ"),
            box(10, 140, 140, 44, "fast", "row fast: Φ + Θ"),
            *(arrow((150, y), (180, y), (180, 102), (210, 102)) for y in (42, 162)),
            arrow((150, 102), (210, 102)),
            box(210, 72, 110, 60, "plain", "metric", "floor, ceiling"),
            arrow((320, 102), (360, 102)),
            box(360, 45, 170, 114, "new", "value [low, high]", "network hash, frames,",
                "stride, resize, count,", "true videos, version"),
            arrow((530, 57), (570, 57)),
            arrow((530, 147), (570, 147)),
            box(570, 30, 140, 54, "true", "equal passports", "paired difference"),
            box(570, 120, 140, 54, "fast", "unlike passports", "refused, field named"),
            note(445, 178, "the passport"),
        ],
    )  # fmt: skip


FIGURES: dict[str, Callable[[], str]] = {
    "slow_learner": slow_learner,
    "fast_learner": fast_learner,
    "loop": loop,
    "memories": memories,
    "data_path": data_path,
    "evaluation": evaluation,
}


def main() -> int:
    """Write all figures."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
