"""A screen in memory: start Xvfb on a display of its own and read what is drawn there."""

import mmap
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_COLOUR_BYTES = 12
"""Of one entry in an XWD file's colour table."""


@dataclass(frozen=True)
class Screen:
    """A running Xvfb.

    Args:
        display: what `DISPLAY` has to be for programs that draw here.
        memory: the mapped XWD file: header, colour table, rows of BGRX pixels.
        layout: bytes before the pixels, width, height, bytes a row.
    """

    display: str
    memory: mmap.mmap
    layout: tuple[int, int, int, int]

    def picture(self) -> NDArray[np.uint8]:
        """Copy what is on the screen now, `height width 3`, RGB."""
        start, width, height, row_bytes = self.layout
        rows = np.frombuffer(self.memory, np.uint8, row_bytes * height, start)
        pixels = rows.reshape(height, row_bytes)[:, : 4 * width].reshape(height, width, 4)
        return pixels[..., 2::-1].copy()


@contextmanager
def open_screen(width: int, height: int) -> Iterator[Screen]:
    """Start Xvfb on a free display; it ends with this context, or when this process is killed.

    Raises:
        OSError: Xvfb did not start.
    """
    with tempfile.TemporaryDirectory(prefix="sfv-screen-") as folder:
        reader, writer = os.pipe()
        size = f"{width}x{height}x24"
        command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", size, "-fbdir", folder]
        with running([*command, "-nolisten", "tcp", "+extension", "GLX"], keep=writer) as process:
            os.close(writer)
            with os.fdopen(reader) as pipe:
                number = pipe.readline().strip()  # comes when the screen is up; empty if it died
            if not number:
                raise OSError(f"Xvfb ended with code {process.wait()} before its screen was up")
            with (Path(folder) / "Xvfb_screen0").open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                yield Screen(f":{number}", memory, _layout(memory))


def _layout(memory: mmap.mmap) -> tuple[int, int, int, int]:
    """Read the XWD header: big-endian, its own size first."""
    header = struct.unpack(">25I", memory[:100])
    header_size, width, height, row_bytes, num_colours = (header[i] for i in (0, 4, 5, 12, 19))
    return header_size + num_colours * _COLOUR_BYTES, width, height, row_bytes


@contextmanager
def running(
    command: Sequence[str], env: dict[str, str] | None = None, keep: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that ends with this context, also when this very process is killed.

    Args:
        command: program and arguments.
        env: its environment; None: this one.
        keep: a file descriptor that it inherits.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        env=env,
        pass_fds=() if keep is None else (keep,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: str, done: Path, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a file appears.

    Raises:
        OSError: the process ended, or the time is over.
    """
    end = time.monotonic() + seconds
    while not done.exists():
        if process.poll() is not None:
            raise OSError(f"{what} ended with code {process.returncode} while it started")
        if time.monotonic() > end:
            raise OSError(f"{what} was not ready after {seconds:g} s")
        time.sleep(0.02)
