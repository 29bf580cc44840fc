"""`sfv play`: drive a world model by keyboard, in a browser."""

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from sfv.diffusion.sampler import SamplerSettings
from sfv.generation.settings import GenerationSettings
from sfv.media.fit import Fit
from sfv.models.device import AUTO
from sfv.models.model_folder import REFERENCE, find_example
from sfv.models.world_model import WorldModel
from sfv.play.player import Preview, open_player

if TYPE_CHECKING:
    from starlette.applications import Starlette

SAMPLER = SamplerSettings("ddim", num_inference_steps=4)
"""A person waits: fewer steps than an evaluation takes."""


def play(
    ckpt: Path = Path(REFERENCE),
    start: Path | None = None,
    episodes: Path | None = None,
    num_episodes: int | None = 8,
    fps: float = 8.0,
    host: str = "127.0.0.1",
    port: int = 8020,
    visitors: int = 4,
    chunks: int = 64,
    idle_minutes: float = 30.0,
    preview: Preview = "all",
    no_browser: bool = False,
    generation: GenerationSettings = GenerationSettings(sampler=SAMPLER),  # noqa: B008 (frozen)
    device: str = AUTO,
    fit: Fit | None = None,
) -> None:
    """Serve a page on which a person drives the model chunk by chunk, without and with memory side by side.

    Give --start, --episodes, or both; a model with an example, as `reference` has one, can go without.
    Episodes that come back and the example bring a way out that can be shown before a person drives on.
    Any chunk can be gone back to and left by another action; videos and memories can be saved, and
    `sfv rollout --resume-from` goes on from them.

    Args:
        ckpt: folder of a world model or of a run that holds one; `reference` comes with sfv.
        start: first frames to begin with: a video, an image (context of 1 frame), or a folder of them.
        episodes: folder of episode shards, whose first frames can be begun with too.
        num_episodes: how many of them; null takes all.
        fps: frames per second of what begins with --start.
        host: address to listen on; others than this computer's own let everybody in who reaches it.
        port: of the page; 0 takes a free one.
        visitors: at a time, each on their own; they share the model, chunk by chunk.
        chunks: that a visitor can hold, each with a memory of its own.
        idle_minutes: minutes after which a visitor who does nothing is dropped, with all they made.
        preview: frames shown after each sampling step: all or the last of the chunk, or none. Decoding
            them costs a part of the step where the codec is a large one.
        no_browser: do not open the page.
        generation: sampler, fast learning and precision.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
        fit: brings a --start of another size to that of the model's training: `crop` cuts the middle out,
            `stretch` changes the shape of things, `pad` adds black bars. null refuses another size.
    """
    try:
        from sfv.play.server import make_app
        from sfv.report import web
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing; pip install 'sfv[play]'") from error
    from sfv.play.actions import Actions
    from sfv.play.hall import Hall, Limits
    from sfv.play.starts import find_starts
    from sfv.report.address import check_port, url

    check_port(port)
    limits = Limits(visitors, chunks, idle_minutes * 60)
    world = WorldModel.load(ckpt, device)
    example = find_example(ckpt) if start is None and episodes is None else None
    starts = find_starts(world, start, episodes, num_episodes, fps, fit, example)
    actions = Actions(world.text, [action for each in starts for action in each.actions])
    with open_player(world, generation, preview) as player:
        hall = Hall(player, starts, actions, limits)
        size = hall.memory_bytes / 1e9
        print(
            f"{len(starts)} starts, {len(actions.offered)} actions; up to {visitors} visitors x {chunks} "
            f"memories of {size:.2g} GB = {size * visitors * chunks:.2g} GB"
        )

        def opened(hosts: list[str], number: int) -> "Starlette":
            if not no_browser and "*" not in hosts:
                _show(url(host, number))
            return make_app(hall, hosts, number)

        web.serve(opened, host, port)


def _show(address: str) -> None:
    """Open a browser; one that runs in the terminal must not hold up the server."""
    threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
