"""Cut raw videos or episodes into episodes of bounded length that never span a scene cut.

    python -m data_tools.cut videos --out data/cut --split train --domain human --source "my camera" \
        --licence CC0-1.0 --fps 8 --size 64 64 --chunk-frames 8
    python -m data_tools.cut data/episodes --out data/cut --fps 8 --chunk-frames 8

A folder with `ID.json` beside `ID.mp4` holds episodes; their actions, poses and revisits follow the
frames. Any other folder is searched for videos, whose frames get one action, "unlabelled":
`data_tools.annotate` describes them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data_tools.clips import UNLABELLED, UNREADABLE, pictures_of, rate_of, read_episode
from data_tools.cutting import (
    CutSettings,
    in_chunks,
    piece_meta,
    pieces,
    source_rate,
)
from data_tools.files import VIDEO_CODEC, encode_mp4, episode_files, settings_hash, write_episode
from data_tools.options import Run, run_of, run_tool, summarise, tool_parser
from data_tools.work import Skip
from sfv.data.schema import (
    DOMAINS,
    SPLITS,
    Action,
    Encoding,
    EpisodeMeta,
    Provenance,
    SchemaError,
)
from sfv.media.fit import FITS, Fit, fit_frame
from sfv.media.limits import MediaError, check_held
from sfv.media.reader import VIDEO_SUFFIXES
from sfv.names import ascii_name, is_hidden

VERSION = "1"
TOOL = "data_tools.cut"
DETECTOR_WIDTH = 256
"""Pixels: wider frames are reduced to this before cuts are looked for, as PySceneDetect does."""


def cut(
    folders: list[Path], out: Path, settings: CutSettings, about: dict[str, str | None], run: Run
) -> dict[str, Any]:
    """Cut everything in `folders` and write `summary.json`.

    Args:
        folders: of episodes or of raw videos.
        out: gets `ID-NNNN.mp4` and `ID-NNNN.json`.
        settings: lengths, rate and size.
        about: of raw videos: split, domain, source, licence; empty when there are none.
        run: how.

    Raises:
        SchemaError: nothing to cut, two videos of one name, raw videos that nothing is known of.
    """
    items = _items(folders, about, out)
    plain = {"cut": asdict(settings), "about": about, "version": VERSION}
    results = run.map(cut_one, items, out, plain, "cut", "video")
    kept = results.kept.values()
    more = {
        "episodes": sum(len(result["episodes"]) for result in kept),
        "shots": sum(result["shots"] for result in kept),
        "frames": {
            "in episodes": sum(result["frames"] for result in kept),
            "left out (short rest of a shot)": sum(result["left out"] for result in kept),
        },
        "hidden files passed over": sum(is_hidden(p, f) for f in folders for p in _videos(f)),
    }
    return summarise(out, TOOL, plain, results, more)


def cut_one(item: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Cut one video: once through to find cuts and times, once to take the frames.

    Raises:
        Skip: unreadable, or no shot is long enough.
    """
    settings = CutSettings(**given["cut"])
    video, out = Path(item["video"]), Path(item["out"])
    known = read_episode(video.with_suffix(".json")) if item["known"] else None
    seen = scan(video, settings, None if known is None else known.fps)
    if known is not None and len(seen.times) != known.num_frames:
        raise Skip(UNREADABLE, f"{len(seen.times)} frames, the metadata says {known.num_frames}")
    fps = settings.fps or seen.rate
    meta = known or _raw_meta(item, given["about"], len(seen.times))
    planned, left_out = pieces(seen.times, seen.cuts, fps, settings, seen.stop)
    if not planned:
        raise Skip(
            "no shot is long enough",
            f"{len(seen.cuts) + 1} shots, {left_out} frames at {fps:g} fps",
        )
    frames = _take(video, np.concatenate(planned), settings)
    episodes = []
    for number, piece in enumerate(planned):
        taken = _stacked(islice(frames, len(piece)), len(piece))
        made = _finished(piece_meta(meta, piece, number), fps, taken, given)
        write_episode(out, made, encode_mp4(taken, fps))
        episodes.append(made.id)
    return {
        "episodes": episodes, "shots": len(seen.cuts) + 1, "frames": sum(map(len, planned)),
        "left out": left_out,
    }  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """What a first pass through a video finds.

    Args:
        times: of the frames, seconds.
        stop: seconds until which the last one is shown.
        rate: frames a second.
        cuts: the first frame of each new shot.
    """

    times: NDArray[np.float64]
    stop: float
    rate: float
    cuts: list[int]


