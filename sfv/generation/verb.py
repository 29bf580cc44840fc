"""`sfv rollout`: long videos from a user's own start and actions, or from episodes in shards."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sfv.fast.memory_file import SUFFIX, StoredMemory, load_memory, save_memory
from sfv.fast.protocol import EpisodeMemory
from sfv.files import claimed, read_json, regular_file, write_bytes, write_json
from sfv.generation.episodes import load_episodes
from sfv.generation.rollout import Chunk, Request, Rollout
from sfv.generation.settings import GenerationSettings, Row, rollout_of, settings_from
from sfv.media.fit import Fit, fit_frame
from sfv.media.limits import MediaError
from sfv.media.reader import read_frames
from sfv.metrics.suite_common import videos_hash
from sfv.models.device import AUTO
from sfv.models.model_folder import REFERENCE, find_example
from sfv.models.world_model import WorldModel
from sfv.names import ascii_name
from sfv.report.video import encode_mp4, to_frames
from sfv.storage.weight_files import hash_tensors
from sfv.texts import printable, read_text

MARKER = "rollout.json"
LONGEST_NAME = 180
"""Bytes; files end with `.chunk-0001.memory.safetensors`, and a name has 255."""


@dataclass(frozen=True)
class RolloutTask:
    """One video to make: its name, the given first frames, one action a chunk.

    Args:
        start: frames to begin with; None goes on where `memory` stopped.
        memory: Θ to begin with; None begins fresh.
        told_by: where the actions come from, for errors.
    """

    name: str
    start: Float[Tensor, "1 t 3 height width"] | None
    actions: list[str]
    fps: float
    memory: StoredMemory | None = None
    told_by: str = ""

    def key(self) -> list[Any]:
        """What tells it from another task."""
        start = None if self.start is None else videos_hash([self.start[0]])
        return [self.name, start, self.fps, self.actions]


def rollout(
    out: Path,
    model: Path = Path(REFERENCE),
    start: Path | None = None,
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

    Give either --start and --actions, or --episodes, or --resume-from and --actions; a model that comes
    with an example, as `reference` does, also goes on from that. The folder --out
    gets NAME-ROW.mp4 for every video, NAME.memory.safetensors (the memory after the last chunk) and
    rollout.json (losses, seconds).

    Args:
        out: folder to write; new, or the one of the same rollout.
        model: folder of a world model or of a run that holds one; `reference` comes with sfv.
        start: the first frames: a video file, or an image for models with a context of 1 frame.
        actions: one action a chunk: .txt (one a line), .json (a list), or .jsonl ({"text": ...}).
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
        rows, memory = ("fast",), load_memory(resume_from, base)
        if generation == GenerationSettings():
            generation = settings_from(memory.header.settings, memory.header.kind, str(resume_from))
    if (start, actions, episodes, resume_from) == (None, None, None, None):
        start, actions = find_example(model) or (None, None)
    tasks = _tasks(world, start, actions, episodes, num_episodes, fps, memory, fit)
    starts = [_start(world, task) for task in tasks]
    settings = {
        "model": base,
        "tasks": [task.key() for task in tasks],
        "rows": list(rows),
        "generation": asdict(generation),
        "memory": None if memory is None else hash_tensors(memory.weights),
    }
    chunks = len(rows) * sum(len(task.actions) for task in tasks)
    results: dict[str, Any] = {}
    with _claimed(out, settings), tqdm(total=chunks, desc="rollout", unit="chunk") as bar:
        for row in rows:
            with rollout_of(world, row, generation) as roller:
                writer = _Writer(out, row, world, memory_every, roller)
                for first in range(0, len(tasks), at_once):
                    group = slice(first, first + at_once)
                    bar.set_postfix_str(f"{printable(tasks[first].name)} {row}")
                    results |= writer.write(tasks[group], starts[group], lambda: bar.update())
        write_json(out / MARKER, {"settings": settings, "videos": results})
    print(f"{len(results)} videos in {printable(out)}")


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
        return Request(task.name, start, task.actions, memory=memory)

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


def read_actions(path: Path) -> list[str]:
    """Read one action a chunk.

    Raises:
        ValueError: the format is unknown, or the file holds no actions.
        OSError: it is no regular file, or cannot be read.
    """
    text = read_text(path)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    match path.suffix:
        case ".txt":
            actions: Any = lines
        case ".json":
            actions = _parse_json(path, text)
        case ".jsonl":
            rows = [_parse_json(path, line) for line in lines]
            actions = [row.get("text") if isinstance(row, dict) else None for row in rows]
        case _:
            raise ValueError(
                f"{path} has the unknown format {path.suffix!r}; allowed: .txt (one action a line), "
                '.json (["walk forward", ...]), .jsonl ({"text": "walk forward"} a line)'
            )
    if not isinstance(actions, list) or not actions or not all(isinstance(a, str) for a in actions):
        raise ValueError(
            f"{path} holds no list of actions; .txt has one a line, .json is a list of strings, "
            '.jsonl has {"text": "..."} on every line'
        )
    return actions


def read_start(path: Path, num_frames: int) -> Float[Tensor, "1 t 3 height width"]:
    """Read the first frames of a video, or an image as a single frame.

    Raises:
        ValueError: the file cannot be decoded or is damaged, or has fewer than `num_frames` frames.
        OSError: it is no regular file.
    """
    if path.exists():
        regular_file(path)
    try:
        frames = read_frames(path, most=num_frames)
    except MediaError as error:
        raise ValueError(
            f"{path} cannot be read as a video or an image ({error.fault}); give another file"
        ) from error
    if len(frames) < num_frames:
        raise ValueError(
            f"{path} has {len(frames)} frames, but this model needs a start of {num_frames}; "
            "give a longer video"
        )
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()[None] / 255


def fit_start(
    video: Float[Tensor, "1 t 3 height width"], world: WorldModel, path: Path, fit: Fit | None
) -> Float[Tensor, "1 t 3 new_height new_width"]:
    """Bring first frames to the size that a model was trained at.

    Args:
        video: the first frames.
        world: without `fit`, a model that does not know its size takes any.
        path: names them in errors.
        fit: how; None refuses another size.

    Raises:
        ValueError: another size and no `fit`, or a `fit` to a size that is not known.
    """
    if fit is None:
        size = (video.shape[3], video.shape[4])
        world.check_frame_size(size, str(path), "give --fit crop, stretch or pad")
        return video
    if world.frame_size is None:
        raise ValueError(
            f"--fit {fit}: this model's folder does not say the size of its training frames; add "
            '"frame_size": [HEIGHT, WIDTH] to its model.json, or leave --fit out'
        )
    frames = (video[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    fitted = np.stack([fit_frame(frame, *world.frame_size, fit) for frame in frames])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).float()[None] / 255


def _tasks(
    world: WorldModel,
    start: Path | None,
    actions: Path | None,
    episodes: Path | None,
    num_episodes: int | None,
    fps: float,
    memory: StoredMemory | None,
    fit: Fit | None,
) -> list[RolloutTask]:
    if fit is not None and start is None:
        raise ValueError(f"--fit {fit} is for frames from --start; leave it out")
    own = start is not None or memory is not None
    if episodes is not None and not own and actions is None:
        return [
            RolloutTask(
                e.meta.id,
                e.video[None, : world.num_context],
                e.actions,
                e.meta.fps,
                told_by=f"episode {e.meta.id} of {episodes}",
            )
            for e in load_episodes(episodes, world, num_episodes)
        ]
    if not own or actions is None or episodes is not None:
        raise ValueError(
            "give either --start and --actions, or --episodes, or --resume-from and --actions"
        )
    video = None
    if start is not None:
        video = fit_start(read_start(start, world.num_context), world, start, fit)
    if memory is not None:
        name, known = memory.header.episode, memory
    else:
        assert start is not None
        name, known = name_of(start), None
    return [RolloutTask(name, video, read_actions(actions), fps, known, told_by=str(actions))]


def name_of(start: Path) -> str:
    """The file's name; a shorter one where no file could be made beside its row and chunk."""
    num_bytes = len(start.stem.encode(errors="replace"))
    return start.stem if num_bytes <= LONGEST_NAME else ascii_name(start.stem)


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


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _describe(chunk: Chunk) -> dict[str, Any]:
    """What rollout.json says of a chunk; numbers that were not measured are null."""
    known: dict[str, Any] = {
        "action": chunk.action,
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
