"""Looks of own mazes: textures of Freedoom, or plain colours and patterns that a maze's WAD brings along.

Plain colours stand in the palette of the game as they are, so the engine changes none of them before
it shades them. Walls are named `PWhhp` (hue, pattern), floors `PFnn`, ceilings `PCnn`.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Style = Literal["textured", "plain"]
Colour = tuple[int, int, int]
Lump = tuple[str, bytes]


@dataclass(frozen=True)
class Look:
    """Textures of a region: walls to choose from, floor, ceiling; heights in map units."""

    walls: tuple[str, ...]
    floor: str
    ceiling: str
    height: int = 128


TEXTURED = (
    Look(("BRICK1", "BRICK10", "BIGBRIK1"), "FLOOR0_1", "CEIL1_1"),
    Look(("BRICK11", "BRICK12", "BIGBRIK2"), "FLAT5_4", "CEIL3_5"),
    Look(("STONE2", "STONE3", "STONE6"), "FLAT1", "F_SKY1", 160),
    Look(("GSTONE1", "MARBLE1", "MARBLE2"), "DEM1_1", "FLAT10"),
    Look(("METAL1", "METAL2", "SHAWN2"), "FLOOR0_3", "CEIL5_1"),
    Look(("STARTAN3", "STARG3", "STARBR2"), "FLOOR4_8", "CEIL3_3"),
    Look(("TEKWALL1", "TEKWALL4", "TEKWALL6"), "FLAT20", "TLITE6_1"),
    Look(("TEKGREN1", "TEKGREN2", "SPACEW3"), "FLOOR3_3", "GRNLITE1"),
    Look(("WOOD1", "WOOD3", "WOOD5"), "FLAT5_2", "FLAT5_5"),
    Look(("PANEL1", "PANEL5", "PANBOOK"), "CEIL1_1", "FLAT22"),
    Look(("ROCK1", "TANROCK2", "ASHWALL2"), "GRASS1", "F_SKY1", 160),
    Look(("ZIMMER1", "ZIMMER2", "BSTONE1"), "GRASS2", "F_SKY1", 160),
    Look(("REDWALL", "SP_HOT1", "BRICK5"), "FLOOR6_1", "FLAT2"),
    Look(("CEMENT1", "CEMENT7", "GRAY7"), "FLOOR5_1", "CEIL5_2"),
    Look(("BRONZE1", "BRONZE2", "BRONZE3"), "FLOOR7_1", "FLAT8"),
    Look(("ICKWALL1", "ICKWALL3", "PIPEWAL2"), "FLAT19", "CEIL3_1"),
)

_HUES: tuple[tuple[Colour, Colour], ...] = (
    ((227, 0, 0), (103, 0, 0)),
    ((255, 127, 27), (159, 55, 0)),
    ((255, 255, 35), (195, 155, 47)),
    ((119, 255, 111), (63, 131, 47)),
    ((47, 99, 35), (19, 35, 11)),
    ((0, 0, 227), (0, 0, 107)),
    ((143, 143, 255), (55, 55, 255)),
    ((255, 0, 255), (159, 0, 155)),
    ((255, 183, 183), (203, 107, 107)),
    ((119, 79, 43), (63, 47, 23)),
    ((119, 119, 119), (55, 55, 55)),
    ((255, 255, 255), (159, 159, 159)),
)
"""Each hue of the walls, and its second tone for the patterns."""

_FLOORS: tuple[tuple[Colour, Colour], ...] = (
    ((67, 67, 67), (47, 47, 47)),
    ((103, 83, 51), (79, 59, 35)),
    ((83, 87, 59), (63, 71, 43)),
    ((0, 0, 107), (0, 0, 83)),
    ((91, 7, 7), (71, 0, 0)),
    ((159, 131, 99), (131, 107, 75)),
    ((39, 83, 27), (31, 67, 23)),
    ((131, 131, 131), (107, 107, 107)),
)
"""Two tones of each floor: tiles, so that one sees oneself move."""

_CEILINGS: tuple[Colour, ...] = (
    (191, 191, 191),
    (255, 211, 187),
    (199, 199, 255),
    (147, 147, 147),
)

_SQUARE = 64
"""Side of what a pattern is made of, map units and pixels; a wall is two of them high. Pictures are two
squares wide and high: the engine draws floors of 2^n pixels only."""

_PATTERNS = 5
"""One tone, the second one below, in a band, in a stripe, in a checkerboard."""

_WALLS = tuple(f"PW{hue:02d}{pattern}" for hue in range(len(_HUES)) for pattern in range(_PATTERNS))

PLAIN = tuple(
    Look(_WALLS, f"PF{i % len(_FLOORS):02d}", f"PC{(i + i // len(_FLOORS)) % len(_CEILINGS):02d}")
    for i in range(len(TEXTURED))
)
"""As many as `TEXTURED`. Every wall may have every colour; floor and ceiling tell the region."""

LOOKS: dict[Style, tuple[Look, ...]] = {"textured": TEXTURED, "plain": PLAIN}


def plain_lumps() -> list[Lump]:
    """The pictures of the plain look, between the markers that let the engine find them."""
    return [("TX_START", b""), *_walls(), *_floors_and_ceilings(), ("TX_END", b"")]


def _walls() -> Iterator[Lump]:
    names = iter(_WALLS)
    row, column = np.indices((2 * _SQUARE, 2 * _SQUARE))
    patterns = [row < 0, row >= _SQUARE, abs(row - _SQUARE + 0.5) < _SQUARE // 2]
    patterns += [column < _SQUARE, _checkerboard()]
    for tones in _HUES:
        for pattern in patterns:
            yield next(names), _png(pattern, tones)


def _floors_and_ceilings() -> Iterator[Lump]:
    for i, tones in enumerate(_FLOORS):
        yield f"PF{i:02d}", _png(_checkerboard(), tones)
    for i, tone in enumerate(_CEILINGS):
        yield f"PC{i:02d}", _png(_checkerboard(), (tone, tone))


def _checkerboard() -> NDArray[np.bool_]:
    row, column = np.indices((2 * _SQUARE, 2 * _SQUARE)) // _SQUARE
    return np.asarray(row != column)


def _png(pattern: NDArray[np.bool_], tones: tuple[Colour, Colour]) -> bytes:
    """A picture in the first tone, where the pattern holds in the second."""
    file = io.BytesIO()
    first, second = np.array(tones, dtype=np.uint8)
    Image.fromarray(np.where(pattern[..., None], second, first)).save(file, "PNG")
    return file.getvalue()
