"""Own mazes for ViZDoom: a grid of cells with doors, textures and things, written as a WAD (UDMF).

A maze is decided by its number and its style alone; the engine builds its own search tree of the
level, so three lumps a level are enough. Things are those of Freedoom: Phase 2.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.collect.doom_level import Level, Line, Sector, level_from
from data_tools.collect.doom_looks import LOOKS, TEXTURED, Look, Style, plain_lumps
from sfv.rng import seed_of

CELLS = 6
"""Cells along each side of a maze."""

CELL_UNITS = 192
"""Width of a cell, map units: two chunks of walking."""

LOOP_CHANCE = 0.3
"""Share of the walls of a perfect maze that are taken away again, so that there are ways around."""

DECORATION_CHANCE = 0.6
_REGION = 3
"""Cells along each side of a region that has one look."""

_CORNER = 66
"""Distance of a thing from the middle lines of its cell: beside the way, not on it."""

Cell = tuple[int, int]
Door = frozenset[Cell]

WORDS = {
    "TallGreenColumn": "tall green column",
    "ShortGreenColumn": "short green column",
    "TallRedColumn": "tall red column",
    "ShortRedColumn": "short red column",
    "SkullColumn": "skull column",
    "HeartColumn": "heart column",
    "TechPillar": "tech pillar",
    "Candelabra": "candelabra",
    "TorchTree": "dead tree",
    "BigTree": "big tree",
    "BlueTorch": "blue torch",
    "GreenTorch": "green torch",
    "RedTorch": "red torch",
    "ShortBlueTorch": "short blue torch",
    "ShortGreenTorch": "short green torch",
    "ShortRedTorch": "short red torch",
    "Column": "floor lamp",
    "TechLamp": "tall lamp",
    "TechLamp2": "short lamp",
    "BurningBarrel": "burning barrel",
    "ExplosiveBarrel": "barrel",
    "Stalagtite": "stalagmite",
    "EvilEye": "evil eye",
}
"""Class name in the engine → words, for everything that can serve as a landmark."""

_EDITOR_NUMBERS = {
    "TallGreenColumn": 30, "ShortGreenColumn": 31, "TallRedColumn": 32, "ShortRedColumn": 33,
    "SkullColumn": 37, "HeartColumn": 36, "TechPillar": 48, "Candelabra": 35, "TorchTree": 43,
    "BigTree": 54, "BlueTorch": 44, "GreenTorch": 45, "RedTorch": 46, "ShortBlueTorch": 55,
    "ShortGreenTorch": 56, "ShortRedTorch": 57, "Column": 2028, "TechLamp": 85, "TechLamp2": 86,
    "BurningBarrel": 70, "Stalagtite": 47,
}  # fmt: skip
_PLAYER_START = 1


@dataclass(frozen=True)
class Thing:
    """A decoration: its class in the engine and its place, map units."""

    kind: str
    x: int
    y: int


@dataclass(frozen=True)
class Maze:
    """One maze.

    Args:
        number: decides everything else but the style.
        doors: pairs of neighbouring cells without a wall between them.
        things: decorations, at most one a cell.
        looks: of the regions, in `LOOKS[style]`; row by row.
        lights: brightness of the regions, 0 to 255.
        style: of walls, floors and ceilings.
    """

    number: int
    doors: frozenset[Door]
    things: tuple[Thing, ...]
    looks: tuple[int, ...]
    lights: tuple[int, ...]
    style: Style = "textured"

    @property
    def map_name(self) -> str:
        """Name of the level in the WAD, at most 8 letters."""
        return f"MZ{self.number:06d}"

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Cells that a door leads to."""
        return [other for other in _beside(cell) if frozenset((cell, other)) in self.doors]

    def look(self, cell: Cell) -> Look:
        return LOOKS[self.style][self.looks[_region(cell)]]

    def level(self) -> Level:
        """What decides where one can stand."""
        sectors = [Sector(0.0, 128.0, tuple(self._lines(cell))) for cell in cells()]
        things = [(float(thing.x), float(thing.y)) for thing in self.things]
        return level_from(sectors, things, [thing.kind for thing in self.things])

    def _lines(self, cell: Cell) -> Iterator[Line]:
        for ends, other in _sides(cell):
            ends = ends if cell < other else (ends[1], ends[0])  # one name for both sides
            numbers = [float(value * CELL_UNITS) for corner in ends for value in corner]
            x1, y1, x2, y2 = numbers
            yield Line((x1, y1, x2, y2), frozenset((cell, other)) not in self.doors)


def cells() -> list[Cell]:
    """All cells, row by row."""
    return [(x, y) for y in range(CELLS) for x in range(CELLS)]


def centre(cell: Cell) -> tuple[int, int]:
    """Middle of a cell, map units."""
    return (2 * cell[0] + 1) * CELL_UNITS // 2, (2 * cell[1] + 1) * CELL_UNITS // 2


