"""Walks over the ground of a Minetest world, planned on its height map: where to stand and what to build.

As in Doom, frame j is what is seen after frame j-1's view was moved by the action of frame j's chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import REVERSE

CHUNK_FRAMES = 8
TURN_DEGREES = 5.625
LOOK_DEGREES = 2.8125
STEP_BLOCKS = 0.5
"""Way a frame; at 8 frames a second 4 blocks a second, the game's own walking speed."""

EDIT_FRAME = 4
"""Frame of its chunk from which a placed or dug block is seen."""

MIN_VIEW = 2.5
MAX_VIEW = 20.0
_MAX_LOOK = 8 * LOOK_DEGREES
_REACH = 2.5
"""Distance at which blocks are placed and dug."""

NOBODY = -999
"""Height of a column where nobody can stand."""

COLOURS = ("red", "blue", "yellow", "green", "white", "magenta", "orange", "cyan")

_TURNS = {"turn left": 1, "turn right": -1}
_LOOKS = {"look up": 1, "look down": -1}
_MOVES = {"walk forward": 0.0, "walk backward": 180.0}
_WEIGHTS = {"walk forward": 6.0, "walk backward": 0.7, "turn left": 1.0, "turn right": 1.0}
_LOOK_WEIGHT, _LEVEL_WEIGHT = 0.3, 4.0
_UNDO_CHANCE, _ROUND_CHANCE, _EDIT_CHANCE = 0.12, 0.04, 0.06
_MAX_UNDO = 6
_TRIES = 60
_REVERSE = REVERSE | {"look up": "look down", "look down": "look up"}

Place = tuple[int, int, int]


class NoWay(Exception):
    """No walk was found from this start; try another start."""


@dataclass(frozen=True)
class View:
    """Where the eye is and looks: blocks; degrees, yaw counter-clockwise from x, pitch upwards."""

    x: float
    y: float
    yaw: float
    pitch: float = 0.0


@dataclass(frozen=True)
class Edit:
    """From this frame on the block at `place` (x, height, y) is `node`; None: what was there first."""

    frame: int
    place: Place
    node: str | None


