"""Make the data of a benchmark with the collectors, and check it against the hashes of its manifest.

    python -m data_tools.benchmark doom-return --out data/benchmarks/doom-return

The folder gets shards (`test/`), the definition and the manifest. What was collected before a stop is
kept. A definition without a manifest (one of your own) is not checked: its hashes are recorded.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from data_tools.collect.runner import MissingEngine, Recipe, collect
from data_tools.files import find_episodes, read_meta, write_episode
from data_tools.options import USER_ERRORS
from data_tools.write_shards import pack
from sfv.data.stages import decode_mp4
from sfv.evaluation.benchmark.spec import (
    DEFINITION,
    MANIFEST,
    Benchmark,
    BenchmarkError,
    KnownEpisode,
    Part,
    check_episode,
    content_hash,
    episode_id,
    find_benchmark,
    frames_hash,
    manifest_json,
    part_of,
)
from sfv.files import claimed, write_bytes, write_json
from sfv.texts import printable

COLLECTED, RENAMED = "collected", "episodes"


def make(benchmark: Benchmark, out: Path, workers: int = 2) -> int:
    """Collect, check and pack a benchmark.

    Args:
        benchmark: what to make.
        out: folder of the benchmark; new, or the one of a call that was cut off.
        workers: processes; changes no byte of an episode.

    Returns:
        how many episodes there are.

    Raises:
        BenchmarkError: what was collected differs from the manifest; names what.
        SchemaError: a collector refuses the definition, or the folder holds other episodes.
        MissingEngine: the simulator is not installed.
    """
    with claimed(out, DEFINITION, "a benchmark"):
        return _make(benchmark, out, workers)


def _make(benchmark: Benchmark, out: Path, workers: int) -> int:
    if (out / MANIFEST).exists() and (out / benchmark.split).is_dir():
        if find_benchmark(str(out)).episodes == (benchmark.episodes or None):
            print(f"{out} holds {benchmark.label} already")
            return len(benchmark.episodes)
        raise BenchmarkError(f"{out} holds another version of a benchmark; give a new --out")
    write_bytes(out / DEFINITION, benchmark.source.read_bytes())
    shutil.rmtree(out / RENAMED, ignore_errors=True)
    for name, part in benchmark.parts.items():
        _collect(benchmark, name, part, out, workers)
    known = describe(benchmark, out / RENAMED)
    pack([out / RENAMED], out, overwrite=True)
    write_json(out / MANIFEST, manifest_json(known))
    for folder in (COLLECTED, RENAMED):
        shutil.rmtree(out / folder)
    return len(known)


def describe(benchmark: Benchmark, folder: Path) -> dict[str, KnownEpisode]:
    """Hash every episode; where the benchmark has a manifest, check it.

    Raises:
        BenchmarkError: counts the episodes that differ and says of the first one what differs.
    """
    known, wrong = {}, []
    for meta, video in find_episodes([folder]):
        content, pixels = content_hash(meta), frames_hash(decode_mp4(video.read_bytes()))
        turn = benchmark.turn_of(meta)
        known[meta.id] = KnownEpisode(part_of(meta.id), meta.num_frames, turn, content, pixels)
        try:
            if benchmark.episodes:
                check_episode(benchmark, meta, pixels)
        except BenchmarkError as error:
            wrong.append(str(error))
    if wrong:
        raise BenchmarkError(f"{len(wrong)} of {len(known)} episodes differ. {wrong[0]}")
    return known


def _collect(benchmark: Benchmark, name: str, part: Part, out: Path, workers: int) -> None:
    """Collect a part, then give its episodes the benchmark's names: a collector's name no length."""
    recipe = _recipe(benchmark, part)
    folder = out / COLLECTED / name
    summary = collect(recipe, folder, part.episodes, workers, resume=True)
    given_up = summary["episodes"]["given up"]
    if given_up:
        raise BenchmarkError(
            f"{benchmark.label}: part {name} lacks {len(given_up)} of {part.episodes} walks: "
            f"{', '.join(given_up)} were given up after {summary[f'{recipe.noun} skipped']}"
        )
    for i in range(part.episodes):
        path = folder / f"{recipe.episode_id(i)}.json"
        meta = replace(read_meta(path), id=episode_id(name, i))
        write_episode(out / RENAMED, meta, path.with_suffix(".mp4").read_bytes())


def _recipe(benchmark: Benchmark, part: Part) -> Recipe:
    """Read the definition as the collector's command line."""
    try:
        module = import_module(f"data_tools.collect.{benchmark.collector}")
        parser, settings_of = module.parser(), module.settings_of
    except (ImportError, AttributeError) as error:
        raise BenchmarkError(
            f"{benchmark.source}: {benchmark.collector!r} is no collector; give the name of a module "
            "of data_tools.collect, e.g. doom"
        ) from error
    given = {
        "out": "-", "split": benchmark.split, "size": benchmark.size, "seed": benchmark.seed,
        "walk": part.walk, "chunks": part.chunks, **benchmark.options,
    }  # fmt: skip
    recipe: Recipe = settings_of(parser.parse_args(list(_flags(given))))
    return recipe


def _flags(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, list) else [value])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.benchmark",
        description="Make the data of a benchmark and check its hashes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("benchmark", help="name of a shipped benchmark, or a definition of your own")
    p.add_argument("--out", type=Path, required=True, help="folder of the benchmark")
    p.add_argument("--workers", type=int, default=2, help="processes; changes no episode")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; 2 where the data cannot be made or differ."""
    args = parser().parse_args(argv)
    try:
        benchmark = find_benchmark(args.benchmark)
        count = make(benchmark, args.out, args.workers)
    except (*USER_ERRORS, MissingEngine) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    how = "hashes agree" if benchmark.episodes else f"hashes recorded in {args.out / MANIFEST}"
    print(f"{benchmark.label}: {count} episodes in {args.out}, {how}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
