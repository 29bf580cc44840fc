"""What all collectors share: jobs over processes, resuming, accounting for every attempt, the command.

A collector writes a recipe, a frozen dataclass whose fields decide the content of its episodes, and
hands it to `collect`, or to `run_command` together with the arguments of `new_parser`.
"""

import argparse
import json
import math
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tqdm import tqdm

from data_tools.files import settings_hash
from sfv.data.schema import SPLITS, SchemaError, from_json
from sfv.files import WAIT, check_writable, locked, read_json, write_bytes
from sfv.names import is_hidden
from sfv.texts import printable

SUMMARY = "summary.json"
_ROW = ("id", "kept", "skipped")


class MissingEngine(ImportError):
    """The simulator is not installed; the message holds the install line."""


class Skipped(Exception):
    """An attempt is no good (too dark, off course, the expert failed); the message says why.

    Attempts are counted by message, so it holds no numbers.
    """


@dataclass(frozen=True)
class Outcome:
    """What became of one episode.

    Args:
        id: of the episode.
        kept: whether it stands in the folder.
        skipped: why attempts that were made before it were dropped.
        measures: JSON values under the recipe's `measures`; None or left out where there is none.
    """

    id: str
    kept: bool
    skipped: tuple[str, ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)


class Recipe(Protocol):
    """What decides the content of episodes, and how they are made.

    A frozen dataclass that pickles; its fields are the settings that are hashed and kept in the
    summary, so the number of episodes and of workers is none of them.
    """

    noun: ClassVar[str]
    """What the summary calls attempts at an episode: "walks", say."""

    measures: ClassVar[tuple[str, ...]]
    """Names of what is measured of each episode."""

    jobs_per_worker: ClassVar[int]
    """Starts of the engine a worker; 1 where a start is slow, more where that evens out the load."""

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        ...

    def episode_id(self, index: int) -> str:
        """Name of the episode with this number."""
        ...

    def scene_of(self, index: int) -> str:
        """Place of the episode; one job films all episodes of a scene, one after another."""
        ...

    def require(self) -> None:
        """Raise `MissingEngine` where the simulator is not installed."""
        ...

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Make these episodes with one start of the engine, and write them to `folder`."""
        ...

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        """What the summary says of the measures of all kept episodes."""
        ...


def recipe_hash(recipe: Recipe) -> str:
    """Short hash of the recipe's settings: the episodes' `provenance.settings_hash`."""
    return settings_hash(recipe.settings())


def attempt(episode: str, limit: int, film: Callable[[int], Mapping[str, Any]]) -> Outcome:
    """Try to make an episode until an attempt is good.

    Args:
        episode: its id.
        limit: number of attempts.
        film: makes and writes the episode of attempt 0, 1, ... and gives its measures; raises
            `Skipped` where the attempt is no good.
    """
    skipped: list[str] = []
    for number in range(limit):
        try:
            return Outcome(episode, True, tuple(skipped), film(number))
        except Skipped as reason:
            skipped.append(str(reason))
    return Outcome(episode, False, tuple(skipped))


def collect(
    recipe: Recipe, folder: Path, episodes: int, workers: int = 1, resume: bool = False
) -> dict[str, Any]:
    """Collect episodes into `folder` and write `summary.json` there.

    Args:
        recipe: what to collect.
        folder: made when missing.
        episodes: how many.
        workers: processes; the result does not depend on it.
        resume: keep the finished episodes of an earlier call with equal settings.

    Returns:
        the summary.

    Raises:
        SchemaError: the folder holds other episodes, or a count is below 1.
        MissingEngine: the simulator is not installed.
        OSError: a worker died, another process collects there, or the folder cannot be written.
    """
    if episodes < 1 or workers < 1:
        raise SchemaError(f"--episodes {episodes} --workers {workers}: both have to be at least 1")
    recipe.require()
    check_writable(folder)
    with locked(folder, WAIT):
        return _collect(recipe, folder, episodes, workers, resume)


def _collect(
    recipe: Recipe, folder: Path, episodes: int, workers: int, resume: bool
) -> dict[str, Any]:
    before = _finished(recipe, folder, episodes, resume)
    left = [index for index in range(episodes) if recipe.episode_id(index) not in before]
    jobs = _jobs(recipe, left, 1 if workers == 1 else recipe.jobs_per_worker * workers)
    outcomes = dict(before)
    title = f"{recipe.noun} ({folder.name})"
    with tqdm(total=episodes, initial=len(before), desc=title) as bar:
        for outcome in _run(recipe, folder, jobs, workers):
            outcomes[outcome.id] = outcome
            bar.update()
    summary = _summary(recipe, [outcomes[key] for key in sorted(outcomes)], len(before))
    write_bytes(folder / SUMMARY, json.dumps(summary, indent=1).encode())
    return summary


def _finished(recipe: Recipe, folder: Path, episodes: int, resume: bool) -> dict[str, Outcome]:
    """Episodes that stand in the folder already."""
    there = [path for path in folder.glob("*.json") if not is_hidden(path, folder)]
    present = sorted(path for path in there if path.name != SUMMARY)
    if present and not resume:
        raise SchemaError(
            f"{folder} holds {len(present)} episodes already; give --resume to keep them and go on, "
            "or choose another --out"
        )
    rows: dict[str, dict[str, Any]] = {}
    if (folder / SUMMARY).exists():
        rows = {row["id"]: row for row in read_json(folder / SUMMARY)[recipe.noun]}
    wanted = {recipe.episode_id(index) for index in range(episodes)}
    asked = recipe_hash(recipe)
    finished = {}
    for path in present:
        meta = from_json(path.read_bytes(), str(path))
        if meta.provenance.settings_hash != asked:
            raise SchemaError(
                f"{path}: was collected with settings {meta.provenance.settings_hash}, now asked for "
                f"are {asked}; use the settings of then (summary.json) or another --out"
            )
        if meta.id in wanted and path.with_suffix(".mp4").exists():
            row = rows.get(meta.id, {})
            measures = {name: value for name, value in row.items() if name not in _ROW}
            finished[meta.id] = Outcome(meta.id, True, tuple(row.get("skipped", ())), measures)
    return finished


def _jobs(recipe: Recipe, indices: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Deal the scenes out to `count` jobs; a scene of more than a job's share is cut."""
    scenes: dict[str, list[int]] = {}
    for index in indices:
        scenes.setdefault(recipe.scene_of(index), []).append(index)
    most = math.ceil(len(indices) / count)
    dealt = [
        scenes[name][first : first + most]
        for name in sorted(scenes)
        for first in range(0, len(scenes[name]), most)
    ]
    shares = [dealt[start::count] for start in range(min(count, len(dealt)))]
    return [tuple(index for piece in share for index in piece) for share in shares]


