"""What `pip install sfv` leaves out: packages that only some commands need."""

import sys
from importlib.util import find_spec


class MissingExtra(ValueError):
    """A package of an extra is not installed; the message holds the line that installs it."""


def require(extra: str, what: str, *packages: str) -> None:
    """Check for packages before work begins.

    Args:
        extra: the extra of `setup.cfg` that brings them.
        what: what needs them, as a subject in the plural ("sweeps").
        packages: names to import.

    Raises:
        MissingExtra: names what is missing and how to get it.
    """
    missing = [name for name in packages if sys.modules.get(name, 0) is None or not find_spec(name)]
    if missing:
        raise MissingExtra(
            f"{what} need {' and '.join(missing)}, which is not installed; run: pip install 'sfv[{extra}]'"
        )
