"""Keep the episodes that are worth training on; each one that is dropped has its reason.

    python -m data_tools.filter data/annotated --out data/filtered --min-motion 0.5 --min-brightness 16

Every frame of every episode is decoded, so an unreadable video or one that does not fit its metadata is
found too. Kept videos get a second name in the output folder instead of a copy, where the file
system can; `--report-only` writes the summary alone.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.clips import frames_of, place_video, read_episode
from data_tools.files import episode_files
from data_tools.options import Run, run_of, run_tool, summarise, tool_parser
from data_tools.work import Skip
from sfv.data.schema import SchemaError
from sfv.files import write_bytes

VERSION = "1"
TOOL = "data_tools.filter"


@dataclass(frozen=True)
class FilterSettings:
    """Thresholds; brightness levels run from 0 to 255.

    Args:
        min_frames: fewer are too short.
        min_motion: mean absolute difference between neighbouring frames, in levels; less is static.
        max_still_share: share of neighbouring frames that differ by less than `min_motion`; more
            is static, however much the rest moves.
        min_brightness: mean level; less is dark.
    """

    min_frames: int = 16
    min_motion: float = 0.5
    max_still_share: float = 0.9
    min_brightness: float = 16.0

    def __post_init__(self) -> None:
        levels = (self.min_motion, self.min_brightness)
        shares = 0 <= self.max_still_share <= 1
        if self.min_frames < 0 or not all(0 <= level <= 255 for level in levels) or not shares:
            raise SchemaError(
                f"{self}: allowed are frames >= 0, levels from 0 to 255 and a share from 0 to 1"
            )


def filter_episodes(
    folders: list[Path], out: Path, settings: FilterSettings, run: Run, report_only: bool = False
) -> dict[str, Any]:
    """Place the good episodes in `out` and write `summary.json`.

    Raises:
        SchemaError: no episodes.
    """
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise SchemaError(f"--out {out} is an input; give another folder")
    target = "" if report_only else str(out.resolve())
    items = {
        key: {"json": str(path.resolve()), "out": target}
        for key, path in episode_files(folders).items()
    }
    plain = {"filter": asdict(settings), "report_only": report_only, "version": VERSION}
    results = run.map(filter_one, items, out, plain, "filter")
    kept = list(results.kept.values())
    more = {
        "frames kept": sum(result["frames"] for result in kept),
        "motion of the kept (levels)": _spread([result["motion"] for result in kept]),
        "brightness of the kept (levels)": _spread([result["brightness"] for result in kept]),
    }
    return summarise(out, TOOL, plain, results, more)


def filter_one(item: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """Judge one episode.

    Raises:
        Skip: it is dropped.
    """
    settings = FilterSettings(**given["filter"])
    source = Path(item["json"])
    video = source.with_suffix(".mp4")
    meta = read_episode(source)
    if meta.num_frames < settings.min_frames:
        raise Skip("too short", f"{meta.num_frames} frames, at least {settings.min_frames} needed")
    brightness: list[float] = []
    motions: list[float] = []
    last = None
    for frame in frames_of(meta, video):
        brightness.append(float(frame.mean()))
        levels = frame.astype(np.int16)
        if last is not None:
            motions.append(float(np.abs(levels - last).mean()))
        last = levels
    seen = _judge(brightness, motions, settings)
    if item["out"]:
        out = Path(item["out"])
        place_video(video, out / video.name)
        write_bytes(out / source.name, source.read_bytes())
    return seen | {"frames": meta.num_frames}


def _judge(
    brightness: list[float], motions: list[float], settings: FilterSettings
) -> dict[str, float]:
    bright = float(np.mean(brightness))
    motion = float(np.mean(motions)) if motions else 0.0
    still = float(np.mean([m < settings.min_motion for m in motions])) if motions else 1.0
    if bright < settings.min_brightness:
        raise Skip("dark", f"brightness {bright:.2f}, at least {settings.min_brightness:g} needed")
    if motion < settings.min_motion:
        raise Skip("static", f"motion {motion:.3f}, at least {settings.min_motion:g} needed")
    if still > settings.max_still_share:
        said = f"at most {settings.max_still_share:g} allowed"
        raise Skip("static for most of its length", f"share of still frames {still:.3f}, {said}")
    return {"motion": round(motion, 4), "brightness": round(bright, 3), "still": round(still, 4)}


def _spread(values: list[float]) -> dict[str, float]:
    """Quantiles that help to choose a threshold."""
    if not values:
        return {}
    shares = {"least": 0.0, "5 %": 0.05, "middle": 0.5, "95 %": 0.95, "most": 1.0}
    return {name: round(float(np.quantile(values, q)), 3) for name, q in shares.items()}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("filter", "Drop episodes that are static, dark, corrupt or too short.")
    d = FilterSettings()
    p.add_argument("folders", type=Path, nargs="+", help="with ID.mp4 and ID.json")
    p.add_argument("--min-frames", type=int, default=d.min_frames, help="fewer are too short")
    p.add_argument(
        "--min-motion", type=float, default=d.min_motion,
        help="mean absolute difference of neighbouring frames, levels of 0 to 255",
    )  # fmt: skip
    p.add_argument(
        "--max-still-share", type=float, default=d.max_still_share,
        help="share of neighbouring frames that may differ by less than --min-motion",
    )  # fmt: skip
    p.add_argument(
        "--min-brightness", type=float, default=d.min_brightness, help="mean level, 0 to 255"
    )
    p.add_argument("--report-only", action="store_true", help="write the summary, no episodes")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)

    def work() -> dict[str, Any]:
        settings = FilterSettings(
            args.min_frames, args.min_motion, args.max_still_share, args.min_brightness
        )
        return filter_episodes(args.folders, args.out, settings, run_of(args), args.report_only)

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