def _run(
    recipe: Recipe, folder: Path, jobs: list[tuple[int, ...]], workers: int
) -> Iterator[Outcome]:
    if workers == 1 or len(jobs) <= 1:
        for indices in jobs:
            yield from recipe.film(indices, folder)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn) as pool:
        futures = [pool.submit(_film_all, recipe, indices, folder) for indices in jobs]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BrokenProcessPool as error:
            raise OSError("a worker process died; run again with --resume") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _film_all(recipe: Recipe, indices: tuple[int, ...], folder: Path) -> list[Outcome]:
    return list(recipe.film(indices, folder))


def _summary(recipe: Recipe, outcomes: list[Outcome], before: int) -> dict[str, Any]:
    reasons = Counter(reason for outcome in outcomes for reason in outcome.skipped)
    kept = [outcome for outcome in outcomes if outcome.kept]
    return {
        "settings": recipe.settings() | {"hash": recipe_hash(recipe)},
        "episodes": {
            "wanted": len(outcomes),
            "kept": len(kept),
            "of them from before": before,
            "given up": [outcome.id for outcome in outcomes if not outcome.kept],
        },
        f"{recipe.noun} tried": len(kept) + sum(reasons.values()),
        f"{recipe.noun} skipped": dict(sorted(reasons.items())),
        **recipe.report(kept),
        recipe.noun: [_row(recipe, outcome) for outcome in outcomes],
    }


def _row(recipe: Recipe, outcome: Outcome) -> dict[str, Any]:
    measures = {name: outcome.measures.get(name) for name in recipe.measures}
    return {"id": outcome.id, "kept": outcome.kept, "skipped": outcome.skipped, **measures}


def revisit_report(kept: Sequence[Outcome]) -> dict[str, Any]:
    """Least and mean of `return_psnr`, each episode's (least, mean) PSNR between revisits, dB."""
    told = [outcome.measures.get("return_psnr") for outcome in kept]
    psnrs = [pair for pair in told if pair]
    return {
        "revisit psnr dB": {
            "least": min(pair[0] for pair in psnrs),
            "mean": round(sum(pair[1] for pair in psnrs) / len(psnrs), 2),
        }
        if psnrs
        else None
    }


def total(kept: Sequence[Outcome], name: str) -> int | None:
    """Sum of a measure; None where an episode's is not known.

    What an earlier call measured stands in its summary, which it did not write if it was killed.
    """
    values = [outcome.measures.get(name) for outcome in kept]
    return sum(value for value in values if value) if None not in values else None


def new_parser(
    name: str, description: str, *, episodes: int, size: int, workers: int
) -> argparse.ArgumentParser:
    """The arguments that every collector has.

    Args:
        name: the module's, in `data_tools.collect`.
        description: one line.
        episodes: default number of episodes.
        size: default height and width, pixels.
        workers: default number of processes.
    """
    p = argparse.ArgumentParser(
        prog=f"python -m data_tools.collect.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="folder for ID.mp4 and ID.json")
    p.add_argument("--episodes", type=int, default=episodes, help="number of episodes")
    p.add_argument("--split", choices=SPLITS, default="train", help="picks the scenes")
    p.add_argument("--size", type=int, default=size, help="height and width of a frame, pixels")
    p.add_argument("--seed", type=int, default=0, help="every draw comes from it")
    p.add_argument("--workers", type=int, default=workers, help="processes; changes no result")
    p.add_argument("--resume", action="store_true", help="keep finished episodes in --out")
    return p


def add_language(p: argparse.ArgumentParser) -> None:
    """Add `--language`."""
    p.add_argument(
        "--language",
        choices=("plain", "varied"),
        default="plain",
        help="plain: each action in its one text; varied: drawn from many phrases, the plain text "
        "stays in raw",
    )


def run_command(recipe_of: Callable[[argparse.Namespace], Recipe], args: argparse.Namespace) -> int:
    """Collect as the arguments say and print the summary.

    Returns:
        the exit code: 0 when every wanted episode was kept, 1 when not, 2 when the arguments do not
        fit, the simulator is missing or the folder cannot be written (one line on stderr).
    """
    try:
        recipe = recipe_of(args)
        summary = collect(recipe, args.out, args.episodes, args.workers, args.resume)
    except (SchemaError, MissingEngine, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(json.dumps({k: v for k, v in summary.items() if k != recipe.noun}, indent=1))
    return 0 if summary["episodes"]["kept"] == args.episodes else 1
