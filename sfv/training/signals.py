"""Requests to stop, as flags: a handler notes the signal, training looks at the next step's border.

Nothing else is safe in a handler: it may run inside a collective operation, an import or a write.
This module imports no torch, so that it catches signals before the seconds that importing takes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Request = Literal["requeue", "stop"]

REQUEUE_EXIT = 75
"""Exit code after `requeue`: saved, start me again (EX_TEMPFAIL of sysexits.h)."""

STOP_EXIT = 128 + signal.SIGTERM
"""Exit code after `stop`: saved; whoever sent SIGTERM has decided what comes next."""

MEANING: dict[signal.Signals, Request] = {
    signal.SIGUSR1: "requeue",  # the job's time is nearly up (sbatch --signal)
    signal.SIGTERM: "stop",  # pre-emption, which requeues by itself, or scancel, which does not
}

_received: set[Request] = set()


def received(request: Request) -> bool:
    """Whether this process was asked so."""
    return request in _received


def note(number: int, frame: object = None) -> None:
    """The handler: remember what was asked."""
    _received.add(MEANING[signal.Signals(number)])


def install() -> None:
    """Put the handlers in place, also of others that came later; only a main thread can."""
    if threading.current_thread() is threading.main_thread():
        for number in MEANING:
            signal.signal(number, note)


@contextmanager
def caught() -> Iterator[None]:
    """Catch the signals for the time of a run, then forget them and leave things as they were."""
    before = {number: signal.getsignal(number) for number in MEANING}
    _received.clear()
    install()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        _received.clear()
