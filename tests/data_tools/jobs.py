"""Work for the tests of `map_shards`: each function misbehaves in one way, for real."""

import ctypes
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from data_tools.work import Skip


def double(value: Any, settings: dict[str, Any]) -> Any:
    """Leave one line for each call that came to its end."""
    if value == "crash":
        ctypes.string_at(0)
    if value == "hang":
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the interpreter's lock
    if value == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if value == "raise":
        raise ValueError("no number\nat all")
    if value == "skip":
        raise Skip("not wanted", "it is skip")
    if value == "object":
        return object()
    if value == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if value == "flaky" and not _seen(Path(settings["log"]) / "flaky"):
        raise ValueError("only once")
    if value == "driver":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    with (Path(settings["log"]) / "done").open("a") as file:
        file.write(f"{value}\n")
    return value * 2


def _seen(path: Path) -> bool:
    before = path.exists()
    path.touch()
    return before