@dataclass(frozen=True)
class Walk:
    """One action a chunk, one view a frame, and what is built."""

    actions: tuple[str, ...]
    views: tuple[View, ...]
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Ground:
    """Heights of a square of columns.

    Args:
        x: of the first column.
        y: of the first row (Minetest's z).
        heights: of the topmost block to stand on, `y x`; `NOBODY` where one cannot stand.
        tops: name of that block, `y x`.
    """

    x: int
    y: int
    heights: NDArray[np.int64]
    tops: NDArray[np.str_]

    def cell(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column of the block under a point; None outside the map."""
        row, column = round(y) - self.y, round(x) - self.x
        rows, columns = self.heights.shape
        return (row, column) if 0 <= row < rows and 0 <= column < columns else None

    def around(self, x: float, y: float) -> NDArray[np.int64]:
        """Heights of the four columns around a point, `y x`; `NOBODY` outside."""
        row, column = int(np.floor(y)) - self.y, int(np.floor(x)) - self.x
        rows, columns = self.heights.shape
        if not (0 <= row < rows - 1 and 0 <= column < columns - 1):
            return np.full((2, 2), NOBODY)
        return self.heights[row : row + 2, column : column + 2]

    def clear(self, x: float, y: float) -> bool:
        """Whether one can stand here: ground on all sides, no step higher than a block."""
        around = self.around(x, y)
        return bool(around.min() > NOBODY and around.max() - around.min() <= 1)

    def height(self, x: float, y: float) -> float:
        """Height of the feet: between the columns, so that a step is a slope."""
        around = self.around(x, y)
        right, up = x - np.floor(x), y - np.floor(y)
        rows = around[0] * (1 - up) + around[1] * up
        return float(rows[0] * (1 - right) + rows[1] * right)

    def view(self, x: float, y: float, yaw: float) -> float:
        """Way that is free straight ahead, blocks, up to `MAX_VIEW`."""
        dx, dy = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
        ways = np.arange(0.5, MAX_VIEW + 0.5, 0.5)
        free = [self.clear(x + dx * way, y + dy * way) for way in ways]
        return float(ways[free.index(False)] - 0.5 if False in free else MAX_VIEW)

    def built(self, x: int, y: int) -> "Ground":
        """The same ground with a column where nobody can stand any more."""
        heights = self.heights.copy()
        heights[y - self.y, x - self.x] = NOBODY
        return replace(self, heights=heights)


def move(view: View, action: str) -> list[View]:
    """The views of the chunk's frames when `action` starts from `view`."""
    frames = range(1, CHUNK_FRAMES + 1)
    if action in _TURNS:
        turn = _TURNS[action] * TURN_DEGREES
        return [replace(view, yaw=(view.yaw + turn * i) % 360) for i in frames]
    if action in _LOOKS:
        look = _LOOKS[action] * LOOK_DEGREES
        return [replace(view, pitch=view.pitch + look * i) for i in frames]
    if action not in _MOVES:
        return [view] * CHUNK_FRAMES
    heading = np.radians(view.yaw + _MOVES[action])
    dx, dy = STEP_BLOCKS * float(np.cos(heading)), STEP_BLOCKS * float(np.sin(heading))
    return [replace(view, x=view.x + dx * i, y=view.y + dy * i) for i in frames]


def undo(action: str) -> str:
    """The action that takes `action` back."""
    for here, there in (("place a ", "dig a "), ("dig a ", "place a ")):
        if action.startswith(here):
            return there + action.removeprefix(here)
    return _REVERSE[action]


class Planner:
    """Builds a walk chunk by chunk; knows the ground as it is after what was built.

    Args:
        ground: before anything was built.
        rng: every draw comes from here.
    """

    def __init__(self, ground: Ground, rng: np.random.Generator) -> None:
        self.ground, self._rng = ground, rng
        self.actions: list[str] = []
        self.views: list[View] = []
        self.edits: list[Edit] = []
        self._here = self._start()

    def walk(self) -> Walk:
        return Walk(tuple(self.actions), tuple(self.views), tuple(self.edits))

    def follow(self, actions: Sequence[str]) -> None:
        """Append chunks.

        Raises:
            NoWay: there is no room for one.
        """
        for action in actions:
            views = move(self._here, action)
            if not all(self.ground.clear(view.x, view.y) for view in views):
                raise NoWay
            self.actions.append(action)
            self.views += views
            self._here = views[-1]

    def explore(self, num_chunks: int, memory: bool = True, build: bool = True) -> None:
        """Append chunks of a random walk that likes open views.

        Args:
            num_chunks: how many.
            memory: now and then take chunks back, or turn once around.
            build: now and then place a block.

        Raises:
            NoWay: no action leads on.
        """
        first = len(self.actions)
        while len(self.actions) < first + num_chunks:
            left = first + num_chunks - len(self.actions)
            draw = self._rng.random()
            if memory and draw < _UNDO_CHANCE:
                self.take_back(min(left, int(self._rng.integers(1, _MAX_UNDO + 1))), first)
            elif memory and draw < _UNDO_CHANCE + _ROUND_CHANCE and left >= 8:
                self.follow([("turn left", "turn right")[int(self._rng.integers(2))]] * 8)
            elif build and draw > 1 - _EDIT_CHANCE and self.can_build():
                self.place_block()
            else:
                self.follow([self._choose()])

    def take_back(self, count: int, first: int = 1) -> None:
        """Append the reverse of the last chunks, back to chunk `first` at most; blocks stay."""
        done = self.actions[max(first, len(self.actions) - count) :]
        moves = [action for action in done if action in _REVERSE]
        if len(moves) == len(done):
            self.follow([undo(action) for action in reversed(done)])

    def can_build(self) -> bool:
        """Whether a block can be placed or dug straight ahead, in full view."""
        x, y = self._ahead()
        cell = self.ground.cell(x, y)
        if self._here.pitch != 0 or cell is None or self.ground.heights[cell] == NOBODY:
            return False
        step = self.ground.heights[cell] - self.ground.height(self._here.x, self._here.y)
        return (
            -1 <= step <= 0.5 and self.ground.view(self._here.x, self._here.y, self._here.yaw) > 3
        )

    def place_block(self) -> None:
        """Append the chunk in which a wool block is placed straight ahead."""
        colour = COLOURS[int(self._rng.integers(len(COLOURS)))]
        x, y, height = self._block_ahead()
        self._edit(f"place a {colour} wool block", (x, height + 1, y), f"wool:{colour}")

    def dig_block(self) -> None:
        """Append the chunk in which the topmost block straight ahead is dug out."""
        x, y, height = self._block_ahead()
        name = str(self.ground.tops[y - self.ground.y, x - self.ground.x])
        self.edits.append(Edit(len(self.views) + EDIT_FRAME, (x, height + 1, y), "air"))
        self._edit(f"dig a {block_words(name)} block", (x, height, y), "air")

    def come_back(self) -> None:
        """Append the reverse of all chunks but the first; what was built is taken back too."""
        last = len(self.views) - 1
        self.actions += [undo(action) for action in reversed(self.actions[1:])]
        self.edits += [Edit(2 * last - e.frame + 1, e.place, None) for e in reversed(self.edits)]
        self.views += self.views[-2 : CHUNK_FRAMES - 2 : -1]
        self._here = self.views[-1]

    def _edit(self, action: str, place: Place, node: str) -> None:
        self.edits.append(Edit(len(self.views) + EDIT_FRAME, place, node))
        self.ground = self.ground.built(place[0], place[2])
        self.follow([action])

    def _block_ahead(self) -> tuple[int, int, int]:
        x, y = self._ahead()
        cell = self.ground.cell(x, y)
        assert cell is not None
        return round(x), round(y), int(self.ground.heights[cell])

    def _ahead(self) -> tuple[float, float]:
        heading = np.radians(self._here.yaw)
        return (
            self._here.x + _REACH * float(np.cos(heading)),
            self._here.y + _REACH * float(np.sin(heading)),
        )

    def _start(self) -> View:
        rows, columns = self.ground.heights.shape
        for _ in range(_TRIES):
            row, column = (
                int(self._rng.integers(size // 4, size - size // 4)) for size in (rows, columns)
            )
            x, y = float(self.ground.x + column), float(self.ground.y + row)
            yaw = float(self._rng.integers(64)) * TURN_DEGREES
            if self.ground.clear(x, y) and self.ground.view(x, y, yaw) >= 3 * MIN_VIEW:
                return View(x, y, yaw)
        raise NoWay

    def _choose(self) -> str:
        names = (*_WEIGHTS, *_LOOKS)
        weights = np.array([self._weight(action) for action in names])
        if weights.sum() == 0:
            raise NoWay
        return names[int(self._rng.choice(len(names), p=weights / weights.sum()))]

    def _weight(self, action: str) -> float:
        """How welcome an action is here; 0 where there is no room or it takes the last one back."""
        views = move(self._here, action)
        end = views[-1]
        last = self.actions[-1] if self.actions else ""
        if action in _LOOKS:
            if abs(end.pitch) > _MAX_LOOK:
                return 0.0
            return _LEVEL_WEIGHT if end.pitch == 0 else _LOOK_WEIGHT
        if last in _REVERSE and undo(action) == last:
            return 0.0
        if not all(self.ground.clear(view.x, view.y) for view in views):
            return 0.0
        way = self.ground.view(end.x, end.y, end.yaw)
        again = 1.5 if action == last and action in _TURNS else 1.0
        return _WEIGHTS[action] * again * (way / MAX_VIEW if way >= MIN_VIEW else 0.05)


def explore(ground: Ground, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Walk about, look up and down, take ways back, place blocks."""
    planner = Planner(ground, rng)
    planner.explore(num_chunks)
    return planner.walk()


def there_and_back(ground: Ground, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Explore for n+1 chunks, then come back by the n reverse actions; `num_chunks` = 2n+1."""
    planner = Planner(ground, rng)
    planner.explore(num_chunks // 2 + 1, memory=False)
    planner.come_back()
    return planner.walk()


def landmark(ground: Ground, rng: np.random.Generator, num_chunks: int) -> Walk:
    """Build something, lose sight of it, come back to it: is it still there?

    A chunk of walking and one of placing (or digging) a block; then once around where there is time,
    or half around; then out and back by reverse actions. `num_chunks` is even, from 12 on.
    """
    planner = Planner(ground, rng)
    planner.follow(["walk forward"])
    if not planner.can_build():
        raise NoWay
    if rng.random() < 0.7:
        planner.place_block()
    else:
        planner.dig_block()
    turn = ("turn left", "turn right")[int(rng.integers(2))]
    left = num_chunks - 2
    if left >= 12 and rng.random() < 0.5:
        planner.follow([turn] * 8)
        left -= 8
    first = len(planner.actions)
    planner.follow([turn] * min(4, left // 2))
    planner.explore(left // 2 - min(4, left // 2), memory=False, build=False)
    planner.take_back(left // 2, first)
    return planner.walk()


def block_words(node: str) -> str:
    """A block's name without its mod: "default:desert_sand" is "desert sand"."""
    return node.split(":")[-1].replace("_", " ")


def states(walk: Walk) -> list[frozenset[tuple[Place, str]]]:
    """What differs from the untouched world in each frame."""
    built: dict[Place, str] = {}
    found, edits = [], sorted(walk.edits, key=lambda edit: edit.frame)
    for frame in range(len(walk.views)):
        for edit in edits:
            if edit.frame == frame and edit.node is None:
                built.pop(edit.place, None)
            elif edit.frame == frame and edit.node is not None:
                built[edit.place] = edit.node
        found.append(frozenset(built.items()))
    return found


def revisits(walk: Walk) -> list[tuple[int, int]]:
    """Pairs (first frame, later frame) with the same view of the same blocks; something differs between."""
    first: dict[object, int] = {}
    left: dict[object, int] = {}
    pairs = []
    before: object = None
    for frame, (view, state) in enumerate(zip(walk.views, states(walk), strict=True)):
        turn, look = round(view.yaw / TURN_DEGREES) % 64, round(view.pitch / LOOK_DEGREES)
        seen = (round(view.x, 3), round(view.y, 3), turn, look, state)
        if seen != before:
            left[before] = frame
        if seen in left:
            pairs.append((first[seen], frame))
        first.setdefault(seen, frame)
        before = seen
    return pairs
