"""Where one can stand in a Doom level: clearance, free cells and view distance, as plain geometry.

A move is reversible where no line in the way is solid, a step higher than 24 units (up or down) or
an opening lower than 56 units; the same limits hold in the engine.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CELL = 32.0
"""Spacing of the grid of standing places, map units."""

CLEARANCE = 28.0
"""Distance kept from walls, map units: the player's half width is 16, and a CELL step between two
places that far from every wall cannot cross one."""

THING_CLEARANCE = 48.0
"""Distance kept from things: none is bumped into and no item is picked up (a pick-up would make
the way back look different)."""

MAX_STEP = 24.0
MIN_OPENING = 56.0
MIN_CELLS = 150
"""Free areas smaller than this many cells (about 12 by 12) are left out: nothing to walk to."""

NEAR_THINGS = 320.0
"""Walks start this near to a thing: level makers put them where there is something to see."""


@dataclass(frozen=True)
class Line:
    """A wall or a border between two sectors, as the engine tells it."""

    ends: tuple[float, float, float, float]
    solid: bool


@dataclass(frozen=True)
class Sector:
    """A floor area: its heights and the lines around it."""

    floor: float
    ceiling: float
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Level:
    """What decides where one can stand.

    Args:
        walls: lines that stop a walker, `n x1 y1 x2 y2`.
        hull: lines with a sector on one side only; they enclose the level.
        things: positions of everything else in the level, `n x y`.
        kinds: the things' classes in the engine; empty where they are not known.
    """

    walls: Array
    hull: Array
    things: Array
    kinds: tuple[str, ...] = ()

    def clear(self, points: Array) -> NDArray[np.bool_]:
        """Tell for each of `points` (`n x y`) whether one can stand there."""
        gaps = _distance(points, self.walls).min(axis=1, initial=np.inf)
        return np.asarray((gaps >= CLEARANCE) & self.away_from_things(points))

    def away_from_things(self, points: Array) -> NDArray[np.bool_]:
        """Tell for each of `points` (`n x y`) whether no thing is close."""
        gaps = np.linalg.norm(points[:, None] - self.things[None], axis=2)
        return np.asarray(gaps.min(axis=1, initial=np.inf) >= THING_CLEARANCE)

    def view(self, point: Array, yaw: float) -> float:
        """Distance from `point` to the next wall straight ahead; yaw in degrees."""
        ahead = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw))])
        start = self.walls[:, :2] - point
        along = self.walls[:, 2:] - self.walls[:, :2]
        cross = ahead[0] * along[:, 1] - ahead[1] * along[:, 0]
        cross = np.where(np.abs(cross) < 1e-9, np.nan, cross)
        distance = (start[:, 0] * along[:, 1] - start[:, 1] * along[:, 0]) / cross
        place = (start[:, 0] * ahead[1] - start[:, 1] * ahead[0]) / cross
        hit = (distance > 0) & (place >= 0) & (place <= 1)
        return float(distance[hit].min(initial=np.inf))


def level_from(
    sectors: Iterable[Sector],
    things: Iterable[tuple[float, float]],
    kinds: Sequence[str] = (),
) -> Level:
    """Build the level from its sectors; a line that two sectors name is open unless it is solid."""
    sides: dict[tuple[float, float, float, float], list[Sector]] = {}
    solid: dict[tuple[float, float, float, float], bool] = {}
    for sector in sectors:
        for line in sector.lines:
            sides.setdefault(line.ends, []).append(sector)
            solid[line.ends] = solid.get(line.ends, False) or line.solid
    hull = [ends for ends, beside in sides.items() if len(beside) == 1 and solid[ends]]
    walls = [ends for ends, beside in sides.items() if solid[ends] or _blocks(beside)]
    return Level(
        walls=np.array(walls, dtype=np.float64).reshape(-1, 4),
        hull=np.array(hull, dtype=np.float64).reshape(-1, 4),
        things=np.array(list(things), dtype=np.float64).reshape(-1, 2),
        kinds=tuple(kinds),
    )


def standing_places(level: Level) -> Array:
    """Grid points (`n x y`) inside the level near things, with room to walk around."""
    low = np.minimum(level.hull[:, :2], level.hull[:, 2:]).min(axis=0)
    high = np.maximum(level.hull[:, :2], level.hull[:, 2:]).max(axis=0)
    xs = np.arange(low[0] + 1, high[0], CELL)
    ys = np.arange(low[1] + 1, high[1], CELL)
    columns, rows = np.nonzero(_inside(level.hull, xs, ys) & ~_near_walls(level.walls, xs, ys))
    clear = level.away_from_things(np.stack([xs[columns], ys[rows]], axis=1))
    cells = set(zip(columns[clear].tolist(), rows[clear].tolist(), strict=True))
    kept = [cell for area in _areas(cells) if len(area) >= MIN_CELLS for cell in area]
    places = np.array([(xs[column], ys[row]) for column, row in sorted(kept)]).reshape(-1, 2)
    gaps = np.linalg.norm(places[:, None] - level.things[None], axis=2)
    return np.asarray(places[gaps.min(axis=1, initial=np.inf) <= NEAR_THINGS])


def _blocks(beside: list[Sector]) -> bool:
    floors = [sector.floor for sector in beside]
    opening = min(sector.ceiling for sector in beside) - max(floors)
    return max(floors) - min(floors) > MAX_STEP or opening < MIN_OPENING


def _distance(points: Array, lines: Array) -> Array:
    """Distance of every point from every line segment, `points lines`."""
    start, along = lines[:, :2], lines[:, 2:] - lines[:, :2]
    length = np.maximum((along**2).sum(axis=1), 1e-9)
    offset = points[:, None] - start[None]
    place = np.clip((offset * along[None]).sum(axis=2) / length[None], 0, 1)
    return np.asarray(np.linalg.norm(offset - place[..., None] * along[None], axis=2))


def _near_walls(walls: Array, xs: Array, ys: Array) -> NDArray[np.bool_]:
    """Cells with a wall closer than CLEARANCE, found wall by wall in the wall's own corner."""
    near = np.zeros((len(xs), len(ys)), dtype=bool)
    for wall in walls:
        low, high = np.minimum(wall[:2], wall[2:]), np.maximum(wall[:2], wall[2:])
        i0, i1 = np.searchsorted(xs, [low[0] - CLEARANCE, high[0] + CLEARANCE])
        j0, j1 = np.searchsorted(ys, [low[1] - CLEARANCE, high[1] + CLEARANCE])
        corner = np.stack(np.meshgrid(xs[i0:i1], ys[j0:j1], indexing="ij"), axis=-1)
        if corner.size:
            gaps = _distance(corner.reshape(-1, 2), wall[None])[:, 0]
            near[i0:i1, j0:j1] |= (gaps < CLEARANCE).reshape(corner.shape[:2])
    return near


def _inside(hull: Array, xs: Array, ys: Array) -> NDArray[np.bool_]:
    """Even-odd rule: cells from which a ray to the west crosses the hull an odd number of times."""
    inside = np.zeros((len(xs), len(ys)), dtype=bool)
    for x1, y1, x2, y2 in hull:
        rows = np.nonzero((y1 > ys) != (y2 > ys))[0]
        for row in rows:
            crossing = x1 + (ys[row] - y1) * (x2 - x1) / (y2 - y1)
            inside[xs > crossing, row] ^= True
    return inside


def _areas(cells: set[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Split cells into connected areas."""
    areas, left = [], set(cells)
    while left:
        first = min(left)
        left.remove(first)
        area, queue = [first], deque([first])
        while queue:
            column, row = queue.popleft()
            for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                cell = (column + step[0], row + step[1])
                if cell in left:
                    left.remove(cell)
                    area.append(cell)
                    queue.append(cell)
        areas.append(area)
    return areas
