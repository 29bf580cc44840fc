"""Work for the tests of `map_shards`: each value misbehaves in one way, for real."""

import ctypes
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from data_tools.mapping import map_shards
from data_tools.work import Skip


def double(value: Any, settings: dict[str, Any]) -> Any:
    """Leave one line for each call that came to its end."""
    log = Path(settings["log"])
    once = isinstance(value, str) and value.endswith(" once")
    if not (once and seen(log / value)):
        misbehave(value.removesuffix(" once") if once else value)
    if value == "object":
        return object()
    with (log / "done").open("a") as file:
        file.write(f"{value}\n")
    return value * 2


def misbehave(value: Any) -> None:
    if value == "crash":
        ctypes.string_at(0)
    if value == "hang":
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the interpreter's lock
    if value == "sleep":
        time.sleep(60)
    if value == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if value == "kill the driver":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if value == "raise":
        raise ValueError("no number\nat all")
    if value == "skip":
        raise Skip("not wanted", "it is skip")
    if value == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if value == "interrupt":
        raise KeyboardInterrupt


def seen(path: Path) -> bool:
    before = path.exists()
    path.touch()
    return before


def main(folder: str, cluster: Any, resume: str, *values: str) -> None:
    """Run in a process of its own: values that are numbers become some."""
    items = {f"i{i:02d}": int(v) if v.isdigit() else v for i, v in enumerate(values)}
    results = map_shards(
        double, items, journal=Path(folder) / "journal", settings={"log": folder}, cluster=cluster,
        workers=2, timeout_s=1.0, resume=resume == "resume",
    )  # fmt: skip
    loaded = [name for name in ("dask", "distributed", "torch") if name in sys.modules]
    print(json.dumps(results.account() | {"loaded": loaded}))


if __name__ == "__main__":
    main(*sys.argv[1:])
