"""Which code measured a value: the version of this package, with the commit where there is one."""

import functools
import subprocess
from pathlib import Path

import sfv


def version_of(version: str, root: Path) -> str:
    """Join a version and the commit of the checkout at `root`, as PEP 440 writes it.

    Args:
        version: of the package.
        root: folder that holds the package.

    Returns:
        `VERSION+gCOMMIT` in a checkout, with `.dirty` behind it where tracked files were changed;
        `VERSION` where the package is installed without its history.
    """
    if not (root / ".git").exists():
        return version
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return version
    return f"{version}+g{done.stdout.strip()}" if done.returncode == 0 else version


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Version and commit of the running package; asked once a process."""
    return version_of(sfv.__version__, Path(sfv.__file__).parents[1])


def public(version: str) -> str:
    """A version without its commit."""
    return version.partition("+")[0]
