"""Where models lie: a folder, a run that holds one, or those that come with the package."""

import hashlib
import json
from pathlib import Path
from typing import Any

MODEL_FILE, CHECKSUM = "model.json", "checksum"
REFERENCE = "reference"
SHIPPED = {
    REFERENCE: Path(__file__).parents[1] / "reference",
    "reference-doom": Path(__file__).parents[1] / "reference_doom",
}
"""Models that come with the package: of plain mazes, and of Doom levels."""
INVERSE, INVERSE_FILE = "inverse", "inverse_dynamics.safetensors"
SHOWN, ACTIONS = "shown.mp4", "actions.txt"
"""Beside a model: a walk to be shown, and the actions of its chunks after the first, then new ones."""


def find_model(given: str | Path) -> Path:
    """The folder of a world model.

    Args:
        given: that folder; a run's folder, which holds it as `model`; or a name in `SHIPPED`, a checkpoint
            that comes with the package (a folder of that name comes first).

    Raises:
        FileNotFoundError: there is no world model.
    """
    return _find(given, MODEL_FILE, "", "world model")


def find_inverse(given: str | Path) -> Path:
    """The folder of an inverse dynamics model, given as in `find_model`.

    Raises:
        FileNotFoundError: there is none.
    """
    return _find(given, INVERSE_FILE, INVERSE, "inverse dynamics model")


def find_example(given: str | Path) -> tuple[Path, Path] | None:
    """A walk to be shown and actions that lie beside a world model; None where there are none."""
    folder = find_model(given).parent
    found = folder / SHOWN, folder / ACTIONS
    return found if all(path.is_file() for path in found) else None


def _find(given: str | Path, file: str, inside: str, what: str) -> Path:
    folder = Path(given)
    if str(given) in SHIPPED and not folder.exists():
        folder = SHIPPED[str(given)] / inside
    for candidate in (folder, folder / "model"):
        if (candidate / file).is_file():
            return candidate
    raise FileNotFoundError(
        f"{given} holds no {what} (no {file}); give the folder of a finished run, its `model` "
        f"folder, or one that comes with sfv: {', '.join(SHIPPED)}"
    )


def checksum_of(description: dict[str, Any]) -> str:
    """Of all of `model.json` but the checksum itself."""
    rest = {name: value for name, value in description.items() if name != CHECKSUM}
    return hash_of(json.dumps(rest, sort_keys=True).encode())


def hash_of(content: bytes) -> str:
    """First 16 hex digits of the sha256."""
    return hashlib.sha256(content).hexdigest()[:16]
