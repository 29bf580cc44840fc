"""Make the gallery: walks of a checkpoint with memory and without, beside the truth, in small pictures.

    python -m experiments.gallery --model runs/demo/model --episodes runs/demo/shards/test

The folder `--out` gets a looping WebP a walk, at most 300 kB each and 2 MB together; `--page` gets the list
of them between its two markers, with the command that made it.
"""

import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.command import run_command
from experiments.leaderboard import between_markers
from sfv.files import write_bytes
from sfv.generation.episodes import TrueEpisode, load_episodes, num_outbound
from sfv.generation.rollout import Request, join
from sfv.generation.settings import GenerationSettings, Row, rollout_of
from sfv.models.device import AUTO
from sfv.models.world_model import WorldModel
from sfv.report.video import side_by_side, to_frames

MARKERS = "<!-- gallery: begin -->", "<!-- gallery: end -->"
MAX_BYTES, MAX_TOTAL = 300_000, 2_000_000
QUALITIES = (80, 60, 45, 30, 20, 10)
"""Of WebP, tried in turn until a picture is small enough."""

LABELS: dict[Row | Literal["true"], str] = {"true": "true", "none": "no memory", "fast": "memory"}
Given = Literal["way_out", "start"]


@dataclass(frozen=True)
class Walk:
    """One picture of the gallery.

    Args:
        episode: its id.
        actions: of the chunks that were made.
        num_given: true frames that were shown before.
        file: name of the picture.
        num_bytes: its size.
    """

    episode: str
    actions: tuple[str, ...]
    num_given: int
    file: str
    num_bytes: int


def gallery(
    model: Path,
    episodes: Path,
    out: Path = Path("docs/gallery"),
    page: Path = Path("docs/gallery.md"),
    num_walks: int = 4,
    given: Given = "way_out",
    fps: float = 8.0,
    upscale: int = 2,
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    device: str = AUTO,
) -> None:
    """Make walks with a world model and list them on a page.

    Args:
        model: folder of a world model or of a run that holds one; `reference` comes with sfv.
        episodes: folder of shards of video; the first walks in it are taken.
        out: gets the pictures; below the page's folder.
        page: gets the list between its markers.
        num_walks: how many.
        given: `way_out` shows (and teaches) the true way out and makes the way back; `start` gives the
            first chunk alone.
        fps: frames a second of the pictures.
        upscale: each pixel becomes a square of this many a side.
        generation: sampler, fast learning, precision, seed.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    text = page.read_text()
    between_markers(text, "", page, MARKERS)  # before the work
    folder = out.resolve().relative_to(page.resolve().parent)
    world = WorldModel.load(model, device)
    walks = []
    for episode in load_episodes(episodes, world, num_walks):
        frames, num_given = film(world, episode, given, generation, upscale)
        picture = encode(frames, fps, episode.meta.id)
        name = f"{episode.meta.id}.webp"
        write_bytes(out / name, picture)
        chunks = tuple(a.text for a in episode.meta.actions if a.start >= num_given)
        walks.append(Walk(episode.meta.id, chunks, num_given, name, len(picture)))
        print(f"{out / name}: {len(frames)} frames, {len(picture) / 1000:.0f} kB")
    total = sum(walk.num_bytes for walk in walks)
    if total > MAX_TOTAL:
        raise ValueError(f"{total} bytes of pictures; at most {MAX_TOTAL}: take fewer --num-walks")
    command = shlex.join(["python", "-m", "experiments.gallery", *sys.argv[1:]])
    listed = list_of(walks, folder, given, generation.seed, command, world.fingerprint())
    write_bytes(page, between_markers(text, listed, page, MARKERS).encode())


def film(
    world: WorldModel,
    episode: TrueEpisode,
    given: Given,
    generation: GenerationSettings,
    upscale: int,
) -> tuple[UInt8[np.ndarray, "t height width 3"], int]:
    """The true walk, without memory and with memory side by side, from where making begins.

    Returns:
        the frames, and how many true frames were given before.

    Raises:
        ValueError: a way out was asked for of a walk that does not come back.
    """
    first = episode.meta.actions[0].stop
    outbound = num_outbound(episode.meta)
    if given == "way_out" and outbound is None:
        raise ValueError(
            f"episode {episode.meta.id} never comes back, so it has no way out; give --given start"
        )
    num_shown = (outbound or 0) * world.num_generated if given == "way_out" else 0
    start, shown = episode.latents[:, :, :first], episode.latents[:, :, first : first + num_shown]
    request = Request(
        episode.meta.id,
        start,
        episode.actions,
        shown if num_shown else None,
        predict_shown=False,
    )
    num_given = first + num_shown
    panels = [to_frames(episode.video[num_given:])]
    rows: tuple[Row, ...] = ("none", "fast")
    for row in rows:
        with rollout_of(world, row, generation) as rollout:
            latents = join(start, rollout.run_many([request])[0])
        panels.append(to_frames(world.decode(latents[:, :, num_given:])[0]))
    return side_by_side(panels, list(LABELS.values()), upscale=upscale), num_given


def encode(frames: UInt8[np.ndarray, "t height width 3"], fps: float | int, name: str) -> bytes:
    """Encode a looping WebP in the best quality that fits.

    Raises:
        ValueError: it does not fit in the worst.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    for quality in QUALITIES:
        buffer = io.BytesIO()
        pictures[0].save(
            buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / fps),
            loop=0, quality=quality, method=4,
        )  # fmt: skip
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise ValueError(
        f"{name}: {buffer.tell()} bytes in the worst quality, at most {MAX_BYTES} are allowed: take "
        "a smaller --upscale or shorter walks"
    )


def list_of(
    walks: Sequence[Walk], folder: Path, given: Given, seed: int, command: str, base: str
) -> str:
    """What the page says of the walks."""
    before = "the true way out was shown before" if given == "way_out" else "the true first chunk"
    lines = [
        f"World model `{base}`, seed {seed}. Left the true walk, in the middle without memory, right with "
        f"memory: same weights, actions and noise. Given: {before}. "
        f"None was picked: the first {len(walks)} walks of the folder.",
        "",
        f"    {command}",
        "",
    ]
    for walk in walks:
        lines += [
            f"## {walk.episode}",
            "",
            f"![{walk.episode}: true, without memory, with memory]({(folder / walk.file).as_posix()})",
            "",
            f"{walk.num_given} frames given, then: {', '.join(walk.actions)}.",
            "",
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 2 after an error of the input."""
    return run_command("experiments.gallery", gallery, argv)


if __name__ == "__main__":
    sys.exit(main())
