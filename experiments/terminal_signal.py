"""What a denoiser reads off the noisiest frames, and sampling does not have there.

    python -m experiments.terminal_signal --model reference-doom --episodes data/doom-val24/shards/val

A schedule without zero terminal SNR keeps √ᾱ of the frames at its last timestep T-1. Training shows the
denoiser that rest of the true frames; sampling has none to show. For every chunk of true episodes, under
its true context and action, the clean frames that the denoiser finds at T-1 are held against the true ones:

    truth      from the true frames, noised to T-1: what training measures
    context    from the newest context frame, noised to T-1 (`sampler.start: context`)
    noise      from noise alone, as the paper samples
    copy       no denoiser: the newest context frame stands still

`error` is the mean squared error of the latents, `motion` the mean absolute change from frame to frame, as
a share of the true one. Where `context` and `noise` err by more than `truth`, the denoiser has learned to
read what it will not have; with `zero_terminal_snr` the three are the same.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.command import run_command
from sfv import rng
from sfv.diffusion.sampler import starting_point
from sfv.generation.episodes import TrueEpisode, load_episodes
from sfv.metrics.interval import mean_interval
from sfv.models.world_model import WorldModel

STARTS = ("truth", "context", "noise", "copy")
Latents = Float[Tensor, "b c t h w"]


def measure(world: WorldModel, episode: TrueEpisode, seed: int) -> dict[str, tuple[float, float]]:
    """Error and motion of each start, means over the chunks of an episode."""
    size = world.num_context
    chunks = [(action.start, action.stop) for action in episode.meta.actions[1:]]
    context = torch.cat([episode.latents[:, :, first - size : first] for first, _ in chunks])
    truth = torch.cat([episode.latents[:, :, first:stop] for first, stop in chunks])
    generator = rng.stream(seed, "terminal-signal", episode.meta.id)
    noise = torch.randn(truth.shape, generator=generator)
    with torch.no_grad():
        guesses = first_guesses(world, context, truth, episode.actions, noise)
    moved = _motion(truth)
    return {
        name: (float((guess - truth).square().mean()), _motion(guess) / moved)
        for name, guess in guesses.items()
    }


def first_guesses(
    world: WorldModel, context: Latents, truth: Latents, actions: Sequence[str], noise: Latents
) -> dict[str, Latents]:
    """The clean frames that the denoiser finds in each start at T-1."""
    schedule, still = world.schedule, context[:, :, -1:].expand_as(truth)
    last = torch.full((len(truth),), schedule.last_timestep)
    starts = {"truth": schedule.add_noise(truth, noise, last)}
    for name in ("context", "noise"):
        starts[name] = starting_point(name, context, noise, schedule)
    text, found = world.text(list(actions)), {}
    for name, start in starts.items():
        latents = torch.cat([context, start], dim=2)
        prediction = world.denoiser(latents, last, text, context.shape[2])
        found[name] = schedule.to_clean(prediction[:, :, context.shape[2] :], start, last)
    return found | {"copy": still}


def _motion(latents: Latents) -> float:
    return float((latents[:, :, 1:] - latents[:, :, :-1]).abs().mean())


def table(scores: Sequence[Mapping[str, tuple[float, float]]]) -> str:
    """Means over episodes, with intervals of the difference from `truth`."""
    lines = [f"{'start':9}{'error':>7}  {'against truth':24}{'motion':>7}"]
    for name in STARTS:
        errors, motions = zip(*(score[name] for score in scores), strict=True)
        gaps = [score[name][0] - score["truth"][0] for score in scores]
        low, high = mean_interval(gaps)
        gap = f"{fmean(gaps):+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
        shown = "" if name == "truth" else gap
        lines.append(f"{name:9}{fmean(errors):7.3f}  {shown:24}{fmean(motions):7.2f}")
    return "\n".join(lines)


def terminal_signal(
    model: str, episodes: Path, num_episodes: int | None = None, seed: int = 0
) -> None:
    """Print the table.

    Args:
        model: folder of a world model, or `reference`.
        episodes: folder of video shards.
        num_episodes: how many are taken; null takes all.
        seed: names the noise.
    """
    world = WorldModel.load(model)
    chosen = load_episodes(episodes, world, num_episodes)
    scores = [measure(world, episode, seed) for episode in chosen]
    kept = world.schedule.coefficients(torch.tensor([world.schedule.last_timestep]))[0].item()
    print(
        f"{model} (Φ {world.fingerprint()}), {len(chosen)} episodes, seed {seed}: √ᾱ = {kept:.3f}"
    )
    print(table(scores))


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 2 after an error of the input."""
    return run_command("experiments.terminal_signal", terminal_signal, argv)


if __name__ == "__main__":
    sys.exit(main())
