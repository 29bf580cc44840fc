"""What a benchmark is: walks that anybody can make again, and the hashes that tell whether they did.

A benchmark is two files: `NAME.yaml` (which collector makes which walks) and `NAME.json` (the manifest:
for each episode where the way back begins, and the hashes of what was collected). The shipped ones
lie in `sfv/evaluation/benchmark/specs`; the folder of the data holds copies as `benchmark.yaml` and
`manifest.json`. Torch-free: the tool that makes the data starts fast.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from sfv.data.schema import EpisodeMeta
from sfv.files import read_json
from sfv.names import plain_name
from sfv.yaml_file import read_yaml

SPECS = Path(__file__).parent / "specs"
_NOT_NEEDED = ("episodes", "source", "objects")
DEFINITION, MANIFEST = "benchmark.yaml", "manifest.json"
ObjectMeasure = Literal["crop", "place", "there"]
"""What is scored of an episode's objects: their part of the picture, their place by their colour, whether
they are there."""

DATA_ROOT = Path("data/benchmarks")


class BenchmarkError(ValueError):
    """A definition, a manifest or the data of a benchmark is not what it should be."""


@dataclass(frozen=True)
class Part:
    """Walks of one kind and one length.

    Args:
        walk: kind of walk, in the collector's words.
        chunks: actions a walk.
        episodes: number of walks.
        length: nominal length in frames, for tables.
    """

    walk: str
    chunks: int
    episodes: int
    length: int


@dataclass(frozen=True)
class KnownEpisode:
    """What the manifest says of an episode.

    Args:
        part: name of its part.
        num_frames: its length.
        turn: first frame of the way back: what is generated after the true way out.
        content_sha256: of actions, poses and revisits.
        frames_sha256: of the decoded pixels.
    """

    part: str
    num_frames: int
    turn: int
    content_sha256: str
    frames_sha256: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Args:
        name: as `--benchmark` takes it.
        version: another number where any walk differs; numbers of two versions are not compared.
        engine: what films the walks, for people.
        collector: name of the tool in `data_tools.collect`.
        options: of the collector beside those below.
        split: whose scenes are walked in; they stand in no other split.
        seed: of the collector.
        size: height and width of the frames, pixels.
        fps: frames per second.
        chunk_frames: frames of an action.
        exact_frames: the engine gives the same pixels everywhere, so their hashes are checked.
        parts: by name.
        episodes: the manifest, by id; empty where none was recorded yet.
        source: the file that it was read from.
        objects: what is scored of the things that its episodes know the places of.

    Raises:
        ValueError: a measure of objects is none of those known.
    """

    name: str
    version: int
    engine: str
    collector: str
    options: Mapping[str, Any]
    split: str
    seed: int
    size: int
    fps: float | int
    chunk_frames: int
    exact_frames: bool
    parts: Mapping[str, Part]
    episodes: Mapping[str, KnownEpisode]
    source: Path
    objects: Sequence[ObjectMeasure] = ()

    def __post_init__(self) -> None:
        for text, what in (
            (self.name, "name"),
            (self.split, "split"),
            (self.collector, "collector"),
        ):
            plain_name(text, what)
        for part in self.parts:
            plain_name(part, "part")
        unknown = [name for name in self.objects if name not in get_args(ObjectMeasure)]
        if unknown:
            raise ValueError(f"objects: {unknown[0]!r}; allowed are {get_args(ObjectMeasure)}")

    @property
    def label(self) -> str:
        """Name and version, for passports."""
        return f"{self.name} {self.version}"

    def episode_ids(self) -> list[str]:
        """All ids, part by part."""
        return [
            episode_id(name, i) for name, part in self.parts.items() for i in range(part.episodes)
        ]

    def turn_of(self, meta: EpisodeMeta) -> int:
        """First frame of the way back of one of its episodes.

        On a way out and back it is where the walk is half done, since on a long way out a place may
        come by chance; after something was built, the chunk from which on every frame shows a known
        place; otherwise the first chunk in which a place comes again.
        """
        part = self.parts[part_of(meta.id)]
        if part.walk == "return":
            return meta.actions[part.chunks // 2].stop
        known = {later for _, later in meta.revisits}
        if part.walk == "landmark":
            chunks = [known.issuperset(range(a.start, a.stop)) for a in meta.actions]
            return meta.actions[len(chunks) - chunks[::-1].index(False)].start
        first = min(known)
        return max(action.start for action in meta.actions if action.start <= first)


def episode_id(part: str, index: int) -> str:
    """Name of an episode: `loop-296-03`, say."""
    return f"{part}-{index:02d}"


def part_of(episode: str) -> str:
    """Part of an episode by its id."""
    return episode.rpartition("-")[0]


def shipped() -> list[str]:
    """Names of the benchmarks that come with the package."""
    return sorted(path.stem for path in SPECS.glob("*.yaml"))


def find_benchmark(which: str) -> Benchmark:
    """Read a shipped benchmark by name, a folder of benchmark data, or a definition of your own.

    Raises:
        BenchmarkError: there is no such thing, or it is damaged.
    """
    path = Path(which)
    if path.suffix == ".yaml" and path.is_file():
        return _read(path, path.with_suffix(".json"))
    if (path / DEFINITION).is_file():
        return _read(path / DEFINITION, path / MANIFEST)
    if which in shipped():
        return _read(SPECS / f"{which}.yaml", SPECS / f"{which}.json")
    raise BenchmarkError(
        f"no benchmark {which!r}; allowed: {', '.join(shipped())}, a folder that "
        f"python -m data_tools.benchmark made (holds {DEFINITION}), or the file of a definition"
    )


def known_in(benchmark: Benchmark, data: Path) -> Benchmark:
    """A benchmark that ships no manifest, with the one that was recorded when these data were made.

    Raises:
        BenchmarkError: the data are of another benchmark.
    """
    if benchmark.episodes or not (data / MANIFEST).is_file():
        return benchmark
    found = find_benchmark(str(data))
    if (found.label, found.parts) != (benchmark.label, benchmark.parts):
        raise BenchmarkError(
            f"{data} holds {found.label} with the parts {', '.join(found.parts)}; asked for is "
            f"{benchmark.label} with {', '.join(benchmark.parts)}: give another --data"
        )
    return found


def data_command(benchmark: Benchmark, data: Path) -> list[str]:
    """Arguments behind `python -m` that make the data."""
    shipped_one = benchmark.source.parent == SPECS
    which = benchmark.name if shipped_one else str(benchmark.source)
    return ["data_tools.benchmark", which, f"--out={data}"]


def content_hash(meta: EpisodeMeta) -> str:
    """Hash of what is walked: actions, poses, revisits, scene and rate, and where things are.

    Boxes and colours of things are not in it: they follow from how the pictures are drawn.
    """
    content: list[Any] = [
        meta.scene, meta.fps, [[a.text, a.start, a.stop] for a in meta.actions],
        meta.poses, meta.revisits,
    ]  # fmt: skip
    if meta.objects:
        content += [[[thing.name, thing.places, thing.without] for thing in meta.objects]]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def frames_hash(frames: UInt8[np.ndarray, "t height width 3"]) -> str:
    """Hash of the pixels."""
    digest = hashlib.sha256(repr(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).tobytes())
    return digest.hexdigest()


def manifest_json(episodes: Mapping[str, KnownEpisode]) -> dict[str, Any]:
    """The content of a manifest."""
    return {"episodes": {name: asdict(known) for name, known in episodes.items()}}


def check_episode(benchmark: Benchmark, meta: EpisodeMeta, pixels_sha256: str) -> None:
    """Check one episode against the manifest.

    Raises:
        BenchmarkError: names the episode, and whether the walk or the pictures differ.
    """
    known = benchmark.episodes.get(meta.id)
    if known is None:
        raise BenchmarkError(
            f"episode {meta.id} is none of {benchmark.label}'s {len(benchmark.episodes)}"
        )
    again = "make the data again (another version of the engine gives another benchmark)"
    if content_hash(meta) != known.content_sha256:
        raise BenchmarkError(
            f"{benchmark.label}: episode {meta.id} is another walk than the manifest's (its actions, "
            f"poses or revisits differ); {again}"
        )
    if benchmark.exact_frames and pixels_sha256 != known.frames_sha256:
        raise BenchmarkError(
            f"{benchmark.label}: the walk of episode {meta.id} is right, but its pictures differ from "
            f"the manifest's; {again}"
        )


def check_complete(benchmark: Benchmark, found: set[str], where: str) -> None:
    """Check that exactly the benchmark's episodes are there.

    Raises:
        BenchmarkError: counts and names what is missing or too much.
    """
    wanted = set(benchmark.episode_ids())
    for names, fault in ((wanted - found, "lacks"), (found - wanted, "has what is none of it:")):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
            raise BenchmarkError(
                f"{where} {fault} {len(names)} of {benchmark.label}'s {len(wanted)} episodes ({shown})"
                if fault == "lacks"
                else f"{where} {fault} {len(names)} episodes ({shown}); {benchmark.label} has "
                f"{len(wanted)}"
            )


def _read(path: Path, manifest: Path) -> Benchmark:
    try:
        given = read_yaml(path, Benchmark)
        parts = {name: Part(**part) for name, part in given.pop("parts").items()}
        known = read_json(manifest)["episodes"] if manifest.is_file() else {}
        episodes = {name: KnownEpisode(**fields_) for name, fields_ in known.items()}
        benchmark = Benchmark(**given, parts=parts, episodes=episodes, source=path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        needed = [f.name for f in fields(Benchmark) if f.name not in _NOT_NEEDED]
        raise BenchmarkError(
            f"{path}: is no definition of a benchmark ({_said(error)}); it needs {', '.join(needed)}, "
            f"and a part {', '.join(f.name for f in fields(Part))}; see docs/benchmark_return.md"
        ) from error
    if episodes:
        check_complete(benchmark, set(episodes), str(manifest))
    return benchmark


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else repr(error)
