"""The swap test's videos: one context, one noise, two actions."""

from collections.abc import Sequence

from sfv.generation.episodes import TrueEpisode
from sfv.generation.rollout import Request, Rollout
from sfv.metrics.action_following import Swap


def make_swaps(
    rollout: Rollout, episodes: Sequence[TrueEpisode], num_swaps: int
) -> list[list[Swap]]:
    """Generate some chunks of each episode twice, the second time under another action.

    The chunks lie evenly over the episode, each behind its true context. The other actions are those
    of all episodes, taken in turn.

    Args:
        rollout: makes the chunks, without memory.
        episodes: true episodes.
        num_swaps: chunks an episode; all of a shorter one.

    Raises:
        ValueError: all episodes have one and the same action, or no swap is asked for.
    """
    actions = sorted({action for episode in episodes for action in episode.actions})
    if len(actions) < 2 or num_swaps < 1:
        raise ValueError(
            f"{num_swaps} swaps an episode with the actions {actions}; a swap test needs at least one "
            "swap and two actions"
        )
    return [_swaps(rollout, episode, actions, num_swaps) for episode in episodes]


def _swaps(
    rollout: Rollout, episode: TrueEpisode, actions: Sequence[str], num_swaps: int
) -> list[Swap]:
    total = len(episode.actions)
    num = min(num_swaps, total)
    return [
        _swap(rollout, episode, 1 + (2 * i + 1) * total // (2 * num), actions, i)
        for i in range(num)
    ]


def _swap(
    rollout: Rollout, episode: TrueEpisode, place: int, actions: Sequence[str], turn: int
) -> Swap:
    action = episode.meta.actions[place]
    others = [other for other in actions if other != action.text]
    other = others[turn % len(others)]
    before = slice(action.start - rollout.model.num_context, action.start)
    start = episode.latents[:, :, before]
    # One name for both: the noise hangs on it, so only the action differs.
    name = f"{episode.meta.id}/swap-{place}"
    made = rollout.run_many([Request(name, start, [text]) for text in (action.text, other)])
    first, second = (rollout.model.decode(chunks[0].generated)[0] for chunks in made)
    return Swap(episode.video[before], action.text, other, first, second)
