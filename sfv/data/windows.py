"""Windows: f_p context frames and f_g frames under one action, cut from episodes of any length.

The same cut is computed for one episode at hand, and for a whole index at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from sfv.data.schema import EpisodeMeta, Kind
from sfv.data.table import EpisodeTable, Ints

TIME_AXIS: dict[Kind, int] = {"latents": 1, "video": 0, "frames": 0}

Bucket = tuple[int, int]
"""(f_p, f_g): windows of one bucket make up a batch."""


class WindowError(ValueError):
    """No window of the wanted length can be cut from an episode."""


@dataclass(frozen=True)
class Window:
    """Context and target frames of one action.

    Args:
        key: `EPISODE/FIRST_GENERATED_FRAME`.
        action: the words for the target frames.
        frames: context then target; latents `c t h w` or video `t 3 height width`.
        num_context: how many of them are context.
    """

    key: str
    action: str
    frames: Tensor
    num_context: int


@dataclass(frozen=True, eq=False)
class WindowTable:
    """Every window of some episodes, in stored order.

    Args:
        episode: row of its episode in the episode table, int32.
        action: place of its action in the episode, int32.
        start: first generated frame, int32.
        bucket: place of its (f_p, f_g) in the list of buckets, uint8.
        unused_frames: frames of the episodes that no window generates (but the very first ones).
    """

    episode: NDArray[np.int32]
    action: NDArray[np.int32]
    start: NDArray[np.int32]
    bucket: UInt8[np.ndarray, " m"]
    unused_frames: int

    def __len__(self) -> int:
        return len(self.episode)


def check_buckets(buckets: Sequence[Bucket]) -> None:
    """Refuse lengths that mean nothing.

    Raises:
        WindowError: no bucket, one twice, or a length below 1.
    """
    if not buckets or len(set(buckets)) < len(buckets) or any(min(pair) < 1 for pair in buckets):
        raise WindowError(
            f"buckets are {[list(pair) for pair in buckets]}; allowed is a list of different "
            "[num_context, num_generated], each at least 1"
        )


def cut(
    num_actions: NDArray[np.int32], stops: NDArray[np.int32], buckets: Sequence[Bucket]
) -> WindowTable:
    """Cut every action of every episode into windows.

    From an action's first frame on, the longest bucket that fits is taken again and again: its f_g
    frames within what is left of the action, its f_p frames before them within the episode. So a long
    action gives several windows, and the first chunk of an episode gives one where a bucket has a short
    context ((1, 7) beside (8, 8), say).

    Args:
        num_actions: of each episode.
        stops: one past each action's last frame, episode after episode.
        buckets: allowed (f_p, f_g).
    """
    check_buckets(buckets)
    order = sorted(range(len(buckets)), key=lambda i: (-buckets[i][1], -buckets[i][0]))
    episode = np.repeat(np.arange(len(num_actions), dtype=np.int32), num_actions)
    first = np.repeat(np.cumsum(num_actions) - num_actions, num_actions)
    action = (np.arange(len(stops)) - first).astype(np.int32)
    begin = np.where(action == 0, 0, np.roll(stops, 1))
    place = np.maximum(begin, min(pair[0] for pair in buckets)).astype(np.int32)
    live = np.arange(len(stops))
    found: list[tuple[Ints, NDArray[np.int32], UInt8[np.ndarray, " m"]]] = []
    unused = 0
    while len(live):
        chosen = np.full(len(live), -1, dtype=np.int64)
        for i in order:
            context, new = buckets[i]
            fits = (chosen < 0) & (context <= place[live]) & (new <= stops[live] - place[live])
            chosen[fits] = i
        ended = live[chosen < 0]
        unused += int(np.maximum(stops[ended] - place[ended], 0).sum())
        live, chosen = live[chosen >= 0], chosen[chosen >= 0]
        found.append((live, place[live].copy(), chosen.astype(np.uint8)))
        place[live] += np.array([pair[1] for pair in buckets], dtype=np.int32)[chosen]
    which, start, bucket = (np.concatenate(part) for part in zip(*found, strict=True))
    stored = np.lexsort((start, which))
    which = which[stored]
    return WindowTable(episode[which], action[which], start[stored], bucket[stored], unused)


def cut_table(table: EpisodeTable, buckets: Sequence[Bucket]) -> WindowTable:
    """Cut every episode of a table."""
    return cut(table.num_actions, table.action_stop, buckets)


def window_at(meta: EpisodeMeta, frames: Tensor, action: int, start: int, bucket: Bucket) -> Window:
    """Take one window out of an episode's frames; a view.

    Args:
        meta: the episode.
        frames: as `decode` gives them.
        action: its place in `meta.actions`.
        start: first generated frame.
        bucket: (f_p, f_g).
    """
    context, new = bucket
    part = frames.narrow(TIME_AXIS[meta.encoding.kind], start - context, context + new)
    return Window(f"{meta.id}/{start:05d}", meta.actions[action].text, part, context)


def windows(
    meta: EpisodeMeta, frames: Tensor, num_context: int, num_generated: int
) -> list[Window]:
    """Cut one episode into windows of one length, as `cut` does.

    Raises:
        WindowError: not one window can be cut.
    """
    bucket = (num_context, num_generated)
    lengths = np.array([len(meta.actions)], dtype=np.int32)
    stops = np.array([action.stop for action in meta.actions], dtype=np.int32)
    table = cut(lengths, stops, [bucket])
    if not len(table):
        longest = max(action.stop - action.start for action in meta.actions)
        raise WindowError(
            f"episode {meta.id!r}: no window of {num_context} + {num_generated} frames fits (it has "
            f"{meta.num_frames} frames in {len(meta.actions)} actions of at most {longest}); lower "
            "num_context or num_generated, or collect longer episodes (--chunks)"
        )
    places = zip(table.action.tolist(), table.start.tolist(), strict=True)
    return [window_at(meta, frames, action, start, bucket) for action, start in places]
