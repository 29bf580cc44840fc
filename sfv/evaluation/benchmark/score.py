"""Scores of a row's videos: the library's suites on the benchmark's two protocols.

Frames that a protocol gives (the true way out; the first chunk) are the truth itself, whatever stands
in the video, so no system gains or loses by how it encodes them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from sfv.evaluation.benchmark.methods import Protocol
from sfv.evaluation.benchmark.objects import score_objects
from sfv.evaluation.benchmark.spec import Benchmark, BenchmarkError
from sfv.evaluation.benchmark.truth import Truth
from sfv.evaluation.benchmark.walks import Walk
from sfv.metrics.interval import mean_interval
from sfv.metrics.protocol import MetricValue, mean_value
from sfv.metrics.suite import Progress, score_long, score_next_chunk, too_few_clips
from sfv.metrics.weights import I3D_KINETICS, LPIPS_ALEX, find

CLIP_FRAMES = 16
Video = UInt8[Tensor, "t 3 height width"]

_RETURN = {
    "return_psnr": "return_psnr",
    "return_lpips": "return_lpips",
    "src": "return_src",
    "src_ceiling": "return_src_ceiling",
    "src_floor": "return_src_floor",
    "revisit_psnr_ceiling": "return_psnr_ceiling",
    "revisit_lpips_ceiling": "return_lpips_ceiling",
}
"""Names in the suite → names of the way back: its ceiling is the truth's first against later visits."""

_OPEN = {"return_psnr": "open_return_psnr", "return_lpips": "open_return_lpips"}
_CLIPS = ("fvd", "fvd_floor", "fvd_unpaired", "kvd")


def clip_protocols(
    walks: Sequence[Walk], protocols: Sequence[Protocol], fvd: bool | None
) -> tuple[list[Protocol], list[str]]:
    """Find the protocols that FVD is measured in, before any video is made; print which are left out.

    Args:
        walks: all that are scored.
        protocols: those that a row has videos of.
        fvd: True: in all of them; None: in those whose generated frames make enough clips; False: in none.

    Returns:
        these protocols, and what was printed.

    Raises:
        BenchmarkError: `fvd` is True, and a protocol has too few clips.
        WeightsMissing: a network that measures is not installed.
    """
    find(LPIPS_ALEX)
    if fvd is False:
        return [], []
    faults = {p: too_few_clips([len(w.video) - _given(w, p) for w in walks]) for p in protocols}
    left_out = [
        f"FVD of protocol {p} is left out: {fault}." for p, fault in faults.items() if fault
    ]
    if left_out and fvd:
        raise BenchmarkError(
            f"{left_out[0]} It was asked for: take more or longer walks (--lengths, --kinds), or another "
            "protocol, or --fvd null (FVD where there are enough) or false"
        )
    for line in left_out:
        print(line)
    if len(left_out) < len(protocols):
        find(I3D_KINETICS)
    return [p for p in protocols if not faults[p]], left_out


def _given(walk: Walk, protocol: Protocol) -> int:
    """Frames that a protocol gives."""
    return walk.turn if protocol == "return" else walk.first_chunk


def score_videos(
    truth: Truth,
    protocol: Protocol,
    videos: Sequence[Video],
    fvd: bool = True,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """All metrics of one protocol.

    Args:
        truth: the walks; what is measured of it once serves every call.
        protocol: what is given, and so what is scored.
        videos: of the same walks, whole.
        fvd: also the distances between clips, which take longest.
        progress: told what is measured.

    Raises:
        ValueError: `fvd`, and the videos make fewer than 2 clips; see `clip_protocols`.
    """
    benchmark, walks, seed = truth.benchmark, truth.walks, truth.seed
    given = [_given(walk, protocol) for walk in walks]
    made = [
        torch.cat([walk.video[:n], video[n:]])
        for walk, video, n in zip(walks, videos, given, strict=True)
    ]
    scores = score_long(
        made,
        truth.revisits,
        chunk_frames=benchmark.chunk_frames,
        fps=benchmark.fps,
        reference=[walk.video for walk in walks],
        seed=seed,
        progress=progress,
        ceilings=truth.ceilings,
    )
    things = score_objects(benchmark.objects, walks, made, scores["return_psnr"].passport)
    if protocol == "return":
        scores = {ours: scores[theirs] for theirs, ours in _RETURN.items()}
        for name, values in truth.floors.items():
            scores[f"{name}_floor"] = mean_value(values, scores[name].passport)
        scores |= things
    else:
        scores = {_OPEN.get(name, name): value for name, value in scores.items()}
        scores |= {f"open_{name}": value for name, value in things.items()}
    if fvd:
        scores |= _clips(protocol, walks, made, given, seed, progress)
    return {name: _stamped(name, value, protocol, benchmark) for name, value in scores.items()}


def _clips(
    protocol: Protocol,
    walks: Sequence[Walk],
    made: Sequence[Video],
    given: Sequence[int],
    seed: int,
    progress: Progress | None,
) -> dict[str, MetricValue]:
    """Distances between clips of what was generated and of the truth; shorter ends make no clip."""
    ends = [
        (walk.video[n:], video[n:])
        for walk, video, n in zip(walks, made, given, strict=True)
        if len(video) - n >= CLIP_FRAMES
    ]
    scores = score_next_chunk(
        [true for true, _ in ends],
        [end for _, end in ends],
        clip_frames=CLIP_FRAMES,
        seed=seed,
        progress=progress,
    )
    prefix = "return_" if protocol == "return" else ""
    return {f"{prefix}{name}": scores[name] for name in _CLIPS if name in scores}


def _stamped(
    name: str, value: MetricValue, protocol: Protocol, benchmark: Benchmark
) -> MetricValue:
    """The passport names metric, protocol and benchmark, so other benchmarks' numbers are refused."""
    told = "; ".join(filter(None, (value.passport.settings, f"benchmark {benchmark.label}")))
    kind: Any = "return" if protocol == "return" else "long"
    passport = replace(value.passport, metric=name, protocol=kind, settings=told)
    return replace(value, passport=passport)


def by_part(
    walks: Sequence[Walk], scores: Mapping[str, MetricValue]
) -> dict[str, dict[str, dict[str, Any]]]:
    """The metrics that are means over episodes, of each part alone."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, value in scores.items():
        if len(value.episodes) != len(walks):
            continue
        for part in dict.fromkeys(walk.part for walk in walks):
            values = [
                v
                for v, walk in zip(value.episodes, walks, strict=True)
                if walk.part == part and not math.isnan(v)
            ]
            if values:
                low, high = mean_interval(values)
                mean = sum(values) / len(values)
                cell = {"value": mean, "low": low, "high": high, "n": len(values)}
                found.setdefault(part, {})[name] = cell
    return found
