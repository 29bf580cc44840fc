"""What a visit can begin with: first frames, and ways out that can be shown, of the server's own files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.generation.episodes import TrueEpisode, load_episodes, num_outbound
from sfv.generation.tasks import fit_start, read_start, shown_task
from sfv.media.fit import Fit
from sfv.media.reader import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from sfv.models.world_model import WorldModel
from sfv.names import is_hidden

SUFFIXES = VIDEO_SUFFIXES + PICTURE_SUFFIXES
MAX_STARTS = 64


@dataclass(frozen=True)
class Start:
    """First frames, and what may be known of the way on from them.

    Args:
        name: shown to visitors; also the episode's, so it names the noise and the memory.
        latents: clean; f_p frames.
        fps: frames per second.
        shown: true latents of a way out from there, chunk by chunk; empty where none is known.
        actions: one a chunk that is known: those of `shown`, then those of the way back.
    """

    name: str
    latents: Float[Tensor, "1 c t h w"] = field(repr=False)
    fps: float | int
    shown: Sequence[Float[Tensor, "1 c g h w"]] = field(default=(), repr=False)
    actions: Sequence[str] = ()

    @property
    def way_back(self) -> Sequence[str]:
        """Actions that lead back from the end of `shown`; empty where nothing is shown."""
        return self.actions[len(self.shown) :] if self.shown else ()


def find_starts(
    world: WorldModel,
    start: Path | None,
    episodes: Path | None,
    num_episodes: int | None,
    fps: float | int,
    fit: Fit | None = None,
    example: tuple[Path, Path] | None = None,
) -> list[Start]:
    """Read all starts, a file's or a folder's first.

    Args:
        world: decides codec, window and frame size.
        start: a video, an image, or a folder of them.
        episodes: folder of episode shards; those with a way back bring their way out.
        num_episodes: how many of them; None takes all.
        fps: of `start` and `example`.
        fit: brings files to the model's frame size.
        example: a walk to be shown and its actions, as of `find_example`.

    Raises:
        ValueError: there is none, or too many, two of one name, or one that the model cannot begin with.
        FileNotFoundError: a path is missing.
    """
    if start is None and episodes is None and example is None:
        raise ValueError(
            "nothing to begin with; give --start (a video, an image, or a folder of them) or --episodes "
            "(a folder of episode shards)"
        )
    found = [] if start is None else [_read(world, path, fps, fit) for path in _files(start)]
    if episodes is not None:
        found += [_of(world, episode) for episode in load_episodes(episodes, world, num_episodes)]
    if example is not None:
        found.append(_example(world, *example, fps, fit))
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
    return Start(_name(path), latents, fps)


def _of(world: WorldModel, episode: TrueEpisode) -> Start:
    """The beginning of an episode; with its way out, where it comes back."""
    first = episode.meta.actions[0].stop
    num_frames = (num_outbound(episode.meta) or 0) * world.num_generated
    way = episode.latents[:, :, first : first + num_frames]
    start = episode.latents[:, :, first - world.num_context : first]
    return Start(episode.meta.id, start, episode.meta.fps, _chunks(world, way), episode.actions)


def _example(
    world: WorldModel, video: Path, actions: Path, fps: float | int, fit: Fit | None
) -> Start:
    """The walk that comes with a model, and the actions of the way back behind its own."""
    task = shown_task(world, video, actions, fps, fit)
    assert task.start is not None
    way = () if task.shown is None else _chunks(world, world.encode(task.shown))
    return Start(_name(video), world.encode(task.start), fps, way, task.actions)


def _chunks(
    world: WorldModel, latents: Float[Tensor, "1 c t h w"]
) -> Sequence[Float[Tensor, "1 c g h w"]]:
    return torch.split(latents, world.num_generated, dim=2) if latents.shape[2] else ()


def _name(path: Path) -> str:
    return re.sub(r"[^\w.-]", "-", path.stem)
