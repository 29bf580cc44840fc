"""One page on a data set: what is in it, what it looks like, and what became of every input.

    python -m data_tools.report data/shards --out data/report
    python -m data_tools.report data/unique --summaries data/cut data/filtered --out data/report

Reads shards (folders with `train/`, `val/`, `test/`, or one of them) and folders of episodes. The page,
`OUT/report.html`, is one file that needs no other; all texts in it are escaped.
"""

import argparse
import base64
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from data_tools.clips import frames_of, read_episode, spread
from data_tools.files import episode_files, settings_hash
from data_tools.options import SUMMARY, Run, run_of, run_tool, summarise, tool_parser
from data_tools.work import Skip
from sfv.data.schema import SPLITS, EpisodeMeta, SchemaError
from sfv.files import write_bytes

if TYPE_CHECKING:
    from sfv.data.shards import Sample  # loads torch; folders of episodes do not need it

TOOL = "data_tools.report"
VERSION = "1"
PAGE = "report.html"
GROUP = 64
"""Episodes of a folder that are one item; a shard is one item too."""

TOP_ACTIONS = 30


@dataclass(frozen=True)
class ReportSettings:
    """What is measured.

    Args:
        clips: sample clips for each domain and split.
        clip_frames: frames of a sample clip.
        clip_height: pixels.
        decoded: episodes of each domain and split in each item (shard, or 64 episodes) whose motion
            is measured.
    """

    clips: int = 3
    clip_frames: int = 8
    clip_height: int = 96
    decoded: int = 2

    def __post_init__(self) -> None:
        if self.clips < 0 or self.clip_frames < 1 or self.clip_height < 16 or self.decoded < 0:
            raise SchemaError(f"{self}: clips, decoded >= 0, frames >= 1, height >= 16 are allowed")


def report(
    folders: list[Path], out: Path, settings: ReportSettings, run: Run, summaries: list[Path]
) -> dict[str, Any]:
    """Write `OUT/report.html` and `OUT/summary.json`.

    Args:
        folders: of shards or of episodes.
        out: folder.
        settings: what is measured.
        run: how.
        summaries: more folders whose `summary.json` tells what became of inputs.

    Raises:
        SchemaError: neither shards nor episodes.
        ShardError: shards that are not whole.
    """
    items: dict[str, dict[str, Any]] = {}
    for folder in folders:
        items |= _shards(folder) or _groups(folder)
    plain = asdict(settings) | {"version": VERSION, "inputs": settings_hash({"items": items})}
    results = run.map(look, items, out, plain, "look", "group")
    episodes = [e for result in results.kept.values() for e in result["episodes"]]
    facts = gather(episodes, settings)
    facts["faults"] = [fault for result in results.kept.values() for fault in result["faults"]]
    accounts = [a for folder in [*folders, *summaries] for a in read_accounts(folder)]
    page = render(facts, accounts, results.account(), [str(folder) for folder in folders])
    write_bytes(out / PAGE, page.encode())
    return summarise(
        out, TOOL, plain, results, {"episodes": len(episodes), "faults": facts["faults"]}
    )


