"""Collect action-annotated walks through Freedoom levels with ViZDoom; no display is needed.

    python -m data_tools.collect.doom --out data/doom/train --split train --episodes 150
    python -m data_tools.collect.doom --out data/doom/test --split test --walk return \
        --chunks 27 --episodes 8

Each chunk of 8 frames is one action in words. The walks are exact in pose: they are planned on the
level's geometry and filmed pose by pose, so a reverse action comes back to the very same place.
"""

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from data_tools.collect.doom_engine import (
    Engine,
    MissingViZDoom,
    OffCourse,
    open_engine,
    require_vizdoom,
)
from data_tools.collect.doom_level import Array, Level, standing_places
from data_tools.collect.doom_walks import (
    ACTIONS,
    CHUNK_FRAMES,
    NoWay,
    Walk,
    explore,
    revisits,
    there_and_back,
)
from data_tools.collect.pictures import revisit_psnr, shrink
from data_tools.files import VIDEO_CODEC, encode_mp4, settings_hash, write_episode
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, SchemaError, Split, from_json
from sfv.files import write_bytes
from sfv.rng import seed_of

VERSION = "1"
FPS = 8.0
MIN_RETURN_PSNR = 30.0
MIN_BRIGHTNESS = 24.0
MAX_ATTEMPTS = 30

VAL_MAPS = ("MAP04", "MAP13", "MAP22")
TEST_MAPS = ("MAP05", "MAP10", "MAP15", "MAP20", "MAP26")
_LEFT_OUT = ("MAP30",)
TRAIN_MAPS = tuple(
    name
    for name in (f"MAP{i:02d}" for i in range(1, 33))
    if name not in VAL_MAPS + TEST_MAPS + _LEFT_OUT
)
MAPS = {"train": TRAIN_MAPS, "val": VAL_MAPS, "test": TEST_MAPS}
"""The levels of each split, fixed and disjoint: Freedoom: Phase 2 without the last boss's arena,
a sea of lava."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of an episode; the number of episodes and of workers does not.

    Args:
        split: picks the levels.
        walk: `explore` (random, with turns back) or `return` (there and back).
        chunks: actions an episode, 8 frames each.
        size: height and width of the frames, pixels.
        seed: of the walks and of the engine.
        maps: levels, taken in turn.
        actions: what the walker may do.
    """

    split: Split
    walk: Literal["explore", "return"]
    chunks: int
    size: int
    seed: int
    maps: tuple[str, ...]
    actions: tuple[str, ...]
    version: str = VERSION

    def __post_init__(self) -> None:
        for name in self.maps:
            if name not in MAPS[self.split]:
                raise SchemaError(
                    f"--maps {name}: not a level of split {self.split!r}; its levels: "
                    f"{' '.join(MAPS[self.split])} (no level stands in two splits)"
                )
        if self.walk == "return" and (self.chunks < 3 or self.chunks % 2 == 0):
            raise SchemaError(
                f"--chunks {self.chunks}: a return walk has n+1 chunks out and n back, so it needs "
                "an odd number from 3 on, e.g. 27"
            )
        if self.chunks < 2 or not 16 <= self.size <= 120:
            raise SchemaError(
                f"--chunks {self.chunks} --size {self.size}: allowed are chunks >= 2 and "
                "16 <= size <= 120"
            )

    def hash(self) -> str:
        return settings_hash(asdict(self))

    def episode_id(self, index: int) -> str:
        return f"doom-{self.split}-{self.walk}-{index:05d}-{self.map_of(index).lower()}"

    def map_of(self, index: int) -> str:
        return self.maps[index % len(self.maps)]


