"""Videos that are measured: test episodes with the truth shown, and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.generation.episodes import TrueEpisode, num_outbound
from sfv.generation.rollout import Chunk, Request, Rollout, join
from sfv.models.world_model import WorldModel


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
        num_learned: chunks of both rollouts that were learned or written.
        layers: ‖ΔW‖ of each adapted layer after each chunk of the long rollout.
    """

    next_chunk: Float[Tensor, "t 3 height width"]
    returned: Float[Tensor, "t2 3 height width"] | None
    long: Float[Tensor, "t3 3 height width"]
    losses: list[float]
    gains: list[float]
    drifts: list[float] = field(default_factory=list)
    num_undone: int = 0
    num_learned: int = 0
    layers: list[dict[str, float]] = field(default_factory=list)


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
    actions, key, poses = episode.actions, episode.meta.id, episode.poses_after(start.shape[2])
    return Request(key, start, actions, shown, poses=poses), Request(
        key, start, actions, poses=poses
    )


def num_predicted(model: WorldModel, episode: TrueEpisode) -> int:
    """Frames of the chunks whose truth is shown afterwards: of `EpisodeVideos.next_chunk`."""
    outbound = num_outbound(episode.meta)
    num_shown = len(episode.actions) if outbound is None else outbound
    return num_shown * model.num_generated


def _given(
    model: WorldModel, episode: TrueEpisode
) -> tuple[Float[Tensor, "1 c t h w"], Float[Tensor, "1 c t2 h w"]]:
    """The first chunk, and the true chunks that the guided rollout is shown."""
    first = episode.meta.actions[0].stop
    last = first + num_predicted(model, episode)
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
        returned = _returned(model, episode, back)
    learned = [chunk.learned for chunk in long if chunk.learned is not None]
    reports = [chunk.learned for chunk in (*guided, *long) if chunk.learned is not None]
    return EpisodeVideos(
        next_chunk=model.decode(predicted)[0],
        returned=returned,
        long=model.decode(join(start, long))[0],
        losses=[report.loss for report in learned],
        gains=[report.gain for report in learned],
        drifts=[report.drift for report in learned],
        num_undone=sum(report.undone for report in reports),
        num_learned=len(reports),
        layers=[report.layers for report in learned],
    )


def decoded_truth(model: WorldModel, episode: TrueEpisode) -> EpisodeVideos:
    """The videos of a model that makes the true latents: the best that any can do with this codec."""
    start, shown = _given(model, episode)
    turn = start.shape[2] + shown.shape[2]
    whole = episode.latents[:, :, : episode.meta.actions[-1].stop]
    has_return = num_outbound(episode.meta) is not None
    return EpisodeVideos(
        next_chunk=model.decode(shown)[0],
        returned=_returned(model, episode, whole[:, :, turn:]) if has_return else None,
        long=model.decode(whole)[0],
        losses=[],
        gains=[],
    )


def _returned(
    model: WorldModel, episode: TrueEpisode, back: Float[Tensor, "1 c t h w"]
) -> Float[Tensor, "t2 3 height width"]:
    """The true way out, and a way back."""
    decoded = model.decode(back)[0]
    turn = episode.meta.actions[-1].stop - len(decoded)
    return torch.cat([episode.video[:turn], decoded])


def num_chunks(episodes: Sequence[TrueEpisode]) -> int:
    """Chunks that `generate` will report, for a progress bar."""
    return sum(2 * len(episode.actions) for episode in episodes)
