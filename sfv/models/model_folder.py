"""Where models lie: a folder, a run that holds one, or those that come with the package."""

import hashlib
import json
from pathlib import Path
from typing import Any

MODEL_FILE, CHECKSUM = "model.json", "checksum"
REFERENCE = "reference"
SHIPPED = Path(__file__).parents[1] / REFERENCE
INVERSE, INVERSE_FILE = "inverse", "inverse_dynamics.safetensors"
SHOWN, ACTIONS = "shown.mp4", "actions.txt"
"""Beside a model: a walk to be shown, and the actions of its chunks after the first, then new ones."""


def find_model(given: str | Path) -> Path:
    """The folder of a world model.

    Args:
        given: that folder; a run's folder, which holds it as `model`; or `reference`, the checkpoint that
            comes with the package (a folder of that name comes first).

    Raises:
        FileNotFoundError: there is no world model.
    """
    return _find(given, MODEL_FILE, SHIPPED, "world model")


def find_inverse(given: str | Path) -> Path:
    """The folder of an inverse dynamics model, given as in `find_model`.

    Raises:
        FileNotFoundError: there is none.
    """
    return _find(given, INVERSE_FILE, SHIPPED / INVERSE, "inverse dynamics model")


def find_example(given: str | Path) -> tuple[Path, Path] | None:
    """A walk to be shown and actions that lie beside a world model; None where there are none."""
    folder = find_model(given).parent
    found = folder / SHOWN, folder / ACTIONS
    return found if all(path.is_file() for path in found) else None


def _find(given: str | Path, file: str, shipped: Path, what: str) -> Path:
    folder = Path(given)
    if str(given) == REFERENCE and not folder.exists():
        folder = shipped
    for candidate in (folder, folder / "model"):
        if (candidate / file).is_file():
            return candidate
    raise FileNotFoundError(
        f"{given} holds no {what} (no {file}); give the folder of a finished run, its `model` "
        f"folder, or {REFERENCE} for the one that comes with sfv"
    )


def checksum_of(description: dict[str, Any]) -> str:
    """Of all of `model.json` but the checksum itself."""
    rest = {name: value for name, value in description.items() if name != CHECKSUM}
    return hash_of(json.dumps(rest, sort_keys=True).encode())


def hash_of(content: bytes) -> str:
    """First 16 hex digits of the sha256."""
    return hashlib.sha256(content).hexdigest()[:16]
