"""What an evaluation measures beside its standard metrics: curves, probes, action following."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sfv.evaluation.probe import ProbedEpisode, learn_episode, probe_memories
from sfv.evaluation.swap import make_swaps
from sfv.evaluation.videos import EpisodeVideos, num_predicted
from sfv.fast.learner import FastLearner
from sfv.generation.episodes import TrueEpisode, num_outbound
from sfv.generation.settings import GenerationSettings, Row, memory_of, rollout_of
from sfv.metrics.curves import Bin, Curve
from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.suite import (
    check_clips,
    score_actions,
    score_curves,
    score_swaps,
    score_transnet,
    videos_hash,
)
from sfv.metrics.weights import I3D_KINETICS, LPIPS_ALEX, TRANSNET_V2, find
from sfv.models.inverse_dynamics import InverseDynamics, InverseReader
from sfv.models.world_model import WorldModel


@dataclass(frozen=True)
class ExtraMeasures:
    """What to measure beside the standard metrics.

    Args:
        curves: recall by revisit gap and drift over length, of the long videos.
        transnet: count scene cuts a second time, by TransNetV2.
        probe_draws: noise levels a chunk of the memory probe, in which Θ learns each true episode and is
            tried on its frames and on another's; 0 leaves it out. It needs two episodes, and is for the
            temporal LoRA alone: an addressed memory has no Θ.
        inverse_dynamics: model folder of `sfv fit inverse_dynamics`; null leaves action following out.
        swaps: chunks an episode of the swap test, each made twice; 0 leaves it out. It needs
            `inverse_dynamics`.
    """

    curves: bool = True
    transnet: bool = False
    probe_draws: int = 0
    inverse_dynamics: Path | None = None
    swaps: int = 0

    def __post_init__(self) -> None:
        if self.probe_draws < 0 or self.swaps < 0:
            raise ValueError(
                f"probe_draws={self.probe_draws}, swaps={self.swaps}; allowed: 0 (none) or more"
            )
        if self.swaps and self.inverse_dynamics is None:
            raise ValueError(
                f"swaps={self.swaps} without inverse_dynamics; give the model folder of "
                "sfv fit inverse_dynamics, which reads the actions back"
            )


def check_measurable(
    world: WorldModel,
    episodes: Sequence[TrueEpisode],
    extra: ExtraMeasures,
    rows: Sequence[Row],
) -> None:
    """Find what would stop the measuring before anything is generated, which may take hours.

    Raises:
        ValueError: the episodes are too few or too short for a measure, have actions that the inverse model
            does not read, or no row has what it measures.
        WeightsMissing: a network that measures is not installed.
        FileNotFoundError: there is no inverse dynamics model where `extra` says.
    """
    check_clips([num_predicted(world, episode) for episode in episodes])
    for weights in (I3D_KINETICS, LPIPS_ALEX, *([TRANSNET_V2] if extra.transnet else [])):
        find(weights)
    actions = {action for episode in episodes for action in episode.actions}
    if extra.inverse_dynamics is not None:
        read = InverseDynamics.load(extra.inverse_dynamics).actions
        if unknown := sorted(actions - set(read)):
            raise ValueError(
                f"the episodes have actions {unknown}, which the inverse model does not read; it reads "
                f"{list(read)}: train one that knows them, or leave inverse_dynamics out"
            )
    if extra.swaps and len(actions) < 2:
        raise ValueError(f"a swap test needs two actions, the episodes have {sorted(actions)}")
    if extra.probe_draws and len(episodes) < 2:
        raise ValueError(
            f"{len(episodes)} episode; a memory probe compares with another one: give at least two"
        )
    if extra.probe_draws and probed_row(world, rows) is None:
        raise ValueError(
            f"a memory probe is for the temporal LoRA, and none of the rows {list(rows)} has one; add the "
            "row temp_lora, or set extra.probe_draws to 0"
        )


def probed_row(world: WorldModel, rows: Iterable[Row]) -> Row | None:
    """The row whose temporal LoRA is probed; an addressed memory has no denoising loss of its own."""
    return next((row for row in rows if memory_of(world, row) == "temp_lora"), None)


def extra_scores(
    world: WorldModel,
    episodes: Sequence[TrueEpisode],
    videos: Mapping[Row, Sequence[EpisodeVideos]],
    generation: GenerationSettings,
    extra: ExtraMeasures,
) -> dict[Row, dict[str, MetricValue]]:
    """The scores that `extra` asks for, of every row that was generated."""
    found: dict[Row, dict[str, MetricValue]] = {row: {} for row in videos}
    truth, seed = [episode.video for episode in episodes], generation.seed
    if extra.transnet:
        for row, made in videos.items():
            long = [video.long for video in made]
            found[row] |= score_transnet(long, reference=truth, seed=seed)
    if extra.inverse_dynamics is not None:
        reader = InverseReader(InverseDynamics.load(extra.inverse_dynamics))
        for row, made in videos.items():
            found[row] |= follow_actions(episodes, made, reader, seed)
        if extra.swaps and "none" in videos:
            with rollout_of(world, "none", generation) as rollout:
                swaps = make_swaps(rollout, episodes, extra.swaps)
            found["none"] |= score_swaps(swaps, reader, seed=seed)
    probed = probed_row(world, videos) if extra.probe_draws else None
    if probed is not None:
        found[probed] |= probe(world, episodes, generation, extra.probe_draws)
    return found


def extra_curves(
    world: WorldModel,
    episodes: Sequence[TrueEpisode],
    videos: Mapping[Row, Sequence[EpisodeVideos]],
    seed: int,
) -> dict[Row, dict[str, Curve]]:
    """Curves of the long videos of every row."""
    return {
        row: score_curves(
            [video.long for video in made],
            [episode.meta.revisits for episode in episodes],
            chunk_frames=world.num_generated,
            reference=[episode.video for episode in episodes],
            seed=seed,
        )
        for row, made in videos.items()
    }


def follow_actions(
    episodes: Sequence[TrueEpisode],
    made: Sequence[EpisodeVideos],
    reader: InverseReader,
    seed: int,
) -> dict[str, MetricValue]:
    """Read the actions of the generated chunks of long videos back."""
    return score_actions(
        [video.long for video in made],
        [[(a.text, a.start, a.stop) for a in episode.meta.actions[1:]] for episode in episodes],
        reader,
        reference=[episode.video for episode in episodes],
        context="the first chunk is true, not scored",
        seed=seed,
    )


def probe(
    world: WorldModel,
    episodes: Sequence[TrueEpisode],
    generation: GenerationSettings,
    num_draws: int,
) -> dict[str, MetricValue]:
    """Let Θ learn the true way out of each episode (all of it without a way back), and try it.

    `memory_gain`: share of the denoising loss on the episode's own frames that Θ takes away;
    `memory_gain_other`: the same on another episode's frames; `memory_held`: their difference.
    """
    probed = [_probed(episode, world) for episode in episodes]
    with rollout_of(world, "temp_lora", generation) as rollout:
        learner = rollout.learner
        assert isinstance(learner, FastLearner)
        memories = [learn_episode(learner, episode) for episode in probed]
        losses = probe_memories(learner, memories, probed, num_draws)
    base = Passport(
        "",
        "next_chunk",
        len(episodes),
        seed=generation.seed,
        context="true frames, learned by Θ",
        reference_sha256=videos_hash([episode.video for episode in episodes]),
        settings=f"{num_draws} noise levels a chunk; rule {generation.fast.rule}",
    )
    named = {
        "memory_gain": [one.gain_own for one in losses],
        "memory_gain_other": [one.gain_other for one in losses],
        "memory_held": [one.held for one in losses],
    }
    return {name: mean_value(each, replace(base, metric=name)) for name, each in named.items()}


def _probed(episode: TrueEpisode, world: WorldModel) -> ProbedEpisode:
    outbound = num_outbound(episode.meta)
    actions = episode.meta.actions[1 : None if outbound is None else 1 + max(1, outbound)]
    pairs = [episode.latents[:, :, a.start - world.num_context : a.stop] for a in actions]
    return ProbedEpisode(episode.meta.id, torch.cat(pairs), [action.text for action in actions])


def drawn(curves: Mapping[Row, Mapping[str, Curve]]) -> dict[str, Any]:
    """The same curves as a report draws them: at the middle of each bin, null where a row has none."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for of_row in curves.values() for name in of_row):
        known = {row: of_row[name] for row, of_row in curves.items() if name in of_row}
        bins = {row: {_middle(b): b.value for b in curve.bins} for row, curve in known.items()}
        x = sorted({middle for of_row in bins.values() for middle in of_row})
        content: dict[str, Any] = {
            "x": x,
            "axis": next(iter(known.values())).axis,
            "unit": "frames",
        }
        for key, end in (("rows", "value"), ("low", "low"), ("high", "high")):
            content[key] = {
                row: [of_row[middle].to_dict()[end] if middle in of_row else None for middle in x]
                for row, of_row in bins.items()
            }
        if x:
            found[name] = content
    return found


def _middle(one: Bin) -> float:
    return (one.start + one.stop - 1) / 2
