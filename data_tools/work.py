"""One attempt at one item, in the process that does the work."""

import errno
import faulthandler
import hashlib
import importlib
import json
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data_tools.journal import Role, writer_of

Work = Callable[[Any, dict[str, Any]], Any]
Cluster = Literal["local", "slurm", "none"]
CLUSTERS: tuple[str, ...] = get_args(Cluster)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
GRACE_S = 0.2
"""Seconds after the time limit in which a command may still say why it ends."""

BEGUN = "begun"
"""Folder of a journal with an empty file for each attempt of this driver's workers."""


class Skip(Exception):
    """An item is left out on purpose; it is not tried again.

    Args:
        reason: in words that can be counted, the same for all items left out on this ground.
        detail: about this item: the value that was measured.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class Slurm:
    """What a SLURM job of one worker asks for.

    Args:
        queue: partition; None for the cluster's default.
        account: to charge; None for the user's default.
        memory_gb: of a worker, 10^9 bytes.
        walltime_min: minutes; workers retire some minutes before and are replaced.
        extra: more lines of the job script, each after `#SBATCH`.
    """

    queue: str | None = None
    account: str | None = None
    memory_gb: float = 8.0
    walltime_min: int = 120
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """An attempt.

    Args:
        function: `module:name`, imported where the work is done.
        key: of the item.
        value: of the item.
        settings: of the run.
        attempt: 1 for the first.
        journal: the folder.
        role: who does the work.
        timeout_s: seconds until the process is ended.
    """

    function: str
    key: str
    value: Any
    settings: dict[str, Any]
    attempt: int
    journal: str
    role: Role
    timeout_s: float


def name_of(function: Work) -> str:
    """Give the name under which another process can import a function.

    Raises:
        ValueError: it is not at the top level of a module.
    """
    module = function.__module__
    if module == "__main__":  # `python -m data_tools.cut`: workers import it by its real name
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec else module
    name = f"{module}:{function.__qualname__}"
    try:
        found = load(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be imported by a worker ({error}); give a function at the top level of "
            "a module"
        ) from error
    assert callable(found)
    return name


def load(name: str) -> Any:
    """Import what `module:name` names.

    Raises:
        ImportError: no such module.
        AttributeError: the module has no such name.
        ValueError: not of this form.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{name!r} is not of the form module:function")
    return getattr(importlib.import_module(module), attribute)


def attempt(task: Task) -> dict[str, Any]:
    """Work on one item and note in the journal that it began and how it ended.

    A C thread ends this process after `timeout_s`, even when the item never lets go of the
    interpreter's lock; the driver then finds the beginning without an end.

    Returns:
        the journal's last line on this attempt: `kept`, `skipped` or `failed`.

    Raises:
        OSError: the disk is full; all other items would fail too.
    """
    function: Work = load(task.function)
    writer = writer_of(task.journal, task.role)
    about = {"key": task.key, "attempt": task.attempt}
    writer.append(about | {"start": task.role})
    teller = threading.Timer(task.timeout_s, _tell, [task])
    if task.role == "driver":
        teller.start()
    faulthandler.enable(writer.trace, all_threads=False)
    faulthandler.dump_traceback_later(task.timeout_s + GRACE_S, exit=True, file=writer.trace)
    try:
        line = about | _outcome(function, task)
    except BaseException:
        writer.append(about | {"released": True})
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        teller.cancel()
    writer.append(line)
    return line


def _tell(task: Task) -> None:
    """Say why the user's own command is about to end; an item that holds the lock prevents it."""
    print(
        f"error: {task.key} hung beyond --timeout {task.timeout_s:g} s (attempt {task.attempt}) and "
        "ends this command; go on with --resume, or give more --workers to have it contained",
        file=sys.stderr,
    )


def attempt_once(task: Task) -> dict[str, Any] | None:
    """Make an attempt, unless some worker began it already; None then."""
    name = hashlib.blake2b(repr((task.key, task.attempt)).encode(), digest_size=16).hexdigest()
    mark = Path(task.journal) / BEGUN / name[:2] / name
    mark.parent.mkdir(parents=True, exist_ok=True)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # a crash is expected; its trace is enough
    return attempt(task)


def skip_line(folder: Path, key: str, attempt: int, reason: str, detail: str) -> dict[str, Any]:
    """Note in the journal that an item is given up after so many attempts."""
    line = {"key": key, "attempt": attempt, "skipped": reason, "detail": detail}
    writer_of(str(folder.resolve()), "driver").append(line)
    return line


def _outcome(function: Work, task: Task) -> dict[str, Any]:
    try:
        result = function(task.value, task.settings)
        json.dumps(result, allow_nan=False)
        return {"kept": result}
    except Skip as skip:
        return {"skipped": skip.reason, "detail": skip.detail}
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        text = " ".join(str(error).split())
        return {"failed": f"raised {type(error).__name__}", "detail": text[:500]}
