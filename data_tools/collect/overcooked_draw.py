"""Draw a state of the kitchen with the game's own sprites."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 15
"""Pixels of a sprite."""

COOK_TIME = 20
"""Steps until a full soup is ready."""

_FULL_POT = 3
_COUNTER = (155, 101, 0)
_TILES = {
    " ": "floor", "X": "counter", "O": "onions", "T": "tomatoes", "P": "pot", "D": "dishes",
    "S": "serve",
}  # fmt: skip
_FACING = {(0, -1): "NORTH", (0, 1): "SOUTH", (1, 0): "EAST", (-1, 0): "WEST"}


class Sprites:
    """The sheets of sprites in a folder.

    Args:
        folder: `sprites` as `overcooked_export` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self._sheets: dict[str, Image.Image] = {}
        self._places: dict[str, dict[str, tuple[int, int]]] = {}
        for sheet in ("chefs", "objects", "soups", "terrain"):
            with Image.open(folder / f"{sheet}.png") as image:
                self._sheets[sheet] = image.convert("RGBA")
            self._places[sheet] = _places(json.loads((folder / f"{sheet}.json").read_text()))

    def paste(self, canvas: Image.Image, sheet: str, name: str, at: Sequence[int]) -> None:
        """Put a sprite on a tile."""
        x, y = self._places[sheet][name]
        sprite = self._sheets[sheet].crop((x, y, x + TILE, y + TILE))
        canvas.alpha_composite(sprite, (at[0] * TILE, at[1] * TILE))

    def draw(
        self, state: dict[str, Any], terrain: Sequence[str], actor: int, size: int
    ) -> NDArray[np.uint8]:
        """Draw a state as `size size 3`; the actor wears the blue hat, the other cook a green one.

        The kitchen is fitted in and keeps its shape; above and below it is counter.
        """
        canvas = Image.new("RGBA", (len(terrain[0]) * TILE, len(terrain) * TILE))
        for y, row in enumerate(terrain):
            for x, tile in enumerate(row):
                self.paste(canvas, "terrain", _TILES[tile], (x, y))
        for number, player in enumerate(state["players"]):
            self._player(canvas, player, "blue" if number == actor else "green")
        for thing in state["things"]:
            if "soup" in thing:
                in_pot = terrain[thing["at"][1]][thing["at"][0]] == "P"
                self.paste(canvas, "soups", _soup(thing["soup"], in_pot), thing["at"])
            else:
                self.paste(canvas, "objects", thing["name"], thing["at"])
        return _fit(canvas.convert("RGB"), size)

    def _player(self, canvas: Image.Image, player: dict[str, Any], hat: str) -> None:
        facing = _FACING[tuple(player["facing"])]
        holds = player["holds"]
        held = "" if holds is None else f"-{holds['name']}"
        if holds is not None and "soup" in holds:
            held = f"-soup-{holds['soup'][0]}"
        self.paste(canvas, "chefs", facing + held, player["at"])
        self.paste(canvas, "chefs", f"{facing}-{hat}hat", player["at"])


def _places(sheet: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Where each sprite lies on its sheet, in both formats that the game has."""
    if "textures" in sheet:
        frames = {item["filename"]: item for item in sheet["textures"][0]["frames"]}
    else:
        frames = sheet["frames"]
    return {
        name.removesuffix(".png"): (item["frame"]["x"], item["frame"]["y"])
        for name, item in frames.items()
    }


def _soup(soup: Sequence[Any], in_pot: bool) -> str:
    kind, count, cooked = soup
    ready = count == _FULL_POT and cooked >= COOK_TIME
    look = ("cooked" if ready else "idle") if in_pot else "done"
    tomatoes, onions = (count, 0) if kind == "tomato" else (0, count)
    return f"soup_{look}_tomato_{tomatoes}_onion_{onions}"


def _fit(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (size, size), _COUNTER)
    small = picture.resize((width, height), Image.Resampling.BOX)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)
