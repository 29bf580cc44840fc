"""All visitors of one server: who they are, whose turn it is, when they have gone.

Everything here runs on the event loop, except the model: one thread makes one chunk at a time, in the
order in which they were asked for. A visitor waits for one chunk at most, so each gets every n-th.
"""

import asyncio
import base64
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sfv.play.actions import Actions
from sfv.play.describe import describe_nodes
from sfv.play.player import Player, Progress, Stopped, Task
from sfv.play.session import Node, Visit
from sfv.play.starts import Start
from sfv.texts import printable

HEARTBEAT_S = 10
MAX_STREAMS = 4
MAX_WAITING_EVENTS = 200
Event = dict[str, Any]


class NoVisit(ValueError):
    """The visitor is not, or no longer, known."""


class Busy(ValueError):
    """It cannot be done while a chunk is being made."""


class Full(ValueError):
    """No further visitor can be taken in."""


@dataclass(frozen=True)
class Limits:
    """What visitors may take.

    Args:
        visitors: at a time.
        chunks: each, at a time.
        idle_s: seconds without a request after which a visitor is dropped.
    """

    visitors: int = 4
    chunks: int = 64
    idle_s: int | float = 1800

    def __post_init__(self) -> None:
        if self.visitors < 1 or self.chunks < 1 or self.idle_s <= 0:
            raise ValueError(
                f"--visitors is {self.visitors}, --chunks is {self.chunks}, --idle-minutes is "
                f"{self.idle_s / 60:g}; allowed: at least 1, at least 1, above 0"
            )


@dataclass(eq=False)
class Job:
    """A chunk on its way."""

    task: Task
    parent: int
    progress: Progress | None = None


@dataclass(eq=False)
class Visitor:
    """Somebody with a browser.

    Args:
        visit: what they have made.
        start: which of the server's starts it began with.
        serial: counts their visits; numbers of chunks begin anew with each.
        seen: when they last asked for something.
        job: the chunk they wait for.
        streams: one a page that is open.
    """

    visit: Visit
    start: int
    serial: int
    seen: float
    job: Job | None = None
    streams: set["asyncio.Queue[Event]"] = field(default_factory=set)


