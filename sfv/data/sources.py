"""Reading single episodes from shards: by their place in the tar, or forward through a pipe."""

import io
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec
import webdataset

from sfv.data.index import REPAIR, Shard, ShardError, ShardIndex
from sfv.data.shards import Sample, read_samples
from sfv.names import plain_name


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
        return _episode(content, where, begin, end)

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_files": None}  # each process connects for itself


class PipeReader:
    """Reads shards forward through a command; what is passed and still needed is kept.

    The index tells where each episode lies, so a damaged one costs no other.

    Args:
        index: of the shards.
        command: `pipe:...{shard}...`.
        needed: tells whether an episode (shard name, first byte) is needed later.
    """

    def __init__(self, index: ShardIndex, command: str, needed: Callable[[str, int], bool]) -> None:
        self.index, self.command, self.needed = index, command, needed
        self._open: tuple[str, Any, Iterator[tuple[int, int]]] | None = None
        self._place = 0
        self._kept: dict[tuple[str, int], bytes] = {}

    def read(self, shard: Shard, begin: int, end: int) -> Sample:
        """Read the episode that lies in bytes `begin` to `end` of a shard.

        Raises:
            ShardError: the command fails, or the episode is damaged.
            SchemaError: its metadata break the schema.
        """
        content = self._kept.pop((shard.name, begin), None)
        if content is None:
            try:
                if self._open is None or self._open[0] != shard.name or self._place > begin:
                    self._start(shard)
                content = self._forward(shard.name, begin)
            except OSError as error:
                self._stop()
                where = f"{self.command}: {shard.name}"
                raise ShardError(f"{where} cannot be read ({error}); {REPAIR}") from error
        return _episode(content, f"{self.command}: {shard.name}", begin, end)

    def _forward(self, name: str, begin: int) -> bytes:
        assert self._open is not None
        for start, stop in self._open[2]:
            if start < self._place:
                continue  # it overlaps the one before
            self._take(start - self._place)
            content = self._take(stop - start)
            if start == begin:
                return content
            if self.needed(name, start):
                self._kept[name, start] = content
        raise OSError(f"no episode begins at byte {begin}")

    def _take(self, count: int) -> bytes:
        assert self._open is not None
        content: bytes = self._open[1].read(count) if count else b""
        if len(content) != count:
            raise OSError(f"it ends at byte {self._place + len(content)}")
        self._place += count
        return content

    def _start(self, shard: Shard) -> None:
        self._stop()
        name = shlex.quote(plain_name(shard.name, "shard name", ".tar"))
        stream = webdataset.gopen(self.command.replace("{shard}", name))
        spans = self.index.table.spans(self.index.shards.index(shard))
        self._open, self._place = (shard.name, stream, iter(spans)), 0

    def _stop(self) -> None:
        if self._open is not None:
            with suppress(OSError):  # a command whose output is not read to its end may complain
                self._open[1].close()
            self._open = None


SampleReader = RangeReader | PipeReader
"""What gives episodes of one folder of shards: `read(shard, begin, end)`."""


def _episode(content: bytes, where: str, begin: int, end: int) -> Sample:
    """The one episode that fills these bytes."""
    samples = [sample for _, sample in read_samples(io.BytesIO(content), where, len(content))]
    if len(samples) != 1 or len(content) != end - begin:
        raise ShardError(f"{where}: no whole episode at byte {begin}; {REPAIR}")
    return samples[0]
