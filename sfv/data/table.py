"""The table of all episodes: where each lies, and which frames its actions cover."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfv.data.schema import DOMAINS, EpisodeMeta

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EpisodeTable:
    """One row an episode, in the order of the shards.

    Args:
        shard: which shard it lies in, int32.
        begin: where its first member starts in the tar, bytes, int64.
        end: one past its last member, bytes, int64.
        domain: place in `DOMAINS`, uint8.
        num_actions: int32.
        action_stop: one past the last frame of each action of all episodes in turn, int32.
    """

    shard: NDArray[np.int32]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    domain: NDArray[np.uint8]
    num_actions: NDArray[np.int32]
    action_stop: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.shard)

    def spans(self, shard: int) -> list[tuple[int, int]]:
        """First byte of each episode of a shard, and one past its last, from front to back."""
        mine = self.shard == shard
        return sorted(zip(self.begin[mine].tolist(), self.end[mine].tolist(), strict=True))

    @property
    def first_action(self) -> Ints:
        """Where each episode's actions begin in `action_stop`."""
        return np.concatenate([[0], np.cumsum(self.num_actions, dtype=np.int64)[:-1]])

    def of_shards(self, chosen: Sequence[int]) -> "EpisodeTable":
        """The rows of some shards, which become shards 0, 1, ..."""
        place = np.full(int(self.shard.max(initial=-1)) + 1, -1, dtype=np.int32)
        place[list(chosen)] = np.arange(len(chosen), dtype=np.int32)
        rows = np.flatnonzero(place[self.shard] >= 0)
        rows = rows[np.argsort(place[self.shard[rows]], kind="stable")]
        return self._rows(rows, place[self.shard[rows]])

    def _rows(self, rows: Ints, shard: NDArray[np.int32]) -> "EpisodeTable":
        counts = self.num_actions[rows]
        start = np.repeat(self.first_action[rows], counts)
        within = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
        return EpisodeTable(
            shard,
            self.begin[rows],
            self.end[rows],
            self.domain[rows],
            counts,
            self.action_stop[start + within],
        )


COLUMNS: dict[str, type[np.integer[Any]]] = {
    "shard": np.int32,
    "begin": np.int64,
    "end": np.int64,
    "domain": np.uint8,
    "num_actions": np.int32,
    "action_stop": np.int32,
}
"""The type of each column of an `EpisodeTable`."""


def table_of(metas: Sequence[EpisodeMeta], spans: Sequence[tuple[int, int]]) -> EpisodeTable:
    """Build the table of one shard.

    Args:
        metas: of its episodes, in order.
        spans: first byte of each episode in the tar, and one past its last.
    """
    places = np.array(spans, dtype=np.int64).reshape(-1, 2)
    stops = [action.stop for meta in metas for action in meta.actions]
    return EpisodeTable(
        shard=np.zeros(len(metas), dtype=np.int32),
        begin=places[:, 0].copy(),
        end=places[:, 1].copy(),
        domain=np.array([DOMAINS.index(meta.domain) for meta in metas], dtype=np.uint8),
        num_actions=np.array([len(meta.actions) for meta in metas], dtype=np.int32),
        action_stop=np.array(stops, dtype=np.int32),
    )


def join_tables(tables: Sequence[EpisodeTable]) -> EpisodeTable:
    """Put the tables of several folders or shards one after the other; shards are numbered anew."""
    counts = [int(table.shard.max(initial=-1)) + 1 for table in tables]
    before = np.cumsum([0, *counts[:-1]])
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("begin", "end", "domain", "num_actions", "action_stop")
    }
    shard = np.concatenate([table.shard + n for table, n in zip(tables, before, strict=True)])
    return EpisodeTable(shard.astype(np.int32), **columns)


def fault_in_columns(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """What keeps arrays from being an `EpisodeTable`, in words that follow its name."""
    types = {name: (column.dtype.type, column.ndim) for name, column in columns.items()}
    if types != {name: (kind, 1) for name, kind in COLUMNS.items()}:
        return "has columns of another type"
    if len({len(column) for name, column in columns.items() if name != "action_stop"}) > 1:
        return "has columns of different lengths"
    return None


def fault_in(
    table: EpisodeTable, num_episodes: Sequence[int], num_bytes: Sequence[int]
) -> str | None:
    """What cannot be true of a table, in words that follow its name.

    Found before anything is read or made room for by it.

    Args:
        table: as it was read.
        num_episodes: in each shard, as the index says.
        num_bytes: of each shard.
    """
    if not len(table):
        return "holds no episode" if any(num_episodes) else None
    num, inside = len(num_episodes), table.shard.min() >= 0 and table.shard.max() < len(num_bytes)
    if not inside or np.bincount(table.shard, minlength=num).tolist() != list(num_episodes):
        return "counts other numbers of episodes in the shards"
    if table.domain.max() >= len(DOMAINS):
        return f"names domain {table.domain.max()}; known are {len(DOMAINS)}"
    most = np.array(num_bytes, dtype=np.int64)[table.shard]
    if not ((table.begin >= 0) & (table.begin < table.end) & (table.end <= most)).all():
        return "places an episode outside its shard"
    if table.num_actions.min() < 1 or table.num_actions.sum(dtype=np.int64) != len(
        table.action_stop
    ):
        return "counts other numbers of actions than it lists"
    first = table.first_action
    lengths = np.diff(table.action_stop.astype(np.int64), prepend=0)
    lengths[first] = table.action_stop[first]
    if lengths.min() < 1:
        return "holds an action without frames"
    last = table.action_stop[first + table.num_actions - 1]
    if (last > table.end - table.begin).any():
        return "gives an episode more frames than it has bytes"
    return None
