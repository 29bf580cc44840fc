"""Decoded episodes of several folders of shards, kept in memory while they are needed."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from sfv.data.index import REPAIR, ShardError, ShardIndex, one_episode
from sfv.data.schema import EpisodeMeta
from sfv.data.sources import PipeReader, RangeReader, SampleReader
from sfv.data.stages import decode
from sfv.data.table import EpisodeTable, join_tables


class Library:
    """All episodes of some folders, by their row in one joined table.

    An episode is read and decoded at its first use and kept until its last. After that it stays as long
    as there is room, for the next epoch.

    Args:
        indexes: of the folders.
        commands: for each folder, the command that reads its shards; None reads them by itself.
        cache_mb: room for episodes that are not needed just now, 10^6 bytes.
    """

    def __init__(
        self,
        indexes: Sequence[ShardIndex],
        commands: Sequence[str | None] | None = None,
        cache_mb: float | int = 0,
    ) -> None:
        self.table: EpisodeTable = join_tables([index.table for index in indexes])
        self._first_action = self.table.first_action
        self._shards = [(i, shard) for i, index in enumerate(indexes) for shard in index.shards]
        self._readers = [
            self._reader(i, index, commands[i] if commands else None)
            for i, index in enumerate(indexes)
        ]
        self._uses = np.zeros(len(self.table), dtype=np.int64)
        self._needed: dict[int, tuple[EpisodeMeta, Tensor]] = {}
        self._spare: OrderedDict[int, tuple[EpisodeMeta, Tensor]] = OrderedDict()
        self._room, self._spare_bytes = int(cache_mb * 1e6), 0

    def expect(self, rows: np.ndarray) -> None:
        """Tell which episodes come, each as often as it is used; replaces what was told before."""
        self._uses = np.bincount(rows, minlength=len(self.table))
        for row in [row for row in self._needed if not self._uses[row]]:
            self._put_aside(row)

    def get(self, row: int) -> tuple[EpisodeMeta, Tensor]:
        """Use an episode: its metadata and frames as `decode` gives them.

        Raises:
            ShardError: it cannot be read or decoded, or is not the one that the index describes.
            SchemaError: its metadata break the schema.
        """
        self._uses[row] -= 1
        found = self._needed.pop(row, None) or self._take_spare(row) or self._load(row)
        self._needed[row] = found
        if self._uses[row] <= 0:
            self._put_aside(row)
        return found

    def needed(self) -> list[tuple[EpisodeMeta, Tensor]]:
        """The decoded episodes that are in memory because they are going to be used again."""
        return list(self._needed.values())

    def fingerprint(self) -> str:
        """Short hash of the content of all shards."""
        return hashlib.sha256(
            "".join(reader.index.fingerprint() for reader in self._readers).encode()
        ).hexdigest()[:16]

    def place(self, row: int) -> str:
        """Where an episode lies, for messages."""
        i, shard = self._shards[self.table.shard[row]]
        return f"{self._readers[i].index.where(shard)}, byte {self.table.begin[row]}"

    def _load(self, row: int) -> tuple[EpisodeMeta, Tensor]:
        i, shard = self._shards[self.table.shard[row]]
        with one_episode(shard.name):
            sample = self._readers[i].read(
                shard, int(self.table.begin[row]), int(self.table.end[row])
            )
            self._check(sample.meta, row, shard.name)
            return sample.meta, decode(sample, shard.name)

    def _check(self, meta: EpisodeMeta, row: int, where: str) -> None:
        """Refuse an episode with other actions than the table: its windows lie elsewhere."""
        first = self._first_action[row]
        stops = self.table.action_stop[first : first + self.table.num_actions[row]].tolist()
        if [action.stop for action in meta.actions] != stops:
            raise ShardError(f"{where}: {meta.id} has other actions than the index says; {REPAIR}")

    def _take_spare(self, row: int) -> tuple[EpisodeMeta, Tensor] | None:
        found = self._spare.pop(row, None)
        if found is not None:
            self._spare_bytes -= found[1].nbytes
        return found

    def _put_aside(self, row: int) -> None:
        found = self._needed.pop(row)
        if found[1].nbytes > self._room:
            return
        self._spare[row] = found
        self._spare_bytes += found[1].nbytes
        while self._spare_bytes > self._room:
            _, oldest = self._spare.popitem(last=False)
            self._spare_bytes -= oldest[1].nbytes

    def _reader(self, i: int, index: ShardIndex, command: str | None) -> SampleReader:
        if command is None:
            return RangeReader(index)
        return PipeReader(index, command, partial(self._is_needed, i))

    def _is_needed(self, folder: int, shard: str, begin: int) -> bool:
        """Whether the episode at byte `begin` is going to be used; slow, for pipes alone."""
        number = next(
            n for n, (i, known) in enumerate(self._shards) if i == folder and known.name == shard
        )
        rows = np.flatnonzero((self.table.shard == number) & (self.table.begin == begin))
        return bool(len(rows)) and bool(self._uses[rows[0]] > 0)
