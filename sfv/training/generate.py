"""Rollouts of test episodes, with the truth shown and without, with memory and without."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.data.schema import EpisodeMeta
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.memory_check import read_fields
from sfv.fast.rollout import Chunk, Request, Rollout, join
from sfv.models.world_model import WorldModel
from sfv.training.slow_fast import LoRASettings
from sfv.types import Precision

Row = Literal["none", "fast"]
"""A row of the report: without memory, or with fast learning."""


@dataclass(frozen=True)
class GenerationSettings:
    """How videos are made.

    Args:
        sampler: diffusion sampler, sampling steps, guidance.
        lora: the shape of Θ.
        fast: how Θ learns.
        precision: arithmetic; `bf16` is faster on recent CPUs and GPUs.
        seed: names the noise; rows share it.
        videos_at_once: videos in one batch when episodes are measured; each has its own Θ and comes out
            as it would alone, up to rounding.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    lora: LoRASettings = field(default_factory=LoRASettings)
    fast: FastSettings = field(default_factory=FastSettings)
    precision: Precision = "32"
    seed: int = 0
    videos_at_once: int = 1

    def __post_init__(self) -> None:
        if self.videos_at_once < 1:
            raise ValueError(f"videos_at_once is {self.videos_at_once}; allowed: at least 1")


def settings_from(content: Mapping[str, Any], source: str) -> GenerationSettings:
    """The settings that a memory's header keeps.

    Raises:
        ValueError: they are of another version, or a number is out of the limits of files.
    """
    needed = ("sampler", "lora", "fast", "precision", "seed")
    try:
        missing = [name for name in needed if name not in content]
        if missing:
            raise ValueError(f"{source}: settings.{missing[0]} is missing")
        given = {name: content[name] for name in needed}
        return read_fields(GenerationSettings, given, f"{source}: settings")
    except ValueError as error:
        raise ValueError(
            f"{error}. The memory does not say how its rollout was made: give the --generation settings "
            "yourself"
        ) from error


@dataclass(frozen=True)
class TrueEpisode:
    """A true episode to compare with.

    Args:
        meta: its description.
        video: its frames, `t 3 height width`, in [0, 1].
        latents: the codec's encoding, `1 c t h w`.
    """

    meta: EpisodeMeta
    video: Float[Tensor, "t 3 height width"]
    latents: Float[Tensor, "1 c t h w"]

    @property
    def actions(self) -> list[str]:
        """One a chunk to make: the first chunk is given."""
        return [action.text for action in self.meta.actions[1:]]


@dataclass(frozen=True)
class EpisodeVideos:
    """What one row made of one episode; all `t 3 height width` in [0, 1].

    Args:
        next_chunk: the chunks whose truth was shown afterwards, each generated from its true context,
            joined; they start behind the given first chunk.
        returned: the true way out and the generated way back; None without revisits.
        long: the rollout in which only the first chunk is true.
        losses: `fast/loss` of each chunk of the long rollout (empty without memory).
        gains: `fast/gain` of each chunk of the long rollout.
        drifts: `fast/drift` of each chunk of the long rollout.
        num_undone: chunks of both rollouts whose learning the guard took back.
        layers: ‖ΔW‖ of each adapted layer after each chunk of the long rollout.
    """

    next_chunk: Float[Tensor, "t 3 height width"]
    returned: Float[Tensor, "t2 3 height width"] | None
    long: Float[Tensor, "t3 3 height width"]
    losses: list[float]
    gains: list[float]
    drifts: list[float] = field(default_factory=list)
    num_undone: int = 0
    layers: list[dict[str, float]] = field(default_factory=list)


@contextmanager
def rollout_of(model: WorldModel, row: Row, settings: GenerationSettings) -> Iterator[Rollout]:
    """Build the rollout of a row; Θ acts in the denoiser only within this context."""
    if row == "none":
        yield Rollout(model, settings.sampler, None, settings.seed, settings.precision)
        return
    with settings.lora.adapt(model.denoiser) as lora:
        learner = FastLearner(
            model.denoiser,
            lora,
            model.schedule,
            model.text,
            model.num_context,
            settings.fast,
            settings.seed,
            settings.precision,
        )
        if model.start is not None:
            learner.start = settings.lora.theta(lora, model.start)
        yield Rollout(model, settings.sampler, learner, settings.seed, settings.precision)


