"""Makes chunks: the world model, without and with memory, for whoever asks next."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sfv.diffusion.sampler import SamplingStep
from sfv.fast.memory_file import StoredMemory
from sfv.generation.rollout import Chunk, Request, Rollout
from sfv.generation.settings import GenerationSettings, Row, rollout_of
from sfv.models.world_model import WorldModel
from sfv.play.session import ROWS, Made, Visit
from sfv.report.video import to_frames

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
        action: drives the chunk.
        contexts: the frames it follows, of each row.
        memory: Θ to go on with.
        depth: chunks made before it.
        stop: set from outside to end the work.
    """

    action: str
    contexts: dict[Row, Float[Tensor, "1 c t h w"]]
    memory: StoredMemory
    depth: int
    stop: threading.Event


class Player:
    """Makes one chunk at a time.

    Args:
        world: Φ and what goes with it.
        rollouts: one without learner, one with; the denoiser is adapted for the latter.
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
        learner = rollouts["fast"].learner
        assert learner is not None
        self._learner = learner

    def begin(self, episode: str, start: Float[Tensor, "1 c t h w"], strip: bytes) -> Made:
        """The root of a visit: given frames, fresh memory.

        Args:
            episode: names the random streams; the memory's file has it too.
            start: clean latents; at least f_p frames.
            strip: the same, decoded by `strip`.
        """
        memory = self._learner.fresh(episode, start)
        return Made(
            None,
            dict.fromkeys(ROWS, start),
            dict.fromkeys(ROWS, strip),
            self._learner.store(memory),
        )

    def task(self, visit: Visit, number: int, action: str) -> Task:
        """What making the chunk after `number` needs."""
        node = visit.node(number)
        contexts = {row: visit.context(number, row, self.world.num_context) for row in ROWS}
        return Task(action, contexts, node.made.memory, node.depth, threading.Event())

    def make(self, task: Task, watch: Watch) -> Made:
        """Make a chunk, first without memory, then with it, on the same noise.

        Args:
            task: see there.
            watch: is told of every step, from this thread.

        Raises:
            Stopped: `task.stop` was set; nothing has changed then.
        """
        chunks: dict[Row, Chunk] = {}
        strips: dict[Row, bytes] = {}
        seconds: dict[Row, float] = {}
        for row in ROWS:
            began = time.perf_counter()
            chunks[row] = self._chunk(task, row, watch)
            strips[row] = self.strip(chunks[row].generated)
            seconds[row] = time.perf_counter() - began
            num = self._num_steps
            watch(Progress(row, "done", num, num, strips[row]))
        memory = chunks["fast"].memory
        assert memory is not None
        latents = {row: chunk.generated for row, chunk in chunks.items()}
        learned = chunks["fast"].learned
        return Made(task.action, latents, strips, self._learner.store(memory), learned, seconds)

    def num_memory_bytes(self) -> int:
        """Bytes of one memory kept: Θ, and the optimiser's state once it has learned."""
        return self._learner.num_bytes()

    def _chunk(self, task: Task, row: Row, watch: Watch) -> Chunk:
        memory = self._learner.restore(task.memory) if row == "fast" else None
        request = Request(
            task.memory.header.episode,
            task.contexts[row],
            [task.action],
            memory=memory,
            first_chunk=task.depth,
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
            return Progress(row, "learning" if row == "fast" else "sampling", done, num)
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
    """Put the place for Θ into the model for as long as the player is used."""
    with (
        rollout_of(world, "none", generation) as plain,
        rollout_of(world, "fast", generation) as fast,
    ):
        yield Player(world, {"none": plain, "fast": fast}, generation, preview)


def to_strip(frames: UInt8[np.ndarray, "t height width 3"]) -> bytes:
    """A PNG of the frames below each other: one file, lossless, and cut apart by height."""
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def from_strip(strip: bytes, height: int) -> UInt8[np.ndarray, "t height width 3"]:
    """The frames of `to_strip`."""
    pixels = np.asarray(Image.open(io.BytesIO(strip)))
    return pixels.reshape(-1, height, *pixels.shape[1:])
