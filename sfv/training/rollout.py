"""`sfv rollout`: long videos from a user's own start and actions, or from episodes in shards."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sfv.fast.memory import MemoryHeader, save_memory
from sfv.fast.rollout import Chunk, join
from sfv.files import claim_folder, write_bytes, write_json
from sfv.metrics.suite_common import videos_hash
from sfv.models.world_model import WorldModel
from sfv.report.video import encode_mp4, to_frames
from sfv.training.episodes import load_episodes
from sfv.training.generate import GenerationSettings, Row, rollout_of

MARKER = "rollout.json"


@dataclass(frozen=True)
class RolloutTask:
    """One video to make: its name, the given first frames, one action a chunk."""

    name: str
    start: Float[Tensor, "1 t 3 height width"]
    actions: list[str]
    fps: float


def rollout(
    model: Path,
    out: Path,
    start: Path | None = None,
    actions: Path | None = None,
    episodes: Path | None = None,
    num_episodes: int | None = None,
    rows: tuple[Row, ...] = ("none", "fast"),
    fps: float = 8.0,
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
) -> None:
    """Generate long videos chunk by chunk, without and with memory.

    Give either --start and --actions, or --episodes. The folder --out gets NAME-ROW.mp4 for every
    video, NAME.memory.safetensors (Θ after the last chunk) and rollout.json (losses, seconds).

    Args:
        model: folder of a world model (the `model` folder of a run).
        out: folder to write; new, or the one of the same rollout.
        start: the first frames: a video file, or an image for models with a context of 1 frame.
        actions: one action a chunk: .txt (one a line), .json (a list), or .jsonl ({"text": ...}).
        episodes: folder of episode shards to take starts and actions from.
        num_episodes: how many of them; null takes all.
        rows: `none` generates without memory, `fast` with fast learning.
        fps: frames per second of the videos from --start.
        generation: sampler, fast learning and precision.
    """
    world = WorldModel.load(model)
    tasks = _tasks(world, start, actions, episodes, num_episodes, fps)
    world.text(sorted({action for task in tasks for action in task.actions}))  # knows them all?
    starts = {task.name: world.codec.encode(task.start) for task in tasks}
    settings = {
        "model": world.fingerprint(),
        "tasks": [
            [task.name, videos_hash([task.start[0]]), task.fps, task.actions] for task in tasks
        ],
        "rows": list(rows),
        "generation": asdict(generation),
    }
    _claim(out, settings)
    results: dict[str, Any] = {}
    total = len(rows) * sum(len(task.actions) for task in tasks)
    with tqdm(total=total, desc="rollout", unit="chunk") as bar:
        for row in rows:
            with rollout_of(world, row, generation) as roller:
                for task in tasks:
                    bar.set_postfix_str(f"{task.name} {row}")
                    encoded = starts[task.name]
                    chunks = roller.run(
                        task.name, encoded, task.actions, on_chunk=lambda _: bar.update()
                    )
                    video = world.codec.decode(join(encoded, chunks))[0]
                    path = out / f"{task.name}-{row}.mp4"
                    write_bytes(path, encode_mp4(to_frames(video), task.fps, upscale=4))
                    results[path.name] = [_describe(chunk) for chunk in chunks]
                    if roller.learner is not None:
                        header = MemoryHeader(world.fingerprint(), task.name, len(chunks))
                        state = roller.learner.weights.state()
                        save_memory(out / f"{task.name}.memory.safetensors", state, header)
    write_json(out / MARKER, {"settings": settings, "videos": results})
    print(f"{len(results)} videos in {out}")


def read_actions(path: Path) -> list[str]:
    """Read one action a chunk.

    Raises:
        ValueError: the format is unknown, or the file holds no actions.
    """
    text = path.read_text()
    match path.suffix:
        case ".txt":
            actions: Any = [line.strip() for line in text.splitlines() if line.strip()]
        case ".json":
            actions = _parse_json(path, text)
        case ".jsonl":
            lines = [_parse_json(path, line) for line in text.splitlines() if line.strip()]
            actions = [line.get("text") if isinstance(line, dict) else None for line in lines]
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
        ValueError: the file cannot be decoded, or has fewer than `num_frames` frames.
    """
    frames = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == num_frames:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be read as a video or an image ({error}); give another file"
        ) from error
    if len(frames) < num_frames:
        raise ValueError(
            f"{path} has {len(frames)} frames, but this model needs a start of {num_frames}; "
            "give a longer video"
        )
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    return video[None]


def _tasks(
    world: WorldModel,
    start: Path | None,
    actions: Path | None,
    episodes: Path | None,
    num_episodes: int | None,
    fps: float,
) -> list[RolloutTask]:
    if episodes is not None and start is None and actions is None:
        return [
            RolloutTask(e.meta.id, e.video[None, : world.num_context], e.actions, e.meta.fps)
            for e in load_episodes(episodes, world, num_episodes)
        ]
    if start is None or actions is None or episodes is not None:
        raise ValueError("give either --start and --actions, or --episodes")
    video = read_start(start, world.num_context)
    return [RolloutTask(start.stem, video, read_actions(actions), fps)]


def _claim(out: Path, settings: dict[str, Any]) -> None:
    claim_folder(out, MARKER, "a rollout folder")
    marker = out / MARKER
    if marker.exists() and json.loads(marker.read_text())["settings"] != json.loads(
        json.dumps(settings)
    ):
        raise FileExistsError(
            f"{out} holds a rollout with other settings (see its {MARKER}); give another --out"
        )
    write_json(marker, {"settings": settings, "videos": {}})


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _describe(chunk: Chunk) -> dict[str, Any]:
    learned = None
    if chunk.learned is not None:
        learned = {k: v if math.isfinite(v) else None for k, v in asdict(chunk.learned).items()}
    return {"action": chunk.action, "seconds": round(chunk.seconds, 3), "fast": learned}