def scan(video: Path, settings: CutSettings, fps: float | None) -> Scan:
    """Find the frames' times, the frame rate, and the cuts.

    Args:
        video: the file.
        settings: the detector's.
        fps: an episode's own rate; None takes the rate and the time stamps of the file.

    Raises:
        Skip: unreadable, or it names no rate.
    """
    stated = fps or rate_of(video)
    finder = CutFinder(settings, stated or 1.0) if settings.cut_threshold else None
    times: list[float] = []
    cuts: list[int] = []
    stop = 0.0
    for number, frame in enumerate(pictures_of(video)):
        times.append(number / fps if fps else frame.time)
        stop = (number + 1) / fps if fps else frame.stop
        if finder:
            cuts += finder.add(number, frame.raw)
    rate = fps or source_rate(np.array(times), stated)
    if not rate:
        raise Skip(UNREADABLE, "a single frame without a frame rate")
    return Scan(np.array(times), stop, rate, cuts)


class CutFinder:
    """PySceneDetect's AdaptiveDetector, fed one picture at a time."""

    def __init__(self, settings: CutSettings, fps: float) -> None:
        from scenedetect import AdaptiveDetector

        self._fps = fps
        self._detector = AdaptiveDetector(
            adaptive_threshold=settings.cut_threshold, min_scene_len=settings.min_scene_s
        )

    def add(self, number: int, picture: av.VideoFrame) -> list[int]:
        """Look at frame `number`; a cut is reported two frames late."""
        from scenedetect import FrameTimecode

        scale = max(1.0, picture.width / DETECTOR_WIDTH)
        size = (round(picture.width / scale), max(1, round(picture.height / scale)))
        small = picture.reformat(*size, format="bgr24").to_ndarray()
        found = self._detector.process_frame(FrameTimecode(number, self._fps), small)
        return [cut.frame_num for cut in found]


def _take(
    video: Path, wanted: NDArray[np.int64], settings: CutSettings
) -> Iterator[NDArray[np.uint8]]:
    """Decode once more and give the wanted frames; their numbers never decrease."""
    numbers = iter(wanted.tolist())
    number = next(numbers, None)
    for idx, frame in enumerate(pictures_of(video)):
        if number is None:
            return
        if idx != number:
            continue
        picture = frame.rgb()
        if settings.height is not None and settings.width is not None:
            picture = fit_frame(picture, settings.height, settings.width, settings.fit)
        while idx == number:
            yield picture
            number = next(numbers, None)


def _stacked(frames: Iterator[NDArray[np.uint8]], num: int) -> NDArray[np.uint8]:
    """Put the frames of a piece together.

    Raises:
        Skip: they differ in size, or are more than can be held.
    """
    taken: list[NDArray[np.uint8]] = []
    for frame in frames:
        taken.append(frame)
        if frame.shape != taken[0].shape:
            raise Skip("frames of several sizes", f"{frame.shape}, {taken[0].shape}: give --size")
        try:
            check_held("a piece", num, frame.shape[:2])
        except MediaError as error:
            raise Skip(error.reason, f"{error.detail}, or give --size") from error
    return np.stack(taken)


def _finished(
    meta: EpisodeMeta, fps: float, frames: NDArray[np.uint8], given: dict[str, Any]
) -> EpisodeMeta:
    """Fill in what the frames themselves decide, and who made them.

    Places of objects in the picture do not hold in a picture of another size: they are left out.
    """
    chunk = given["cut"]["chunk_frames"]
    same_size = (meta.height, meta.width) == frames.shape[1:3]
    made = settings_hash({"run": given, "of": meta.provenance.settings_hash})
    return dataclasses.replace(
        meta,
        fps=fps,
        height=frames.shape[1],
        width=frames.shape[2],
        actions=in_chunks(meta.actions, chunk) if chunk else meta.actions,
        provenance=Provenance(TOOL, VERSION, made),
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
        objects=meta.objects if same_size else (),
        camera=meta.camera if same_size else None,
    )


