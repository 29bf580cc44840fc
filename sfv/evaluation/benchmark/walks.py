"""The true walks of a benchmark, read from its data and checked against its manifest."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from sfv.data.episodes import episodes as read_episodes
from sfv.data.schema import EpisodeMeta
from sfv.evaluation.benchmark.spec import (
    Benchmark,
    BenchmarkError,
    check_complete,
    check_episode,
    data_command,
    frames_hash,
    part_of,
)
from sfv.evaluation.return_walks import Trip
from sfv.generation.episodes import TrueEpisode
from sfv.models.world_model import WorldModel
from sfv.report.video import to_frames


@dataclass(frozen=True)
class Walk:
    """A true walk.

    Args:
        meta: its description.
        video: its frames as bytes: a quarter of the memory of floats.
        turn: first frame of the way back.
    """

    meta: EpisodeMeta
    video: UInt8[Tensor, "t 3 height width"]
    turn: int

    @property
    def first_chunk(self) -> int:
        """Frames that are given in every protocol."""
        return self.meta.actions[0].stop

    @property
    def revisits(self) -> list[tuple[int, int]]:
        """Pairs of a place on the true way out and the same place on the way back."""
        return [pair for pair in self.meta.revisits if pair[0] < self.turn <= pair[1]]

    @property
    def part(self) -> str:
        """Name of its part."""
        return part_of(self.meta.id)

    def trip(self, world: WorldModel) -> Trip:
        """The walk as one model sees it."""
        video = self.video.float() / 255
        size = (video.shape[2], video.shape[3])
        world.check_frame_size(size, f"episode {self.meta.id}", "give a model of that size")
        num_out = sum(action.stop <= self.turn for action in self.meta.actions) - 1
        return Trip(TrueEpisode(self.meta, video, world.encode(video[None])), num_out)


def chosen_parts(
    benchmark: Benchmark,
    lengths: int | Sequence[int] | None = None,
    kinds: str | Sequence[str] | None = None,
) -> list[str]:
    """Names of the parts of these nominal lengths and kinds of walk, one or several; None takes all.

    Raises:
        BenchmarkError: there is no part of a length or of a kind.
    """
    parts = benchmark.parts
    lengths = [lengths] if isinstance(lengths, int) else lengths
    kinds = [kinds] if isinstance(kinds, str) else kinds
    _known(benchmark, "length", lengths, sorted({part.length for part in parts.values()}))
    _known(benchmark, "kind", kinds, sorted({part.walk for part in parts.values()}))
    return [
        name
        for name, part in parts.items()
        if (lengths is None or part.length in lengths) and (kinds is None or part.walk in kinds)
    ]


def _known(
    benchmark: Benchmark, what: str, given: Sequence[object] | None, there: Sequence[object]
) -> None:
    unknown = [value for value in given or () if value not in there]
    if unknown:
        raise BenchmarkError(
            f"{benchmark.label} has no walks of {what} {unknown[0]}; allowed: {there}"
        )


def load_walks(benchmark: Benchmark, data: Path, parts: Sequence[str]) -> list[Walk]:
    """Read and check the walks of some parts, part by part.

    Raises:
        BenchmarkError: the data are missing, of other walks or of other pictures.
    """
    folder = data / benchmark.split
    if not folder.is_dir():
        command = shlex.join(["python", "-m", *data_command(benchmark, data)])
        raise BenchmarkError(
            f"the data of {benchmark.label} are not in {data}; make them with `{command}`, or give "
            "--make-data true"
        )
    if not benchmark.episodes:
        raise BenchmarkError(
            f"{benchmark.source} has no manifest beside it; give --benchmark {data}, the folder of its "
            "data, which has one"
        )
    walks: dict[str, Walk] = {}
    for meta, video in read_episodes(folder):
        if part_of(meta.id) in parts or meta.id not in benchmark.episodes:
            pixels = to_frames(video)
            check_episode(benchmark, meta, frames_hash(pixels))
            turn = benchmark.episodes[meta.id].turn
            walks[meta.id] = Walk(meta, (video * 255).round().byte(), turn)
        else:
            walks[meta.id] = Walk(meta, video[:0].byte(), 0)
    check_complete(benchmark, set(walks), str(folder))
    return [walks[name] for name in benchmark.episode_ids() if part_of(name) in parts]


def make_data(benchmark: Benchmark, data: Path) -> None:
    """Make the data by the tool, in a process of its own: the library does not import the tools.

    Raises:
        BenchmarkError: it failed.
    """
    command = [sys.executable, "-m", *data_command(benchmark, data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchmarkError(
            f"`{shlex.join(command)}` failed with exit code {done.returncode} (its message is above)"
        )
