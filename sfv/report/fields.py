"""Take fields out of what a JSON file holds; an error names the place."""

from collections.abc import Mapping
from typing import Any


def number(value: Any, where: str) -> float | None:
    """Return a number, or None for null.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{where} is {value!r}: it must be a number, or null where none was measured.")


def field_of(raw: Any, name: str, where: str) -> Any:
    """Return a field of an object.

    Raises:
        ValueError: it is no object, or has no such field.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} must be an object with {name!r}, got {kind(raw)}.")
    if name not in raw:
        raise ValueError(f"{where} has no {name!r}; it has {sorted(map(str, raw))}.")
    return raw[name]


def mapping_of(raw: Any, name: str, where: str) -> Mapping[str, Any]:
    """Return a field that is an object itself.

    Raises:
        ValueError: it is missing or something else.
    """
    value = field_of(raw, name, where)
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}.{name} must be an object, got {kind(value)}.")
    return value


def kind(value: Any) -> str:
    """Say what something is instead of what it should be."""
    return f"{type(value).__name__} {value!r:.60}"