def _raw_meta(item: dict[str, Any], about: dict[str, Any], num_frames: int) -> EpisodeMeta:
    return EpisodeMeta(
        id=item["id"],
        split=about["split"],
        scene=item["id"],
        domain=about["domain"],
        source=about["source"],
        licence=about["licence"],
        fps=1.0,
        num_frames=num_frames,
        height=1,
        width=1,
        actions=(Action(UNLABELLED, 0, num_frames),),
        poses=None,
        revisits=(),
        provenance=Provenance("raw video", "1", "none"),
        encoding=Encoding("video", "raw", "uint8"),
    )


def _items(
    folders: list[Path], about: dict[str, str | None], out: Path
) -> dict[str, dict[str, Any]]:
    """Find what there is to cut."""
    items: dict[str, dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SchemaError(f"{folder} is no folder; give folders of episodes or of videos")
        texts = [path for path in folder.glob("*.json") if not is_hidden(path, folder)]
        known = any(path.with_suffix(".mp4").exists() for path in texts)
        if known:
            found = {key: path.with_suffix(".mp4") for key, path in episode_files([folder]).items()}
        else:
            found = raw_videos(folder, about)
        for key, video in found.items():
            if key in items:
                raise SchemaError(f"{video} and {items[key]['video']} give the same id {key!r}")
            items[key] = {
                "id": key, "video": str(video.resolve()), "known": known, "out": str(out.resolve()),
            }  # fmt: skip
    return items


def raw_videos(folder: Path, about: dict[str, str | None]) -> dict[str, Path]:
    """Find videos in a folder and its subfolders; ids come from their paths.

    Raises:
        SchemaError: none, two of one id, or nothing is known of them.
    """
    missing = [f"--{name}" for name, value in about.items() if not value]
    if missing:
        raise SchemaError(f"{folder} holds raw videos: give {' '.join(missing)} for them")
    found: dict[str, Path] = {}
    for path in sorted(p for p in _videos(folder) if not is_hidden(p, folder)):
        name = str(path.relative_to(folder).with_suffix(""))
        key = ascii_name(name).strip("-_") or "video"
        if key in found:
            raise SchemaError(f"{path} and {found[key]} give the same id {key!r}; rename one")
        found[key] = path
    if not found:
        raise SchemaError(f"{folder}: neither episodes nor videos ({' '.join(VIDEO_SUFFIXES)})")
    return found


def _videos(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = tool_parser("cut", "Cut videos or episodes into episodes of bounded length without cuts.")
    d = CutSettings()
    p.add_argument(
        "folders", type=Path, nargs="+", help="of episodes (ID.mp4, ID.json) or of videos"
    )
    p.add_argument("--fps", type=float, help="frames a second; none keeps the source's rate")
    p.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels")
    p.add_argument(
        "--fit", choices=FITS, default=d.fit, help="crop the middle, stretch, or pad with black"
    )
    p.add_argument(
        "--min-frames", type=int, default=d.min_frames, help="shorter pieces are left out"
    )
    p.add_argument("--max-frames", type=int, default=d.max_frames, help="longest piece, frames")
    p.add_argument(
        "--chunk-frames", type=int, default=d.chunk_frames, metavar="N",
        help="give every N frames one action, as training needs it; 0 leaves actions as they are",
    )  # fmt: skip
    p.add_argument(
        "--cut-threshold", type=float, default=d.cut_threshold,
        help="of PySceneDetect's AdaptiveDetector; higher finds fewer cuts, 0 looks for none",
    )  # fmt: skip
    p.add_argument(
        "--min-scene", type=float, default=d.min_scene_s, help="seconds between two cuts"
    )
    g = p.add_argument_group("raw videos", "what the videos do not say themselves")
    g.add_argument("--split", choices=SPLITS, help="of all raw videos given")
    g.add_argument("--domain", choices=DOMAINS, help="kind of world")
    g.add_argument("--source", help="where they come from")
    g.add_argument("--licence", help="SPDX name where there is one")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    about = {name: getattr(args, name) for name in ("split", "domain", "source", "licence")}
    height, width = args.size or (None, None)
    fit: Fit = args.fit

    def work() -> dict[str, Any]:
        settings = CutSettings(
            args.fps, height, width, fit, args.min_frames, args.max_frames, args.chunk_frames,
            args.cut_threshold, args.min_scene,
        )  # fmt: skip
        return cut(args.folders, args.out, settings, about, run_of(args))

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
