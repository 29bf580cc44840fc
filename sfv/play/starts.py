"""What a visit can begin with: the first frames of the server's own files and episodes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sfv.generation.episodes import load_episodes
from sfv.generation.tasks import fit_start, read_start
from sfv.media.fit import Fit
from sfv.media.reader import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from sfv.models.world_model import WorldModel
from sfv.names import is_hidden

SUFFIXES = VIDEO_SUFFIXES + PICTURE_SUFFIXES
MAX_STARTS = 64


@dataclass(frozen=True)
class Start:
    """First frames.

    Args:
        name: shown to visitors; also the episode's, so it names the noise and the memory.
        latents: clean; f_p frames.
        fps: frames per second.
        actions: of the episode it is from; empty for a file.
    """

    name: str
    latents: Float[Tensor, "1 c t h w"] = field(repr=False)
    fps: float | int
    actions: Sequence[str] = ()


def find_starts(
    world: WorldModel,
    start: Path | None,
    episodes: Path | None,
    num_episodes: int | None,
    fps: float | int,
    fit: Fit | None = None,
) -> list[Start]:
    """Read all starts, a file's or a folder's first.

    Raises:
        ValueError: there is none, or too many, two of one name, or one that the model cannot begin with.
        FileNotFoundError: a path is missing.
    """
    if start is None and episodes is None:
        raise ValueError(
            "nothing to begin with; give --start (a video, an image, or a folder of them) or --episodes "
            "(a folder of episode shards)"
        )
    found = [] if start is None else [_read(world, path, fps, fit) for path in _files(start)]
    if episodes is not None:
        found += [
            Start(e.meta.id, e.latents[:, :, : world.num_context], e.meta.fps, e.actions)
            for e in load_episodes(episodes, world, num_episodes)
        ]
    if not 1 <= len(found) <= MAX_STARTS:
        raise ValueError(
            f"{len(found)} starts were found; allowed are 1 to {MAX_STARTS}: give fewer files, or "
            "--num-episodes"
        )
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two starts are called {twice!r}; rename one file")
    return found


def _files(start: Path) -> list[Path]:
    if not start.exists():
        raise FileNotFoundError(
            f"--start {start} does not exist; give a video, an image or a folder"
        )
    if start.is_file():
        return [start]
    there = sorted(path for path in start.iterdir() if not is_hidden(path, start))
    found = [path for path in there if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"--start {start} holds no video or image ({', '.join(SUFFIXES)})")
    return found


def _read(world: WorldModel, path: Path, fps: float | int, fit: Fit | None) -> Start:
    video = fit_start(read_start(path, world.num_context), world, path, fit)
    try:
        latents = world.encode(video)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Start(re.sub(r"[^\w.-]", "-", path.stem), latents, fps)