@dataclass(frozen=True)
class Job:
    """Some levels and their episodes: done with one start of the engine, each level read once."""

    settings: Settings
    folder: str
    levels: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one episode.

    Args:
        id: of the episode.
        kept: whether it stands in the folder.
        skipped: why walks that were tried before it were dropped.
        return_psnr: least and mean PSNR (dB) between frames at equal poses; None without any.
    """

    id: str
    kept: bool
    skipped: tuple[str, ...] = ()
    return_psnr: tuple[float, float] | None = None


def collect(
    settings: Settings, folder: Path, episodes: int, workers: int = 1, resume: bool = False
) -> dict[str, Any]:
    """Collect episodes into `folder` and write `summary.json` there.

    Args:
        settings: what to collect.
        folder: made when missing.
        episodes: how many.
        workers: processes; the result does not depend on it.
        resume: keep the finished episodes of an earlier call with equal settings.

    Returns:
        the summary.

    Raises:
        SchemaError: the folder holds other episodes.
        MissingViZDoom: ViZDoom is not installed.
    """
    require_vizdoom()
    folder.mkdir(parents=True, exist_ok=True)
    before = _finished(settings, folder, episodes, resume)
    left = [index for index in range(episodes) if settings.episode_id(index) not in before]
    jobs = _jobs(settings, folder, left, 1 if workers <= 1 else 4 * workers)
    outcomes = dict(before)
    with tqdm(total=episodes, initial=len(before), desc=f"walks ({settings.split})") as bar:
        for outcome in _run(jobs, workers):
            outcomes[outcome.id] = outcome
            bar.update()
    summary = _summary(settings, [outcomes[key] for key in sorted(outcomes)], len(before))
    write_bytes(folder / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _finished(settings: Settings, folder: Path, episodes: int, resume: bool) -> dict[str, Outcome]:
    """Episodes that stand in the folder already."""
    present = sorted(p for p in folder.glob("*.json") if p.name != "summary.json")
    if present and not resume:
        raise SchemaError(
            f"{folder} holds {len(present)} episodes already; give --resume to keep them and go on, "
            "or choose another --out"
        )
    old: dict[str, Any] = {}
    if (folder / "summary.json").exists():
        old = {w["id"]: w for w in json.loads((folder / "summary.json").read_text())["walks"]}
    wanted = {settings.episode_id(index) for index in range(episodes)}
    finished = {}
    for path in present:
        meta = from_json(path.read_bytes(), str(path))
        if meta.provenance.settings_hash != settings.hash():
            raise SchemaError(
                f"{path}: was collected with settings {meta.provenance.settings_hash}, now asked for "
                f"are {settings.hash()}; use the settings of then (summary.json) or another --out"
            )
        if meta.id in wanted and path.with_suffix(".mp4").exists():
            row = old.get(meta.id, {})
            psnr = row.get("return_psnr")
            finished[meta.id] = Outcome(
                meta.id, True, tuple(row.get("skipped", ())), tuple(psnr) if psnr else None
            )
    return finished


def _jobs(settings: Settings, folder: Path, indices: list[int], count: int) -> list[Job]:
    """Deal the levels out to `count` jobs."""
    levels: dict[str, list[int]] = {}
    for index in indices:
        levels.setdefault(settings.map_of(index), []).append(index)
    dealt = sorted((name, tuple(wanted)) for name, wanted in levels.items())
    shares = [tuple(dealt[start::count]) for start in range(min(count, len(dealt)))]
    return [Job(settings, str(folder), share) for share in shares]


def _run(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield from collect_levels(job)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        for outcomes in pool.imap_unordered(_collect_list, jobs):
            yield from outcomes


def _collect_list(job: Job) -> list[Outcome]:
    return list(collect_levels(job))


def collect_levels(job: Job) -> Iterator[Outcome]:
    """Film and write the episodes of some levels."""
    with open_engine(survey=True) as surveyor, open_engine() as engine:
        for name, indices in job.levels:
            surveyor.load(name, seed=0)
            level = surveyor.level()
            places = standing_places(level)
            for index in indices:
                yield _collect_one(job, index, engine, level, places)


def _collect_one(job: Job, index: int, engine: Engine, level: Level, places: Array) -> Outcome:
    settings, skipped = job.settings, []
    episode = settings.episode_id(index)
    for attempt in range(MAX_ATTEMPTS):
        keys = (settings.split, settings.walk, index, attempt)
        rng = np.random.default_rng(seed_of(settings.seed, "doom-walk", *keys))
        try:
            walk = _plan(settings, level, places, rng)
            engine.load(settings.map_of(index), seed_of(settings.seed, "doom-engine", *keys))
            pictures, poses = engine.film(walk.poses)
        except NoWay:
            skipped.append("no way")
            continue
        except OffCourse:
            skipped.append("off course (lift, conveyor or a thing in the way)")
            continue
        frames = shrink(pictures, settings.size)
        pairs = revisits(walk.poses)
        psnr = revisit_psnr(frames, pairs)
        if frames.mean() < MIN_BRIGHTNESS:
            skipped.append("too dark")
        elif settings.walk == "return" and psnr and psnr[0] < MIN_RETURN_PSNR:
            skipped.append("revisit looks different (flicker, animation)")
        else:
            meta = _meta(settings, settings.map_of(index), episode, walk, poses, pairs)
            write_episode(Path(job.folder), meta, encode_mp4(frames, FPS))
            return Outcome(episode, True, tuple(skipped), psnr)
    return Outcome(episode, False, tuple(skipped))


def _plan(settings: Settings, level: Level, places: Array, rng: np.random.Generator) -> Walk:
    if not len(places):
        raise NoWay("no room to stand in")
    plan = explore if settings.walk == "explore" else there_and_back
    return plan(level, places, rng, settings.chunks, settings.actions)


def _meta(
    settings: Settings,
    map_name: str,
    episode: str,
    walk: Walk,
    poses: list[tuple[float, float, float, float]],
    pairs: list[tuple[int, int]],
) -> EpisodeMeta:
    actions = tuple(
        Action(text, i * CHUNK_FRAMES, (i + 1) * CHUNK_FRAMES)
        for i, text in enumerate(walk.actions)
    )
    return EpisodeMeta(
        id=episode,
        split=settings.split,
        scene=f"freedoom2/{map_name}",
        domain="navigation",
        source="ViZDoom, Freedoom: Phase 2",
        licence="BSD-3-Clause",
        fps=FPS,
        num_frames=len(poses),
        height=settings.size,
        width=settings.size,
        actions=actions,
        poses=tuple(poses),
        revisits=tuple(pairs),
        provenance=Provenance("data_tools.collect.doom", VERSION, settings.hash()),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )


def _summary(settings: Settings, outcomes: list[Outcome], before: int) -> dict[str, Any]:
    reasons = Counter(reason for outcome in outcomes for reason in outcome.skipped)
    kept = [outcome for outcome in outcomes if outcome.kept]
    psnrs = [outcome.return_psnr for outcome in kept if outcome.return_psnr]
    return {
        "settings": asdict(settings) | {"hash": settings.hash()},
        "episodes": {
            "wanted": len(outcomes),
            "kept": len(kept),
            "of them from before": before,
            "given up": [outcome.id for outcome in outcomes if not outcome.kept],
        },
        "walks tried": len(kept) + sum(reasons.values()),
        "walks skipped": dict(sorted(reasons.items())),
        "revisit psnr dB": {
            "least": min(p[0] for p in psnrs),
            "mean": round(sum(p[1] for p in psnrs) / len(psnrs), 2),
        }
        if psnrs
        else None,
        "walks": [asdict(outcome) for outcome in outcomes],
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.collect.doom",
        description="Collect action-annotated walks through Freedoom levels (ViZDoom, no display).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="folder for ID.mp4 and ID.json")
    p.add_argument("--episodes", type=int, default=150, help="number of episodes")
    p.add_argument("--split", choices=tuple(MAPS), default="train", help="picks the levels")
    p.add_argument(
        "--walk",
        choices=("explore", "return"),
        default="explore",
        help="explore: random, with turns back; return: n+1 chunks out, n back by reverse actions",
    )
    p.add_argument("--chunks", type=int, default=25, help="actions an episode, 8 frames each")
    p.add_argument("--size", type=int, default=64, help="height and width of a frame, pixels")
    p.add_argument("--seed", type=int, default=0, help="of the walks and of the engine")
    p.add_argument("--workers", type=int, default=2, help="processes; changes no result")
    p.add_argument("--maps", nargs="+", metavar="MAPnn", help="levels; none: all of the split")
    p.add_argument("--strafe", action="store_true", help='also "step left" and "step right"')
    p.add_argument("--resume", action="store_true", help="keep finished episodes in --out")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when every wanted episode was kept."""
    args = parser().parse_args(argv)
    try:
        settings = Settings(
            split=args.split,
            walk=args.walk,
            chunks=args.chunks,
            size=args.size,
            seed=args.seed,
            maps=tuple(args.maps or MAPS[args.split]),
            actions=ACTIONS if args.strafe else ACTIONS[:4],
        )
        summary = collect(settings, args.out, args.episodes, args.workers, args.resume)
    except (SchemaError, MissingViZDoom, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: value for key, value in summary.items() if key != "walks"}, indent=1))
    return 0 if summary["episodes"]["kept"] == args.episodes else 1


if __name__ == "__main__":
    sys.exit(main())
