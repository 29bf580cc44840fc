"""Where a world model lies: a folder, a run that holds one, or one that comes with the package."""

from pathlib import Path

MODEL_FILE = "model.json"
REFERENCE = "reference"
SHIPPED = Path(__file__).parents[1] / REFERENCE
START, ACTIONS = "start.mp4", "actions.txt"
"""Beside a model: the first frames of a walk, and actions to go on with."""


def find_model(given: str | Path) -> Path:
    """The folder of a world model.

    Args:
        given: that folder; a run's folder, which holds it as `model`; or `reference`, the checkpoint that
            comes with the package (a folder of that name comes first).

    Raises:
        FileNotFoundError: there is no world model.
    """
    folder = Path(given)
    if str(given) == REFERENCE and not folder.exists():
        folder = SHIPPED
    for candidate in (folder, folder / "model"):
        if (candidate / MODEL_FILE).is_file():
            return candidate
    raise FileNotFoundError(
        f"{given} holds no world model (no {MODEL_FILE}); give the folder of a finished run, its `model` "
        f"folder, or {REFERENCE} for the checkpoint that comes with sfv"
    )


def find_example(given: str | Path) -> tuple[Path, Path] | None:
    """First frames and actions that lie beside a world model; None where there are none."""
    folder = find_model(given).parent
    found = folder / START, folder / ACTIONS
    return found if all(path.is_file() for path in found) else None
