"""Convert a LeRobot data set (v2.0, v2.1, v3.0), the form in which Open-X sets are published.

    python -m data_tools.convert.lerobot --root lerobot/pusht --scene-by dataset \
        --split train --out data/pusht

The task's text is the action; what the robot was told stays as raw. See docs/datasets/lerobot.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert import common, options
from data_tools.convert.lerobot_meta import Episode, Meta, read_episodes, read_meta, read_rows
from data_tools.convert.recording import (
    BadInput,
    Details,
    Recording,
    Samples,
    SetupError,
    Source,
    Span,
    compact,
    need_dir,
    skip_of,
    whole,
)
from data_tools.convert.timeline import Layout
from sfv.names import ascii_name

HINT = (
    "LeRobot data do not name the place: give --scene-by dataset (all in one place), task (one place "
    "a task) or episode (each elsewhere; only if that is true)"
)
WRONG_LENGTH = "frames that the metadata and the table do not agree on"


@dataclass(frozen=True)
class Payload:
    """What a worker has to know besides the recording.

    Args:
        episode: where its data lie.
        fps: of the data.
        tasks: texts by number.
        raw: columns to keep.
    """

    episode: Episode
    fps: float
    tasks: tuple[tuple[int, str], ...]
    raw: tuple[str, ...]


def find(
    root: Path, camera: str | None, scene_by: str | None, raw: list[str], licence: str, name: str
) -> Source:
    """List the episodes of a data set.

    Raises:
        SetupError: no such folder, an unknown version, camera or column.
        BadInput: a file of `meta/` cannot be used.
    """
    meta = read_meta(need_dir(root, "a LeRobot data set (--root)"), camera)
    columns = _columns(meta, raw)
    recordings, skips = [], []
    for found in read_episodes(meta):
        if not isinstance(found, Episode):
            position, error = found
            skips.append(skip_of(f"entry {position}", error))
            continue
        recordings.append(
            Recording(
                key=f"{found.index:06d}",
                scene=_scene(found, scene_by),
                video=found.video,
                start=found.start,
                stop=found.stop,
                payload=Payload(found, meta.fps, tuple(meta.tasks.items()), columns),
            )
        )
    return Source(
        name=name or ascii_name(root.resolve().name),
        domain="robot",
        licence=licence,
        source=f"LeRobot {meta.version} data set {root.resolve().name}, camera {meta.camera}",
        recordings=tuple(recordings),
        skips=tuple(skips),
        scene_hint=HINT,
        settings={"camera": meta.camera, "raw": list(columns), "scene_by": scene_by},
    )


def read_details(recording: Recording, layout: Layout) -> Details:
    """Read one episode's tasks and its low-level records.

    Raises:
        BadInput: the table cannot be read or does not hold the episode.
    """
    payload: Payload = recording.payload
    episode = payload.episode
    rows = read_rows(episode, ["task_index", *payload.raw])
    texts = dict(payload.tasks)
    times = tuple(whole(n, "frame_index") / payload.fps for n in rows["frame_index"])
    spans: list[Span] = []
    for time, task in zip(times, rows["task_index"], strict=True):
        number = whole(task, "task_index")
        if number not in texts:
            raise BadInput(f"task_index without a text: episode {episode.index} has {number}")
        stop = time + 1 / payload.fps
        if spans and spans[-1].raw == {"task_index": number}:
            last = spans.pop()
            spans.append(Span(last.text, last.start, stop, last.raw))
        else:
            spans.append(Span(texts[number], time, stop, {"task_index": number}))
    samples = tuple(
        Samples(name, times, tuple(compact(value) for value in rows[name])) for name in payload.raw
    )
    apart = abs(episode.length - len(times))
    return Details(tuple(spans), samples, ((WRONG_LENGTH, apart),))


def _columns(meta: Meta, raw: list[str]) -> tuple[str, ...]:
    features = meta.info["features"]
    for name in raw:
        if name not in features or features[name].get("dtype") in ("video", "image"):
            known = [n for n, f in features.items() if f.get("dtype") not in ("video", "image")]
            raise SetupError(f"--raw {name}: the data set has {known}")
    return tuple(raw)


def _scene(episode: Episode, scene_by: str | None) -> str:
    if scene_by == "dataset":
        return "all"
    if scene_by == "episode":
        return f"episode-{episode.index:06d}"
    if scene_by == "task":
        return " / ".join(sorted(set(episode.tasks)))
    return ""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.convert.lerobot",
        description="Convert a LeRobot data set (v2.0, v2.1, v3.0) to episodes.",
        formatter_class=options.formatter(),
    )
    p.add_argument("--root", type=Path, required=True, help="holds meta/, data/, videos/")
    p.add_argument(
        "--name", default="", help="of the data set in ids and scenes; else the folder's"
    )
    p.add_argument("--camera", help="video feature, e.g. observation.images.top; needed if several")
    p.add_argument(
        "--scene-by",
        choices=("dataset", "task", "episode"),
        help="what counts as one place; needed",
    )
    p.add_argument(
        "--raw", nargs="*", default=["action"], metavar="COLUMN", help="columns to keep as raw"
    )
    p.add_argument("--licence", default="see the data set's card", help="of the frames")
    options.add_common(p, lossless=False, filler="stand still")
    return p


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert what the arguments name."""
    source = find(args.root, args.camera, args.scene_by, args.raw, args.licence, args.name)
    return common.run(args, source, read_details, "data_tools.convert.lerobot")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return common.main(convert, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
