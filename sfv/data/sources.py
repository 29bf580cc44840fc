"""Reading single episodes from shards: by their place in the tar, or forward through a pipe."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import webdataset

from sfv.data.index import REPAIR, Shard, ShardError, ShardIndex
from sfv.data.shards import Sample, read_samples


@dataclass(frozen=True)
class ShardSource:
    """Shards that are read by a command, with their index at hand.

    Args:
        index: folder, URL or brace pattern; holds `index.json` and `episodes.safetensors`.
        read: a command whose output is a shard, `pipe:ssh store cat /data/train/{shard}`, say;
            `{shard}` is replaced by the shard's file name. It runs in a shell.
    """

    index: str
    read: str

    def __post_init__(self) -> None:
        if not self.read.startswith("pipe:") or "{shard}" not in self.read:
            raise ValueError(
                f"read: got {self.read!r}; allowed is 'pipe:COMMAND' with {{shard}} in it for the "
                "shard's file name. Folders and URLs need no command: give them as plain text"
            )


_SHELL_NAME = re.compile(r"[A-Za-z0-9._-]+")


class RangeReader:
    """Reads just an episode's bytes, from a disk or a store that fsspec knows."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._files: Any = None

    def read(self, shard: Shard, begin: int, end: int) -> Sample:
        """Read the episode that lies in bytes `begin` to `end` of a shard.

        Raises:
            ShardError: it cannot be read, or is damaged.
            SchemaError: its metadata break the schema.
        """
        where = self.index.where(shard)
        try:
            if self._files is None:
                self._files, _ = fsspec.core.url_to_fs(where)
            content = self._files.cat_file(where, start=begin, end=end)
        except (OSError, ValueError) as error:
            raise ShardError(f"shard {where} cannot be read ({error}); {REPAIR}") from error
        if len(content) > end - begin:
            raise ShardError(
                f"{where}: {len(content)} bytes came, {end - begin} were asked for; the server knows no "
                "ranges: read through a command instead ({index: ..., read: 'pipe:curl ...{shard}'})"
            )
        samples = [sample for _, sample in read_samples(io.BytesIO(content), where)]
        if len(samples) != 1 or len(content) != end - begin:
            raise ShardError(f"{where}: no whole episode at byte {begin}; {REPAIR}")
        return samples[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_files": None}  # each process connects for itself


class PipeReader:
    """Reads shards forward through a command; what is passed and still needed is kept.

    Args:
        index: of the shards.
        command: `pipe:...{shard}...`.
        needed: tells whether an episode (shard name, first byte) is needed later.
    """

    def __init__(self, index: ShardIndex, command: str, needed: Callable[[str, int], bool]) -> None:
        self.index, self.command, self.needed = index, command, needed
        self._open: tuple[str, Any, Iterator[tuple[int, Sample]]] | None = None
        self._place = -1
        self._kept: dict[tuple[str, int], Sample] = {}

    def read(self, shard: Shard, begin: int, end: int) -> Sample:
        """Read the episode that begins at byte `begin`; `end` is given for likeness.

        Raises:
            ShardError: the command fails, or the shard is damaged.
            SchemaError: its metadata break the schema.
        """
        kept = self._kept.pop((shard.name, begin), None)
        if kept is not None:
            return kept
        if self._open is None or self._open[0] != shard.name or self._place >= begin:
            self._start(shard.name)
        assert self._open is not None
        for place, sample in self._open[2]:
            self._place = place
            if place == begin:
                return sample
            if self.needed(shard.name, place):
                self._kept[shard.name, place] = sample
        raise ShardError(f"{self.command}: {shard.name} ends before byte {begin}; {REPAIR}")

    def _start(self, name: str) -> None:
        if self._open is not None:
            self._open[1].close()
        if not _SHELL_NAME.fullmatch(name):  # the command goes to a shell
            raise ShardError(
                f"{self.command}: shard {name!r:.80} has characters that a shell may obey; allowed in "
                "names of shards that a command reads: letters, digits, '.', '_' and '-'"
            )
        where = self.command.replace("{shard}", name)
        stream = webdataset.gopen(where)
        self._open, self._place = (name, stream, read_samples(stream, where)), -1


SampleReader = RangeReader | PipeReader
"""What gives episodes of one folder of shards: `read(shard, begin, end)`."""
