"""`sfv rollout`: long videos from a user's own start and actions, or from episodes in shards."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sfv.fast.memory_file import SUFFIX, load_memory, save_memory
from sfv.fast.protocol import EpisodeMemory
from sfv.files import claimed, read_json, write_bytes, write_json
from sfv.generation.rollout import Chunk, Request, Rollout
from sfv.generation.settings import GenerationSettings, Row, rollout_of, row_of, settings_from
from sfv.generation.tasks import RolloutTask, tasks_of
from sfv.media.fit import Fit
from sfv.models.device import AUTO
from sfv.models.model_folder import REFERENCE, find_example
from sfv.models.world_model import WorldModel
from sfv.report.video import encode_mp4, to_frames
from sfv.storage.weight_files import hash_tensors
from sfv.texts import printable

MARKER = "rollout.json"


def rollout(
    out: Path,
    model: Path = Path(REFERENCE),
    start: Path | None = None,
    shown: Path | None = None,
    actions: Path | None = None,
    episodes: Path | None = None,
    num_episodes: int | None = None,
    rows: tuple[Row, ...] = ("none", "fast"),
    fps: float = 8.0,
    resume_from: Path | None = None,
    memory_every: int = 0,
    at_once: int = 1,
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    device: str = AUTO,
    fit: Fit | None = None,
) -> None:
    """Generate long videos chunk by chunk, without and with memory.

    Give either --start or --shown with --actions, or --episodes, or --resume-from and --actions; a model
    that comes with an example, as `reference` does, also goes on from that. The folder --out
    gets NAME-ROW.mp4 for every video, NAME.memory.safetensors (the memory after the last chunk) and
    rollout.json (losses, seconds).

    Args:
        out: folder to write; new, or the one of the same rollout.
        model: folder of a world model or of a run that holds one; `reference` comes with sfv.
        start: the first frames: a video file, or an image for models with a context of 1 frame.
        shown: a video that is shown instead of --start: all of it is learned, and the rollout goes on from
            its end. It has a whole number of chunks.
        actions: one action a chunk: .txt (one a line), .json (a list), or .jsonl ({"text": ...}). With
            --shown they begin with those of its chunks after the first.
        episodes: folder of episode shards to take starts and actions from.
        num_episodes: how many of them; null takes all.
        rows: `none` generates without memory, `fast` with the model's own, `temp_lora` with the temporal
            LoRA.
        fps: frames per second of the videos from --start.
        resume_from: a memory to go on with. Without --start the video goes on where the memory's rollout
            stopped, bit for bit as if it had not; with --start it begins there. Where no --generation
            settings are given, the memory's own apply. Makes the row `fast` alone.
        memory_every: also keep the memory as NAME.chunk-NNNN.memory.safetensors every so many chunks.
        at_once: videos made in one batch, each with its own memory; faster, and equal up to rounding.
        generation: sampler, fast learning and precision.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
        fit: brings a --start of another size to that of the model's training: `crop` cuts the middle out,
            `stretch` changes the shape of things, `pad` adds black bars. null refuses another size.
    """
    if memory_every < 0 or at_once < 1:
        raise ValueError(
            f"--memory-every is {memory_every}, --at-once is {at_once}; allowed: 0 or more, 1 or more"
        )
    world = WorldModel.load(model, device)
    base, memory = world.fingerprint(), None
    if resume_from is not None:
        memory = load_memory(resume_from, base)
        rows = (row_of(world, memory.header.kind),)
        if generation == GenerationSettings():
            generation = settings_from(memory.header.settings, memory.header.kind, str(resume_from))
    generation = generation.resolved(world.schedule)
    if (start, shown, actions, episodes, resume_from) == (None,) * 5:
        shown, actions = find_example(model) or (None, None)
    tasks = tasks_of(world, start, shown, actions, episodes, num_episodes, fps, memory, fit)
    starts = [_start(world, task) for task in tasks]
    settings = {
        "model": base,
        "tasks": [task.key() for task in tasks],
        "rows": list(rows),
        "generation": asdict(generation),
        "memory": None if memory is None else hash_tensors(memory.weights),
    }
    with _claimed(out, settings):
        results = _make(out, world, rows, generation, tasks, starts, memory_every, at_once)
        write_json(out / MARKER, {"settings": settings, "videos": results})
    print(f"{len(results)} videos in {printable(out)}")


def _make(
    out: Path,
    world: WorldModel,
    rows: Sequence[Row],
    generation: GenerationSettings,
    tasks: Sequence[RolloutTask],
    starts: Sequence[Tensor],
    memory_every: int,
    at_once: int,
) -> dict[str, Any]:
    """Make the videos of all rows; return what is known of every chunk, by file."""
    chunks = len(rows) * sum(len(task.actions) for task in tasks)
    results: dict[str, Any] = {}
    with tqdm(total=chunks, desc="rollout", unit="chunk") as bar:
        for row in rows:
            with rollout_of(world, row, generation) as roller:
                writer = _Writer(out, row, world, memory_every, roller)
                for first in range(0, len(tasks), at_once):
                    group = slice(first, first + at_once)
                    bar.set_postfix_str(f"{printable(tasks[first].name)} {row}")
                    results |= writer.write(tasks[group], starts[group], lambda: bar.update())
    return results


@dataclass(frozen=True)
class _Writer:
    """Makes the videos of one row and writes what comes of them."""

    out: Path
    row: Row
    world: WorldModel
    memory_every: int
    roller: Rollout

    def write(
        self, tasks: Sequence[RolloutTask], starts: Sequence[Tensor], tick: Callable[[], object]
    ) -> dict[str, list[dict[str, Any]]]:
        """Make some videos at once; return what is known of every chunk, by file."""
        frames = [[self._frames(start)] for start in starts]
        chunks: list[list[dict[str, Any]]] = [[] for _ in tasks]
        requests = [self._request(*case) for case in zip(tasks, starts, strict=True)]
        for made in self.roller.stream_many(requests):
            for i, chunk in made:
                frames[i].append(self._frames(chunk.kept))
                chunks[i].append(_describe(chunk))
                tick()
                is_last = len(chunks[i]) == len(tasks[i].actions)
                if chunk.memory is not None:
                    self._keep(tasks[i].name, chunk.memory, is_last)
        for task, video in zip(tasks, frames, strict=True):
            clip = encode_mp4(np.concatenate(video), task.fps, upscale=4)
            write_bytes(self.out / f"{task.name}-{self.row}.mp4", clip)
        return {
            f"{task.name}-{self.row}.mp4": known for task, known in zip(tasks, chunks, strict=True)
        }

    def _request(self, task: RolloutTask, start: Tensor) -> Request:
        memory, learner = None, self.roller.learner
        if task.memory is not None and learner is not None:
            memory = learner.restore(task.memory)
        shown = None if task.shown is None else self.world.encode(task.shown)
        return Request(task.name, start, task.actions, shown, memory=memory, predict_shown=False)

    def _keep(self, name: str, memory: EpisodeMemory, is_last: bool) -> None:
        due = self.memory_every and memory.num_chunks % self.memory_every == 0
        if not (due or is_last):
            return
        assert self.roller.learner is not None
        stored = self.roller.learner.store(memory)
        if due:
            save_memory(self.out / f"{name}.chunk-{memory.num_chunks:04d}{SUFFIX}", stored)
        save_memory(self.out / f"{name}{SUFFIX}", stored)

    def _frames(self, latents: Tensor) -> NDArray[np.uint8]:
        return to_frames(self.world.decode(latents)[0])


def _start(world: WorldModel, task: RolloutTask) -> Float[Tensor, "1 c t h w"]:
    """The latents that the first chunk follows; first of all, the actions must be known."""
    try:
        world.text(sorted(set(task.actions)))
    except ValueError as error:
        raise ValueError(f"{task.told_by}: {error}") from error
    if task.start is not None:
        return world.encode(task.start)
    assert task.memory is not None
    if "context" not in task.memory.extras:
        raise ValueError(
            f"memory {task.memory.header.episode!r} holds no frames to go on from (a rollout's do; "
            "merged and imported ones do not); give --start"
        )
    return task.memory.extras["context"]


@contextmanager
def _claimed(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    with claimed(out, MARKER, "a rollout folder"):
        marker, plain = out / MARKER, json.loads(json.dumps(settings))
        if marker.exists() and read_json(marker)["settings"] != plain:
            raise FileExistsError(
                f"{out} holds a rollout with other settings (see its {MARKER}); give another --out"
            )
        write_json(marker, {"settings": settings, "videos": {}})
        yield


def _describe(chunk: Chunk) -> dict[str, Any]:
    """What rollout.json says of a chunk; numbers that were not measured are null."""
    known: dict[str, Any] = {
        "action": chunk.action,
        "shown": chunk.shown is not None,
        "seconds": round(chunk.seconds, 3),
        "fast": None,
    }
    if chunk.learned is not None:
        learned = {
            name: getattr(chunk.learned, name) for name in ("loss", "gain", "drift", "seconds")
        }
        known["fast"] = {k: v if math.isfinite(v) else None for k, v in learned.items()}
        known["fast"]["undone"] = chunk.learned.undone
    return known
