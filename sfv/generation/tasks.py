"""What `sfv rollout` makes: first frames and actions, read from users' files or from episodes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfv.fast.memory_file import StoredMemory
from sfv.files import regular_file
from sfv.generation.episodes import load_episodes
from sfv.media.fit import Fit, fit_frame
from sfv.media.limits import MediaError
from sfv.media.reader import read_frames
from sfv.metrics.suite_common import videos_hash
from sfv.models.world_model import WorldModel
from sfv.names import ascii_name
from sfv.texts import read_text

LONGEST_NAME = 180
"""Bytes; files end with `.chunk-0001.memory.safetensors`, and a name has 255."""


@dataclass(frozen=True)
class RolloutTask:
    """One video to make: its name, the given first frames, one action a chunk.

    Args:
        start: frames to begin with; None goes on where `memory` stopped.
        memory: Θ to begin with; None begins fresh.
        told_by: where the actions come from, for errors.
        shown: true frames of the first chunks, which are learned and not generated.
    """

    name: str
    start: Float[Tensor, "1 t 3 height width"] | None
    actions: list[str]
    fps: float
    memory: StoredMemory | None = None
    told_by: str = ""
    shown: Float[Tensor, "1 t2 3 height width"] | None = None

    def key(self) -> list[Any]:
        """What tells it from another task."""
        given = [video[0] for video in (self.start, self.shown) if video is not None]
        return [self.name, videos_hash(given) if given else None, self.fps, self.actions]


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


def read_start(path: Path, num_frames: int | None) -> Float[Tensor, "1 t 3 height width"]:
    """Read the first frames of a video, or an image as a single frame; None: all of them.

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
    if num_frames is not None and len(frames) < num_frames:
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


def tasks_of(
    world: WorldModel,
    start: Path | None,
    shown: Path | None,
    actions: Path | None,
    episodes: Path | None,
    num_episodes: int | None,
    fps: float,
    memory: StoredMemory | None,
    fit: Fit | None,
) -> list[RolloutTask]:
    """The videos to make, from a start and actions, from episodes, or on from a memory.

    Raises:
        ValueError: what is given does not go together, or a file cannot be read.
    """
    if shown is not None:
        if start is not None:
            raise ValueError("--start and --shown both say how the video begins; give one of them")
        return [shown_task(world, shown, actions, fps, fit)]
    if fit is not None and start is None:
        raise ValueError(f"--fit {fit} is for frames from --start or --shown; leave it out")
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
            "give either --start (or --shown) and --actions, or --episodes, or --resume-from and --actions"
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


def shown_task(
    world: WorldModel, shown: Path, actions: Path | None, fps: float, fit: Fit | None
) -> RolloutTask:
    """A rollout that goes on from the end of a video, which is learned first."""
    if actions is None:
        raise ValueError(
            "--shown needs --actions: those of its chunks after the first, then new ones"
        )
    video = fit_start(read_start(shown, None), world, shown, fit)
    first, chunk, told = world.num_context, world.num_generated, read_actions(actions)
    num = (video.shape[1] - first) // chunk
    if video.shape[1] < first or (video.shape[1] - first) % chunk:
        raise ValueError(
            f"{shown} has {video.shape[1]} frames; to be shown it needs {first} and then a multiple of "
            f"{chunk}: cut it"
        )
    if len(told) <= num:
        raise ValueError(
            f"{actions} has {len(told)} actions, but {shown} takes {num} of them; add those of the chunks "
            "to generate"
        )
    rest = video[:, first:] if num else None
    return RolloutTask(
        name_of(shown), video[:, :first], told, fps, told_by=str(actions), shown=rest
    )


def name_of(start: Path) -> str:
    """The file's name; a shorter one where no file could be made beside its row and chunk."""
    num_bytes = len(start.stem.encode(errors="replace"))
    return start.stem if num_bytes <= LONGEST_NAME else ascii_name(start.stem)


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
