"""Makes chunks: the world model, without and with memory, for whoever asks next."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sfv.diffusion.sampler import SamplingStep
from sfv.fast.memory_file import StoredMemory
from sfv.fast.protocol import MemoryLearner
from sfv.generation.rollout import Chunk, Request, Rollout
from sfv.generation.settings import GenerationSettings, Row, memory_of, rollout_of
from sfv.models.world_model import WorldModel
from sfv.play.session import Made, Visit
from sfv.play.starts import Start
from sfv.report.video import to_frames
from sfv.types import MemoryKind

Preview = Literal["all", "last", "none"]


class Stopped(Exception):
    """The visitor wants this chunk no more."""


@dataclass(frozen=True)
class Progress:
    """What is known of a chunk that is being made.

    Args:
        row: without or with memory.
        stage: `sampling`, `learning` or `done`.
        step: sampling steps taken.
        num_steps: of how many.
        strip: frames as a PNG: what the model expects them to become, or when done what they are; None
            where nothing new is to be seen.
    """

    row: Row
    stage: Literal["sampling", "learning", "done"]
    step: int
    num_steps: int
    strip: bytes | None = None


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Task:
    """A chunk to make; it holds all it needs, so that the visit may change meanwhile.

    Args:
        episode: names the random streams.
        action: drives the chunk.
        contexts: the frames it follows, of each row to make.
        memory: to go on with; None where no row has one.
        depth: chunks made before it.
        shown: true frames that the memory learns and the visit goes on with; None generates them.
        stop: set from outside to end the work.
    """

    episode: str
    action: str
    contexts: dict[Row, Float[Tensor, "1 c t h w"]]
    memory: StoredMemory | None
    depth: int
    shown: Float[Tensor, "1 c g h w"] | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class Player:
    """Makes one chunk at a time.

    Args:
        world: Φ and what goes with it.
        rollouts: one without learner (`none`), and one for each memory that a visit can have, the
            model's own first; the denoiser is adapted for them.
        generation: their settings, which memories keep.
        preview: frames decoded after each sampling step.
    """

    def __init__(
        self,
        world: WorldModel,
        rollouts: dict[Row, Rollout],
        generation: GenerationSettings,
        preview: Preview = "all",
    ) -> None:
        self.world, self.rollouts, self.generation = world, rollouts, generation
        self.preview = preview
        self._num_steps = generation.sampler.steps(world.schedule)
        self._learners: dict[Row, MemoryLearner] = {
            row: rollout.learner for row, rollout in rollouts.items() if rollout.learner is not None
        }

    @property
    def memories(self) -> dict[Row, MemoryKind | None]:
        """What the second panel of a visit can be made with, and its kind, the default first."""
        return {row: memory_of(self.world, row) for row in (*self._learners, "none")}

    def begin(self, start: Start, strip: bytes, memory: Row) -> Made:
        """The root of a visit: given frames, fresh memory.

        Args:
            start: at least f_p frames; its name names the random streams and the memory's file.
            strip: its frames, decoded by `strip`.
            memory: one of `memories`; `none` makes every chunk without memory alone.
        """
        rows: list[Row] = ["none"] if memory == "none" else ["none", memory]
        latents, strips = dict.fromkeys(rows, start.latents), dict.fromkeys(rows, strip)
        return Made(None, latents, strips, self._fresh(start, memory))

    def task(self, visit: Visit, number: int, action: str) -> Task:
        """What making the chunk after `number` needs."""
        node = visit.node(number)
        contexts = {row: visit.context(number, row, self.world.num_context) for row in visit.rows}
        return Task(visit.start.name, action, contexts, node.made.memory, node.depth)

    def task_to_show(self, visit: Visit, number: int) -> Task:
        """What showing the next chunk of the way out needs.

        Raises:
            ValueError: as `Visit.next_shown`.
        """
        action, frames = visit.next_shown(number)
        return replace(self.task(visit, number, action), shown=frames)

    def make(self, task: Task, watch: Watch) -> Made:
        """Make a chunk, first without memory, then with it, on the same noise; or learn one that is shown.

        Args:
            task: see there.
            watch: is told of every step, from this thread.

        Raises:
            Stopped: `task.stop` was set; nothing has changed then.
        """
        chunks: dict[Row, Chunk] = {}
        strips: dict[Row, bytes] = {}
        seconds: dict[Row, float] = {}
        num = self._num_steps
        is_shown = task.shown is not None
        for row in task.contexts:  # the row with memory comes last
            began = time.perf_counter()
            if is_shown and row in self._learners:
                watch(Progress(row, "learning", num, num))
            chunks[row] = self._chunk(task, row, watch)
            same = is_shown and strips  # true frames are equal in all rows
            strips[row] = strips["none"] if same else self.strip(chunks[row].kept)
            seconds[row] = time.perf_counter() - began
            watch(Progress(row, "done", num, num, strips[row]))
        latents = {row: chunk.kept for row, chunk in chunks.items()}
        memory = self._learners[row].store(chunks[row].memory) if row in self._learners else None
        return Made(task.action, latents, strips, memory, chunks[row].learned, seconds, is_shown)

    def num_memory_bytes(self, start: Start) -> int:
        """Bytes of one memory kept, the largest of those that a visit of this start can have."""
        return max(self._num_bytes(row, start) for row in self._learners)

    def _num_bytes(self, row: Row, start: Start) -> int:
        """Θ with the optimiser's state, which it has once it has learned; or all that is stored of it."""
        stored = self._fresh(start, row)
        assert stored is not None
        tensors = [*stored.weights.values(), *stored.extras.values()]
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return max(held, self._learners[row].num_bytes())

    def _fresh(self, start: Start, row: Row) -> StoredMemory | None:
        if row not in self._learners:
            return None
        learner = self._learners[row]
        stored: StoredMemory = learner.store(learner.fresh(start.name, start.latents))
        return stored

    def _chunk(self, task: Task, row: Row, watch: Watch) -> Chunk:
        memory = None
        if row in self._learners:
            memory = self._learners[row].restore(task.memory)
        request = Request(
            task.episode,
            task.contexts[row],
            [task.action],
            task.shown,
            memory,
            task.depth,
            predict_shown=False,
        )

        def on_step(step: SamplingStep) -> None:
            if task.stop.is_set():
                raise Stopped
            watch(self._progress(row, step))

        if task.stop.is_set():
            raise Stopped
        (chunk,) = self.rollouts[row].stream(request, on_step)
        return chunk

    def _progress(self, row: Row, step: SamplingStep) -> Progress:
        num, done = self._num_steps, step.step_idx + 1
        if done == num:
            return Progress(row, "learning" if row in self._learners else "sampling", done, num)
        if self.preview == "none":
            return Progress(row, "sampling", done, num)
        shown = slice(None) if self.preview == "all" else slice(-1, None)
        timestep = torch.full((1,), step.timestep, device=step.noisy.device)
        clean = self.world.schedule.to_clean(step.prediction, step.noisy, timestep)
        return Progress(row, "sampling", done, num, self.strip(clean[:, :, shown]))

    def strip(self, latents: Float[Tensor, "1 c t h w"]) -> bytes:
        """Decode frames into one picture."""
        return to_strip(to_frames(self.world.decode(latents)[0]))


@contextmanager
def open_player(
    world: WorldModel, generation: GenerationSettings, preview: Preview = "all"
) -> Iterator[Player]:
    """Put the memories' places into the model for as long as the player is used.

    The temporal LoRA is a choice beside the model's own memory where that is of another kind.
    """
    rows: list[Row] = ["none", "fast"]
    if memory_of(world, "fast") != memory_of(world, "temp_lora"):
        rows.append("temp_lora")
    with ExitStack() as stack:
        rollouts = {row: stack.enter_context(rollout_of(world, row, generation)) for row in rows}
        yield Player(world, rollouts, generation, preview)


def to_strip(frames: UInt8[np.ndarray, "t height width 3"]) -> bytes:
    """A PNG of the frames below each other: one file, lossless, and cut apart by height."""
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def from_strip(strip: bytes, height: int) -> UInt8[np.ndarray, "t height width 3"]:
    """The frames of `to_strip`."""
    pixels = np.asarray(Image.open(io.BytesIO(strip)))
    return pixels.reshape(-1, height, *pixels.shape[1:])
