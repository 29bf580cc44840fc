"""Versions of simulators, for the names of worlds."""

from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str:
    """A package's version; says so where it is not installed, which its first use refuses."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