def look(item: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Read one shard or some episodes: facts of all, pictures of the first few of each kind.

    Raises:
        Skip: nothing of it can be read.
    """
    settings = ReportSettings(**{f.name: given[f.name] for f in fields(ReportSettings)})
    source: Iterator[tuple[EpisodeMeta, Frames] | str]
    source = _shard_episodes(item) if "shard" in item else _folder_episodes(item)
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    seen: Counter[tuple[str, str]] = Counter()
    for episode in source:
        if isinstance(episode, str):
            faults.append(episode)
            continue
        meta, frames = episode
        facts = _facts(meta)
        cell = (meta.domain, meta.split)
        seen[cell] += 1
        if seen[cell] <= settings.decoded and meta.encoding.kind != "latents":
            try:
                facts |= _seen(np.stack(list(frames)), settings)
            except (Skip, ValueError) as error:
                faults.append(f"{meta.id}: {error}")
        found.append(facts)
    if not found:
        raise Skip("no readable episode", "; ".join(faults))
    return {"episodes": found, "faults": faults}


def _facts(meta: EpisodeMeta) -> dict[str, Any]:
    return {
        "id": meta.id, "split": meta.split, "domain": meta.domain, "source": meta.source,
        "licence": meta.licence, "scene": meta.scene, "frames": meta.num_frames, "fps": meta.fps,
        "size": f"{meta.height}x{meta.width}", "kind": meta.encoding.kind,
        "poses": meta.poses is not None,
        "actions": dict(Counter(action.text for action in meta.actions)),
        "spans": dict(Counter(str(action.stop - action.start) for action in meta.actions)),
    }  # fmt: skip


def _seen(frames: NDArray[np.uint8], settings: ReportSettings) -> dict[str, Any]:
    """Measure motion (levels of 0 to 255 between neighbouring frames) and draw a strip."""
    motion = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() if len(frames) > 1 else 0.0
    picked = frames[spread(len(frames), settings.clip_frames)]
    strip = Image.fromarray(np.concatenate(list(picked), axis=1))
    height = settings.clip_height
    strip = strip.resize((round(strip.width * height / strip.height), height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    strip.save(buffer, "PNG", optimize=True)
    return {"motion": float(motion), "strip": base64.b64encode(buffer.getvalue()).decode()}


Frames = Iterable[NDArray[np.uint8]]


def _folder_episodes(item: dict[str, Any]) -> Iterator[tuple[EpisodeMeta, Frames] | str]:
    for name in item["files"]:
        path = Path(name)
        try:
            meta = read_episode(path)
        except Skip as skip:
            yield str(skip)
            continue
        yield meta, frames_of(meta, path.with_suffix(".mp4"))


def _shard_episodes(item: dict[str, Any]) -> Iterator[tuple[EpisodeMeta, Frames]]:
    from sfv.data.index import find_shards
    from sfv.data.shards import read_shard

    path = Path(item["shard"])
    (shard,) = find_shards(path).shards
    for sample in read_shard(path, shard):
        yield sample.meta, _shard_frames(sample)


def _shard_frames(sample: "Sample") -> Frames:
    from sfv.data.stages import decode

    for frame in decode(sample):
        yield frame.permute(1, 2, 0).numpy()


def _shards(folder: Path) -> dict[str, dict[str, Any]]:
    places = [folder, *(folder / split for split in SPLITS)]
    present = [place for place in places if (place / "index.json").is_file()]
    if not present:
        return {}
    from sfv.data.index import find_shards

    paths = [str((p / s.name).resolve()) for p in present for s in find_shards(p).shards]
    return {path: {"shard": path} for path in paths}


def _groups(folder: Path) -> dict[str, dict[str, Any]]:
    files = [str(path.resolve()) for path in episode_files([folder]).values()]
    return {
        f"{folder.resolve()} {first}": {"files": files[first : first + GROUP]}
        for first in range(0, len(files), GROUP)
    }


def gather(episodes: list[dict[str, Any]], settings: ReportSettings) -> dict[str, Any]:
    """Count what the page shows."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    actions: Counter[str] = Counter()
    spans: Counter[int] = Counter()
    for episode in episodes:
        cells[episode["domain"], episode["split"]].append(episode)
        actions.update(episode["actions"])
        spans.update({int(length): count for length, count in episode["spans"].items()})
    lengths = [episode["frames"] for episode in episodes]
    motions = [episode["motion"] for episode in episodes if "motion" in episode]
    return {
        "table": [_row(*key, cells[key]) for key in sorted(cells)],
        "actions": bars(actions.most_common(TOP_ACTIONS)),
        "num_actions": len(actions),
        "spans": bars([(str(n), spans[n]) for n in sorted(spans)][:TOP_ACTIONS]),
        "lengths": histogram(lengths),
        "motion": histogram(motions),
        "num_motions": len(motions),
        "licences": bars(
            Counter(f"{e['source']} ({e['licence']})" for e in episodes).most_common()
        ),
        "samples": [
            {
                "domain": domain,
                "split": split,
                "clips": _clips(cells[domain, split], settings.clips),
            }
            for domain, split in sorted(cells)
        ],
    }


def _row(domain: str, split: str, episodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "domain": domain,
        "split": split,
        "episodes": len(episodes),
        "scenes": len({episode["scene"] for episode in episodes}),
        "frames": sum(episode["frames"] for episode in episodes),
        "hours": sum(episode["frames"] / episode["fps"] for episode in episodes) / 3600,
        "actions": sum(sum(episode["actions"].values()) for episode in episodes),
        "with poses": sum(episode["poses"] for episode in episodes),
        "sizes": ", ".join(sorted({f"{e['size']} {e['kind']}" for e in episodes})[:4]),
    }


def _clips(episodes: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Sample clips spread evenly over those that were decoded."""
    seen = [episode for episode in episodes if "strip" in episode]
    if not seen or not count:
        return []
    return [seen[idx] for idx in sorted(set(spread(len(seen), min(count, len(seen))).tolist()))]


def bars(counts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Give each count its share of the largest, for a bar's width."""
    given = list(counts)
    largest = max((count for _, count in given), default=1)
    return [{"label": name, "count": count, "share": count / largest} for name, count in given]


def histogram(values: list[float], most_bins: int = 12) -> list[dict[str, Any]]:
    """Count values in equal steps."""
    distinct = len(set(values))
    if distinct < 2:
        return bars([(f"{value:.4g}", len(values)) for value in values[:1]])
    counts, edges = np.histogram(values, bins=min(most_bins, distinct))
    return bars(
        (f"{low:.4g} to {high:.4g}", int(count))
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    )


def read_accounts(folder: Path) -> list[dict[str, Any]]:
    """Read what a tool or a collector noted about its inputs in a folder, if anything.

    Raises:
        SchemaError: a summary that is no JSON object.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return []
    try:
        given = json.loads(path.read_bytes())
    except ValueError as error:
        raise SchemaError(f"{path}: not JSON ({error}); make it again") from error
    if not isinstance(given, dict):
        raise SchemaError(f"{path}: got {type(given).__name__}, a JSON object is needed")
    reasons = given.get("skipped", given.get("walks skipped", {}))
    counts = given.get("inputs", given.get("episodes", {}))
    return [
        {
            "folder": str(folder),
            "tool": str(given.get("tool", "a collector")),
            "counts": _numbers(counts),
            "reasons": _numbers(reasons),
        }
    ]


def _numbers(given: Any) -> dict[str, int | float]:
    if not isinstance(given, dict):
        return {}
    return {str(key): value for key, value in given.items() if isinstance(value, int | float)}


def render(
    facts: dict[str, Any], accounts: list[dict[str, Any]], own: dict[str, Any], folders: list[str]
) -> str:
    """Draw the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(PAGE)
    return page.render(facts=facts, accounts=accounts, own=own, folders=folders)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("report", "Draw one HTML page on shards or folders of episodes.")
    d = ReportSettings()
    p.add_argument("folders", type=Path, nargs="+", help="of shards, or of ID.mp4 with ID.json")
    p.add_argument(
        "--summaries", type=Path, nargs="*", default=[], help="more folders with summaries"
    )
    p.add_argument("--clips", type=int, default=d.clips, help="for each domain and split")
    p.add_argument("--clip-frames", type=int, default=d.clip_frames, help="of a sample clip")
    p.add_argument("--clip-height", type=int, default=d.clip_height, help="pixels")
    p.add_argument(
        "--decoded", type=int, default=d.decoded,
        help=f"episodes of each shard, or of {GROUP} in a folder, whose motion is measured",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)

    def work() -> dict[str, Any]:
        settings = ReportSettings(args.clips, args.clip_frames, args.clip_height, args.decoded)
        return report(args.folders, args.out, settings, run_of(args), args.summaries)

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