def check_episode(meta: EpisodeMeta, model: WorldModel) -> None:
    """Check that an episode is cut as the model generates.

    Raises:
        ValueError: an action is not f_g frames long, or the episode is shorter than one window.
    """
    window = model.num_context + model.num_generated
    if meta.num_frames < window:
        raise ValueError(
            f"episode {meta.id} has {meta.num_frames} frames, but one window of this model has "
            f"{window} (context {model.num_context} + generated {model.num_generated}); leave it out"
        )
    for action in meta.actions[1:]:
        if action.stop - action.start != model.num_generated:
            raise ValueError(
                f"episode {meta.id}: action {action.text!r} lasts frames {action.start} to "
                f"{action.stop}, but this model generates {model.num_generated} frames an action; "
                "collect or cut episodes with that many frames an action"
            )
    if meta.actions[0].stop < model.num_context:
        raise ValueError(
            f"episode {meta.id}: its first action ends at frame {meta.actions[0].stop}, but the "
            f"context needs {model.num_context} frames before the next action"
        )


def num_outbound(meta: EpisodeMeta) -> int | None:
    """Chunks after the first until the way back begins; None for an episode without revisits."""
    if not meta.revisits:
        return None
    turn = min(later for _, later in meta.revisits)
    return sum(action.stop <= turn for action in meta.actions) - 1


def generate(
    rollout: Rollout,
    episodes: Sequence[TrueEpisode],
    at_once: int = 1,
    on_chunk: Callable[[Chunk], None] | None = None,
) -> list[EpisodeVideos]:
    """Roll each episode out twice.

    First with its truth shown: the way out of a there-and-back walk, all chunks of other episodes.
    Then with nothing but the first chunk.

    Args:
        rollout: makes the videos.
        episodes: what they start from.
        at_once: videos in one batch.
        on_chunk: called for every chunk made.
    """
    requests = [request for episode in episodes for request in _requests(rollout, episode)]
    made: list[list[Chunk]] = []
    for i in range(0, len(requests), at_once):
        made += rollout.run_many(requests[i : i + at_once], on_chunk)
    pairs = zip(episodes, made[::2], made[1::2], strict=True)
    return [_videos(rollout.model, episode, guided, long) for episode, guided, long in pairs]


def _requests(rollout: Rollout, episode: TrueEpisode) -> tuple[Request, Request]:
    """The guided and the long rollout of an episode."""
    start, shown = _given(rollout.model, episode)
    actions, key = episode.actions, episode.meta.id
    return Request(key, start, actions, shown), Request(key, start, actions)


def _given(
    model: WorldModel, episode: TrueEpisode
) -> tuple[Float[Tensor, "1 c t h w"], Float[Tensor, "1 c t2 h w"]]:
    """The first chunk, and the true chunks that the guided rollout is shown."""
    first = episode.meta.actions[0].stop
    outbound = num_outbound(episode.meta)
    num_shown = len(episode.actions) if outbound is None else outbound
    last = first + num_shown * model.num_generated
    return episode.latents[:, :, :first], episode.latents[:, :, first:last]


def _videos(
    model: WorldModel, episode: TrueEpisode, guided: Sequence[Chunk], long: Sequence[Chunk]
) -> EpisodeVideos:
    start, shown = _given(model, episode)
    num_shown = shown.shape[2] // model.num_generated
    predicted = torch.cat([chunk.generated for chunk in guided[:num_shown]], dim=2)
    returned = None
    if num_outbound(episode.meta) is not None:
        back = torch.cat([chunk.generated for chunk in guided[num_shown:]], dim=2)
        way_out = episode.video[: start.shape[2] + shown.shape[2]]
        returned = torch.cat([way_out, model.decode(back)[0]])
    learned = [chunk.learned for chunk in long if chunk.learned is not None]
    return EpisodeVideos(
        next_chunk=model.decode(predicted)[0],
        returned=returned,
        long=model.decode(join(start, long))[0],
        losses=[report.loss for report in learned],
        gains=[report.gain for report in learned],
        drifts=[report.drift for report in learned],
        num_undone=sum(
            chunk.learned is not None and chunk.learned.undone for chunk in (*guided, *long)
        ),
        layers=[report.layers for report in learned],
    )


def num_chunks(episodes: Sequence[TrueEpisode]) -> int:
    """Chunks that `generate` will report, for a progress bar."""
    return sum(2 * len(episode.actions) for episode in episodes)
