"""Turn the human games inside the package overcooked-ai into JSON, once, as a step of its own.

    pip download --no-deps --no-binary :all: --require-hashes -r requirements/overcooked.txt -d .
    python -m data_tools.collect.overcooked_export overcooked_ai-1.1.0.tar.gz --out data/overcooked/games

The package keeps the games as pickles, and a pickle can run any code when it is read. So the file's
hash is checked first, and the reader knows eight names only: five of NumPy's arrays, which hold data,
and three of pandas', for which empty stand-ins are used; pandas itself is not needed. Everything
after this step, `data_tools.collect.overcooked` too, reads JSON and pictures alone.
"""

import argparse
import ast
import hashlib
import io
import json
import pickle
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sfv.data.schema import SchemaError
from sfv.files import write_bytes
from sfv.texts import printable

SHA256 = "478bf319274bdb6c5bede8048ee901d088912353111ab85e9fb2bf389c6ccddf"
SOURCE = "source.json"
STEP_SECONDS = 0.15
"""Median time between two steps of a game."""

_ROOT = "overcooked_ai-1.1.0/src/overcooked_ai_py/data"
_GAMES = {"train": "clean_train_trials.pickle", "test": "clean_test_trials.pickle"}
_SHEETS = ("chefs", "objects", "soups", "terrain")
_GAME_KEYS = ("workerid_num", "layout_name", "run", "round_num")


class StandIn:
    """Takes the place of a pandas object: keeps what it was built from, and does nothing."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _index_data(_: Any, fields: dict[str, Any]) -> Any:
    """An index of a table is no more than its entries."""
    return fields["data"]


def _known_names() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct  # NumPy's own way to read an array back

    return {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("pandas.core.frame", "DataFrame"): StandIn,
        ("pandas.core.internals.managers", "BlockManager"): StandIn,
        ("pandas.core.indexes.base", "_new_Index"): _index_data,
        ("pandas.core.indexes.base", "Index"): StandIn,
        ("pandas.core.indexes.numeric", "Int64Index"): StandIn,
    }


class TableReader(pickle.Unpickler):
    """Reads a pickled table of pandas and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _known_names()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which no table needs; it was not run"
            ) from None


def read_table(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Give the columns of a pickled table.

    Raises:
        pickle.UnpicklingError: it asks for anything but a table's parts.
    """
    frame = TableReader(io.BytesIO(data)).load()
    _, values, names, *_ = frame.state["_data"].state
    return {
        str(name): block[row]
        for block, items in zip(values, names, strict=True)
        for row, name in enumerate(items)
    }


def games(columns: dict[str, np.ndarray[Any, Any]], split: str) -> Iterator[dict[str, Any]]:
    """Go through the games of a table, each as one JSON object without the players' numbers."""
    rows: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*(columns[name] for name in _GAME_KEYS), strict=True)):
        rows.setdefault(key, []).append(row)
    count: dict[str, int] = {}
    for chosen in rows.values():
        layout = str(columns["layout_name"][chosen[0]])
        number = count.setdefault(layout, 0)
        count[layout] += 1
        states = [columns["state"][row] for row in chosen] + [columns["next_state"][chosen[-1]]]
        yield {
            "game": f"{layout}-{split}-{number:02d}",
            "layout": layout,
            "split": split,
            "step_seconds": STEP_SECONDS,
            "terrain": _terrain(columns["layout"][chosen[0]]),
            "states": [_state(ast.literal_eval(text)) for text in states],
            "actions": [ast.literal_eval(columns["joint_action"][row]) for row in chosen],
            "score": [int(columns["score"][row]) for row in chosen],
        }


def _terrain(text: str) -> list[str]:
    """The floor plan without the players' starting places."""
    return [row.replace("1", " ").replace("2", " ") for row in ast.literal_eval(text)]


def _state(given: dict[str, Any]) -> dict[str, Any]:
    players = [
        {
            "at": player["position"],
            "facing": player["orientation"],
            "holds": _thing(player["held_object"]) if "held_object" in player else None,
        }
        for player in given["players"]
    ]
    return {"players": players, "things": [_thing(thing) for thing in given["objects"].values()]}


def _thing(given: dict[str, Any]) -> dict[str, Any]:
    thing = {"name": given["name"], "at": list(given["position"])}
    if "state" in given:
        kind, count, cooked = given["state"]
        thing["soup"] = [kind, count, cooked]
    return thing


def export(sdist: Path, out: Path) -> dict[str, int]:
    """Write every game as `GAME.json`, and the sprites.

    Returns:
        number of games by split.

    Raises:
        SchemaError: the file is another one, or games stand in `out` already.
    """
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        raise SchemaError(f"{sdist}: sha256 is {found}, overcooked_ai-1.1.0.tar.gz has {SHA256}")
    if (out / SOURCE).exists():
        raise SchemaError(f"{out}: holds the games already; remove it to export again")
    count = dict.fromkeys(_GAMES, 0)
    with tarfile.open(sdist) as archive:
        for split, name in _GAMES.items():
            columns = read_table(_member(archive, f"human_data/{name}"))
            for game in tqdm(games(columns, split), desc=f"games ({split})"):
                text = json.dumps(game, separators=(",", ":"))
                write_bytes(out / f"{game['game']}.json", text.encode())
                count[split] += 1
        for sheet in _SHEETS:
            for end in ("png", "json"):
                data = _member(archive, f"graphics/{sheet}.{end}")
                write_bytes(out / "sprites" / f"{sheet}.{end}", data)
    source = {"file": "overcooked_ai-1.1.0.tar.gz", "sha256": SHA256, "games": count}
    write_bytes(out / SOURCE, json.dumps(source).encode())
    return count


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"{_ROOT}/{name}")
    if file is None:
        raise SchemaError(f"{name} is no file in the package")
    return file.read()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.collect.overcooked_export",
        description="Turn the human games inside overcooked_ai-1.1.0.tar.gz into JSON.",
    )
    p.add_argument("sdist", type=Path, help="the file from pip download; its hash is checked")
    p.add_argument("--out", type=Path, required=True, help="folder for GAME.json and sprites/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        count = export(args.sdist, args.out)
    except (SchemaError, OSError, pickle.UnpicklingError, tarfile.TarError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(f"{sum(count.values())} games ({count}) in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
