"""True episodes for rollouts and evaluation, encoded by the model's own codec."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sfv.data.episodes import episodes as read_episodes
from sfv.data.schema import EpisodeMeta
from sfv.models.world_model import WorldModel

ANEW = "bring the episodes to that size: python -m data_tools.cut EPISODES --size HEIGHT WIDTH"


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

    def poses_after(self, first: int) -> Float64[Tensor, "n 4"] | None:
        """Recorded poses from frame `first` - 1 on, which a request that begins with `first` takes."""
        if self.meta.poses is None:
            return None
        return torch.tensor(self.meta.poses[first - 1 :], dtype=torch.float64)


def load_episodes(folder: Path, world: WorldModel, num: int | None) -> list[TrueEpisode]:
    """Read video episodes from shards and encode them.

    Args:
        folder: folder of shards.
        world: decides codec and window.
        num: how many, in the order of the shards; None takes all.

    Raises:
        ValueError: an episode is cut in another way than the model generates, holds latents instead
            of video, is of another size than the model's training frames, or there are fewer than `num`.
    """
    if num is not None and num < 1:
        raise ValueError(f"{num} episodes were asked for; ask for at least 1, or null for all")
    found: list[TrueEpisode] = []
    for meta, video in read_episodes(folder):
        if len(found) == num:
            break
        if meta.encoding.kind != "video":
            raise ValueError(
                f"{folder} holds {meta.encoding.kind}; true video is needed here: give the folder of the "
                "shards that they were encoded from"
            )
        check_episode(meta, world)
        world.check_frame_size((video.shape[2], video.shape[3]), f"episode {meta.id}", ANEW)
        found.append(TrueEpisode(meta, video, world.encode(video[None])))
    if num is not None and len(found) < num:
        raise ValueError(
            f"{folder} has {len(found)} episodes, but {num} were asked for; collect more or ask for fewer"
        )
    return found


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