class Hall:
    """Takes visitors in and serves them.

    Args:
        player: makes chunks.
        starts: what visits can begin with.
        actions: what the model may be told.
        limits: of visitors.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        player: Player,
        starts: Sequence[Start],
        actions: Actions,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.player, self.starts, self.actions = player, starts, actions
        self.limits, self.clock = limits, clock
        self.pictures = [player.strip(start.latents) for start in starts]
        largest = max(starts, key=lambda start: start.latents.numel())
        self.memory_bytes = player.num_memory_bytes(largest)
        self.visitors: dict[str, Visitor] = {}
        self._jobs: list[Job] = []
        self._serial = self._version = 0
        self._model = ThreadPoolExecutor(1, "model")
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, token: str | None, start: int, memory: Any = "fast") -> str:
        """Begin a visit; who has one already begins anew.

        Args:
            token: of a visitor who may be known.
            start: which.
            memory: what the second panel is made with, as a request names it; `none` leaves it out.

        Returns:
            the token by which the visitor is known.

        Raises:
            ValueError: there is no such start, or no such memory.
            Full: too many visitors.
        """
        if not 0 <= start < len(self.starts):
            raise ValueError(f"there is no start {start}; there are {len(self.starts)}, from 0")
        if memory not in list(self.player.memories):
            raise ValueError(
                f"there is no memory {memory!r:.40}; this model has {', '.join(self.player.memories)}"
            )
        self.sweep()
        known = self.visitors.get(token) if token else None
        if known is None and len(self.visitors) >= self.limits.visitors:
            raise Full(
                f"{len(self.visitors)} visitors are here, the most this server takes (--visitors); come "
                f"back later: idle ones leave after {self.limits.idle_s / 60:g} minutes"
            )
        self._serial += 1
        serial = self._serial
        if token is None or known is None:
            token = secrets.token_urlsafe(32)
        chosen = self.starts[start]
        root = self.player.begin(chosen, self.pictures[start], memory)
        visit = Visit(chosen, root, self.limits.chunks)
        if known is None:
            self.visitors[token] = Visitor(visit, start, serial, self.clock())
        else:
            self._stop(known)
            known.visit, known.start, known.serial = visit, start, serial
            known.seen = self.clock()
            self._tell_state(known)
        return token

    def find(self, token: str | None) -> Visitor:
        """The visitor of a token; they count as present.

        Raises:
            NoVisit: there is none.
        """
        self.sweep()
        visitor = self.visitors.get(token) if token else None
        if visitor is None:
            raise NoVisit(
                "no visit is known for this browser: it has not begun, or it was dropped after "
                f"{self.limits.idle_s / 60:g} idle minutes; choose a start"
            )
        visitor.seen = self.clock()
        return visitor

    def leave(self, token: str) -> None:
        """Drop a visitor and all they have made."""
        visitor = self.visitors.pop(token, None)
        if visitor is not None:
            self._stop(visitor)
            self._tell(visitor, {"kind": "gone"})

    def sweep(self) -> None:
        """Drop idle visitors; who waits for a chunk is not idle."""
        now = self.clock()
        for token, visitor in list(self.visitors.items()):
            if visitor.job is None and now - visitor.seen > self.limits.idle_s:
                self.leave(token)

    def go(self, visitor: Visitor, number: int, action: str) -> None:
        """Make the chunk that an action leads to from `number`, or go to it if it was made before.

        Raises:
            Busy: the visitor waits for a chunk.
            ValueError: no such chunk, or no room.
        """
        self._check_idle(visitor)
        visit = visitor.visit
        visit.node(number)
        if not self._go_to(visitor, visit.child(number, action)):
            visit.check_room()
            self._begin(visitor, number, self.player.task(visit, number, action))

    def show(self, visitor: Visitor, number: int) -> None:
        """Show the chunk of the start's way out that follows `number`, or go to it if it was shown before.

        Raises:
            Busy: the visitor waits for a chunk.
            ValueError: no such chunk, nothing to show there, or no room for the rest of the way.
        """
        self._check_idle(visitor)
        visit = visitor.visit
        action, _ = visit.next_shown(number)
        if not self._go_to(visitor, visit.child(number, action, shown=True)):
            visit.check_room(len(visit.start.shown) - visit.node(number).depth)
            self._begin(visitor, number, self.player.task_to_show(visit, number))

    def rewind(self, visitor: Visitor, number: int) -> None:
        """Move a visitor; a chunk that is being made goes on."""
        visitor.visit.rewind(number)
        self._tell_state(visitor)

    def remove(self, visitor: Visitor, number: int) -> None:
        """Forget a future; a chunk that is being made of it ends."""
        visitor.visit.remove(number)
        if visitor.job is not None and visitor.job.parent not in visitor.visit.nodes:
            self._stop(visitor)
        self._tell_state(visitor)

    def stop(self, visitor: Visitor) -> None:
        """End the chunk that a visitor waits for, at its next sampling step."""
        self._stop(visitor)
        self._tell_state(visitor)

    def state(self, visitor: Visitor) -> Event:
        """All that a page shows of a visit, but the pictures."""
        visit, job = visitor.visit, visitor.job
        return {
            "kind": "state",
            "version": self._next_version(),
            "visit": visitor.serial,
            "start": visitor.start,
            "rows": visit.rows,
            "here": visit.here,
            "nodes": describe_nodes(visit),
            "chunks": {"held": visit.num_chunks, "allowed": visit.max_chunks},
            "job": None if job is None else self._describe_job(job),
        }

    async def listen(self, visitor: Visitor) -> AsyncIterator[Event | None]:
        """What happens to a visitor, the whole state first; None now and then, to show life."""
        events: asyncio.Queue[Event] = asyncio.Queue(MAX_WAITING_EVENTS)
        visitor.streams.add(events)
        try:
            yield self.state(visitor)
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), HEARTBEAT_S)
                except TimeoutError:
                    self.sweep()
                    yield None
                    continue
                yield event
                if event["kind"] == "gone":
                    return
        finally:
            visitor.streams.discard(events)

    def close(self) -> None:
        """End all work, at the next sampling step."""
        for token in list(self.visitors):
            self.leave(token)
        self._model.shutdown(wait=False, cancel_futures=True)

    def _check_idle(self, visitor: Visitor) -> None:
        if visitor.job is not None:
            raise Busy("a chunk is being made; wait for it, or stop it")

    def _go_to(self, visitor: Visitor, there: Node | None) -> bool:
        """Go to a chunk that was made before, if it was."""
        if there is not None:
            self.rewind(visitor, there.number)
        return there is not None

    def _begin(self, visitor: Visitor, number: int, task: Task) -> None:
        """Have the chunk after `number` made."""
        visitor.visit.rewind(number)
        job = Job(task, number)
        visitor.job = job
        self._jobs.append(job)
        running = asyncio.get_running_loop().create_task(self._run(visitor, visitor.visit, job))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
        self._tell_state(visitor)

    async def _run(self, visitor: Visitor, visit: Visit, job: Job) -> None:
        loop = asyncio.get_running_loop()

        def watch(progress: Progress) -> None:  # in the model's thread
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(self._note, visitor, job, progress)

        try:
            made = await loop.run_in_executor(self._model, self.player.make, job.task, watch)
            if visitor.job is job:
                visit.add(job.parent, made)
        except Stopped:
            pass
        except (RuntimeError, ValueError, MemoryError, OSError) as error:
            print(f"sfv play: a chunk failed: {printable(error)}", file=sys.stderr, flush=True)
            self._tell(visitor, {"kind": "error", "text": f"the chunk failed: {error}"[:500]})
        finally:
            self._jobs.remove(job)
            if visitor.job is job:
                visitor.job, visitor.seen = None, self.clock()
                self._tell_state(visitor)
            for other in self.visitors.values():
                if other.job is not None and other.job.progress is None:
                    self._tell(other, self._job_event(other.job))

    def _note(self, visitor: Visitor, job: Job, progress: Progress) -> None:
        job.progress = progress
        if visitor.job is job:
            event = self._job_event(job)
            if progress.strip is not None:
                picture = base64.b64encode(progress.strip).decode()
                event["strip"] = f"data:image/png;base64,{picture}"
            self._tell(visitor, event)

    def _job_event(self, job: Job) -> Event:
        return {"kind": "job", "version": self._next_version(), "job": self._describe_job(job)}

    def _next_version(self) -> int:
        """Answers and events may overtake each other; a page keeps to the newest."""
        self._version += 1
        return self._version

    def _describe_job(self, job: Job) -> Event:
        progress = job.progress
        known: Event = {"parent": job.parent, "action": job.task.action}
        known["shown"] = job.task.shown is not None
        known["before"] = self._jobs.index(job) if job in self._jobs else 0
        if progress is not None:
            known |= {"row": progress.row, "stage": progress.stage}
            known |= {"step": progress.step, "steps": progress.num_steps}
        return known

    def _stop(self, visitor: Visitor) -> None:
        if visitor.job is not None:
            visitor.job.task.stop.set()
            visitor.job = None

    def _tell_state(self, visitor: Visitor) -> None:
        self._tell(visitor, self.state(visitor))

    def _tell(self, visitor: Visitor, event: Event) -> None:
        for events in visitor.streams:
            if events.full():  # a page that reads too slowly learns the state and misses previews
                while not events.empty():
                    events.get_nowait()
                events.put_nowait(self.state(visitor))
            events.put_nowait(event)
