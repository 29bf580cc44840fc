"""True episodes for rollouts and evaluation, encoded by the model's own codec."""

from pathlib import Path

from sfv.data.datamodule import episodes as read_episodes
from sfv.models.world_model import WorldModel
from sfv.training.generate import TrueEpisode, check_episode

ANEW = "bring the episodes to that size: python -m data_tools.cut EPISODES --size HEIGHT WIDTH"


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
