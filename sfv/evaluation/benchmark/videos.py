"""Folders of generated videos, `PROTOCOL/ID.mp4`: ours, or those of any other system."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sfv.evaluation.benchmark.methods import PROTOCOLS, Protocol
from sfv.evaluation.benchmark.spec import Benchmark, BenchmarkError
from sfv.generation.videos import Video, read_video
from sfv.names import is_hidden


def protocols_in(folder: Path) -> list[Protocol]:
    """The protocols that a folder holds videos of.

    Raises:
        BenchmarkError: there is none.
    """
    found = [name for name in PROTOCOLS if (folder / name).is_dir()]
    if not found:
        raise BenchmarkError(
            f"{folder} holds neither of the folders {' and '.join(PROTOCOLS)}; put ID.mp4 of every "
            "episode into return/ (true way out, generated way back), open/ (only the first chunk "
            "true), or both"
        )
    return found


def read_videos(
    folder: Path, benchmark: Benchmark, episodes: Sequence[str], first_chunk: Mapping[str, int]
) -> list[Video]:
    """Read the videos of some episodes; the folder holds all of these, and no video of another name.

    Args:
        folder: holds ID.mp4.
        benchmark: tells lengths and sizes.
        episodes: ids.
        first_chunk: of each episode, frames of the given first chunk; named in errors alone.

    Raises:
        BenchmarkError: videos are missing, too many, too short, too long or of another size; says how
            many of each, and of the first one what is wrong.
    """
    there = {path.stem for path in folder.glob("*.mp4") if not is_hidden(path, folder)}
    missing = [name for name in episodes if name not in there]
    extra = sorted(there - set(benchmark.episodes))
    if missing or extra:
        listed = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            for names, what in ((missing, "missing"), (extra, "that are no episode of it"))
            if names
        )
        raise BenchmarkError(
            f"{folder}: of {len(episodes)} episodes of {benchmark.label} there are {listed}; give "
            "exactly one ID.mp4 an episode (--lengths scores a part of the benchmark)"
        )
    videos, wrong = [], []
    for name in episodes:
        video = read_video(folder / f"{name}.mp4")
        fault = _fault(video, benchmark, name)
        if fault:
            wrong.append(f"{name}.mp4 {fault}")
        videos.append(video)
    if wrong:
        raise BenchmarkError(
            f"{folder}: {len(wrong)} of {len(episodes)} videos do not fit. {wrong[0]}. Every video "
            f"begins with the given frames (the first {first_chunk[episodes[0]]} at least) and has the "
            "length of its episode"
        )
    return videos


def _fault(video: Video, benchmark: Benchmark, name: str) -> str:
    num, size = benchmark.episodes[name].num_frames, benchmark.size
    if tuple(video.shape[2:]) != (size, size):
        return f"is {video.shape[3]}x{video.shape[2]} pixels, allowed are {size}x{size}: resize it"
    if len(video) != num:
        what = "short" if len(video) < num else "long"
        return f"is too {what}: {len(video)} frames, its episode has {num}"
    return ""