def make_maze(number: int, style: Style = "textured") -> Maze:
    """Make the maze with this number: a random spanning tree of the cells, then more doors.

    Both styles have the same walls and lights; a plain maze keeps every second thing.
    """
    rng = np.random.default_rng(seed_of(0, "doom-maze", number))
    doors = _tree(rng)
    for cell in cells():
        for other in _beside(cell):
            wall = cell < other and frozenset((cell, other)) not in doors
            if wall and rng.random() < LOOP_CHANCE:
                doors.add(frozenset((cell, other)))
    kinds, things = sorted(_EDITOR_NUMBERS), []
    for cell in cells():
        if rng.random() < DECORATION_CHANCE:
            x, y = centre(cell)
            aside = rng.choice([-_CORNER, _CORNER], 2)
            kind = kinds[int(rng.integers(len(kinds)))]
            things.append(Thing(kind, x + int(aside[0]), y + int(aside[1])))
    regions = ((CELLS - 1) // _REGION + 1) ** 2
    looks = tuple(int(i) for i in rng.permutation(len(TEXTURED))[:regions])
    lights = tuple(int(i) for i in rng.choice([176, 192, 208, 232], regions))
    kept = tuple(things[::2] if style == "plain" else things)
    return Maze(number, frozenset(doors), kept, looks, lights, style)


def _tree(rng: np.random.Generator) -> set[Door]:
    """Doors that join all cells without a way around (depth first)."""
    doors: set[Door] = set()
    path, seen = [(0, 0)], {(0, 0)}
    while path:
        new = [cell for cell in _beside(path[-1]) if cell not in seen]
        if not new:
            path.pop()
            continue
        cell = new[int(rng.integers(len(new)))]
        doors.add(frozenset((path[-1], cell)))
        seen.add(cell)
        path.append(cell)
    return doors


def _beside(cell: Cell) -> list[Cell]:
    x, y = cell
    around = [(x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)]
    return [(i, j) for i, j in around if 0 <= i < CELLS and 0 <= j < CELLS]


def _sides(cell: Cell) -> list[tuple[tuple[Cell, Cell], Cell]]:
    """Sides of a cell, clockwise, each as two corners of the grid and the cell beyond it."""
    x, y = cell
    return [
        (((x, y + 1), (x + 1, y + 1)), (x, y + 1)),
        (((x + 1, y + 1), (x + 1, y)), (x + 1, y)),
        (((x + 1, y), (x, y)), (x, y - 1)),
        (((x, y), (x, y + 1)), (x - 1, y)),
    ]


def _region(cell: Cell) -> int:
    return cell[1] // _REGION * ((CELLS - 1) // _REGION + 1) + cell[0] // _REGION


def wad(mazes: Sequence[Maze]) -> bytes:
    """A WAD: the sky, the plain pictures if needed, per level a marker, text, end; the directory."""
    lumps = [("ZMAPINFO", b'defaultmap { sky1 = "SKY1" }')]
    if any(maze.style == "plain" for maze in mazes):
        lumps += plain_lumps()
    for maze in mazes:
        lumps += [(maze.map_name, b""), ("TEXTMAP", udmf(maze).encode()), ("ENDMAP", b"")]
    directory, end = [], 12
    for name, content in lumps:
        directory.append(struct.pack("<ii8s", end, len(content), name.encode()))
        end += len(content)
    header = struct.pack("<4sii", b"PWAD", len(lumps), end)
    return b"".join([header, *(content for _, content in lumps), *directory])


def udmf(maze: Maze) -> str:
    """The level as text; see the UDMF specification, namespace `zdoom`."""
    corners = [(x, y) for y in range(CELLS + 1) for x in range(CELLS + 1)]
    blocks = ['namespace = "zdoom";']
    blocks += [_block("vertex", x=x * CELL_UNITS, y=y * CELL_UNITS) for x, y in corners]
    for cell in cells():
        look = maze.look(cell)
        blocks.append(
            _block(
                "sector",
                heightfloor=0,
                heightceiling=look.height,
                texturefloor=look.floor,
                textureceiling=look.ceiling,
                lightlevel=maze.lights[_region(cell)],
            )
        )
    sides: list[str] = []
    lines = [line for cell in cells() for line in _linedefs(maze, cell, corners, sides)]
    x, y = centre((0, 0))
    start = Thing("", x, y)
    numbers = [_PLAYER_START, *(_EDITOR_NUMBERS[thing.kind] for thing in maze.things)]
    for thing, number in zip((start, *maze.things), numbers, strict=True):
        skills = {f"skill{i}": True for i in range(1, 6)}
        blocks.append(_block("thing", x=thing.x, y=thing.y, type=number, single=True, **skills))
    return "\n".join([*blocks, *sides, *lines]) + "\n"


def _linedefs(maze: Maze, cell: Cell, corners: list[Cell], sides: list[str]) -> Iterator[str]:
    """Lines of a cell that no earlier cell has made; their sides are added to `sides`."""
    for (start, end), other in _sides(cell):
        inside = 0 <= other[0] < CELLS and 0 <= other[1] < CELLS
        if inside and other < cell:
            continue
        wall = frozenset((cell, other)) not in maze.doors
        fields: dict[str, int | bool] = {"v1": corners.index(start), "v2": corners.index(end)}
        fields["sidefront"] = _add_side(maze, cell, other, wall, sides)
        if inside:
            fields["sideback"] = _add_side(maze, other, cell, wall, sides)
        if inside and wall:  # a thin wall; its texture repeats up to the ceiling
            fields["wrapmidtex"] = True
        yield _block("linedef", **fields, twosided=inside, blocking=wall)


def _add_side(maze: Maze, cell: Cell, other: Cell, wall: bool, sides: list[str]) -> int:
    """Add what is seen of a line from `cell`, and give its number."""
    walls = maze.look(cell).walls
    texture = walls[seed_of(maze.number, "maze-wall", *cell, *other) % len(walls)]
    sector = cells().index(cell)
    if wall:
        sides.append(_block("sidedef", sector=sector, texturemiddle=texture))
    else:
        sides.append(_block("sidedef", sector=sector, texturetop=texture, texturebottom=texture))
    return len(sides) - 1


def _block(kind: str, **fields: int | bool | str) -> str:
    values = {
        name: f'"{value}"' if isinstance(value, str) else str(value).lower()
        for name, value in fields.items()
    }
    return f"{kind} {{ {' '.join(f'{name} = {value};' for name, value in values.items())} }}"
