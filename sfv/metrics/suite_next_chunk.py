"""Scores of next chunks: what is generated from the true context and action."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.metrics.features import ClipFeatures, I3DFeatures
from sfv.metrics.frame import lpips, psnr, ssim
from sfv.metrics.fvd import clip_interval, frechet_distance, fvd_floor, kernel_distance
from sfv.metrics.lpips import Net
from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.suite_common import (
    Progress,
    check_lists,
    for_each,
    lpips_passport,
    mean,
    quiet,
    videos_hash,
)
from sfv.metrics.video import check_pair, clips, num_clips
from sfv.rng import stream

_CLIP_INTERVAL = (
    "bootstrap over episodes, pairs kept, 95 % in name (covers 55 to 87 % at 2 episodes, 75 to 94 % at 3, "
    "96 % or more from 6 on), centred on the value"
)
_FLOOR_INTERVAL = "smallest and largest of the splits"


@functools.lru_cache(maxsize=1)
def default_clip_features() -> I3DFeatures:
    """The exact I3D, loaded once; it remembers the clips it has seen."""
    return I3DFeatures()


def score_next_chunk(
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    *,
    clip_frames: int = 16,
    clip_stride: int | None = None,
    lpips_net: Net = "alex",
    clip_features: ClipFeatures | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """Fidelity of chunks generated from the true context and action.

    `psnr`, `ssim`, `lpips`: mean over frames, then over episodes. `fvd`, `kvd`: clips of the true and
    of the generated videos. `fvd_floor`: true against true, and `fvd_unpaired`: true against
    generated of other episodes, both on halves (see `fvd.fvd_floor`); the gap between these two
    is what a perfect generator would bring to 0.

    Args:
        real: for each episode the true frames of its chunks, one chunk after another.
        generated: the generated frames in the same order; context frames belong in neither.
        clip_frames: frames in an FVD clip. Where chunks are shorter, a clip spans several.
        clip_stride: frames between the starts of clips; None: side by side.
        lpips_net: network of LPIPS.
        clip_features: network of FVD; None: the exact I3D.
        seed: of splits, and of the intervals of FVD and KVD.
        progress: told what is measured.

    Raises:
        ValueError: lists or videos that do not fit, values outside [0, 1], fewer than 2 clips.
        WeightsMissing: the networks are not installed.
    """
    scores = score_frames(real, generated, lpips_net=lpips_net, seed=seed, progress=progress)
    check_clips([len(video) for video in real], clip_frames, clip_stride)
    real_clips = [clips(video, clip_frames, clip_stride) for video in real]
    fake_clips = [clips(video, clip_frames, clip_stride) for video in generated]
    network = clip_features or default_clip_features()
    base = replace(scores["psnr"].passport, frames=clip_frames, stride=clip_stride or clip_frames)
    return scores | _clip_scores(real_clips, fake_clips, network, base, progress or quiet)


def score_frames(
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    *,
    lpips_net: Net = "alex",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """`psnr`, `ssim`, `lpips` of `score_next_chunk`, whose arguments these are, without its clips.

    Raises:
        ValueError: lists or videos that do not fit, values outside [0, 1].
        WeightsMissing: the network is not installed.
    """
    check_lists(real, generated, "real videos", "generated videos")
    for i, (a, b) in enumerate(zip(real, generated, strict=True)):
        _checked(i, a, b)
    base = Passport(
        "",
        "next_chunk",
        len(real),
        seed=seed,
        context="true frames before each chunk, not scored",
        reference_sha256=videos_hash(real),
    )
    return _frame_scores(real, generated, base, lpips_net, progress or quiet)


def too_few_clips(lengths: Sequence[int], needed: int = 2, clip_frames: int = 16) -> str:
    """Why videos of these lengths are too few for FVD; "" where they are enough.

    Args:
        lengths: frames of each video; one that is shorter than a clip makes none.
        needed: least number of clips of all videos together.
        clip_frames: frames in a clip; clips lie side by side.
    """
    num = sum(length // clip_frames for length in lengths)
    if num >= needed:
        return ""
    return f"{num} clips of {clip_frames} frames, FVD needs at least {needed}"


def check_clips(
    lengths: Sequence[int], clip_frames: int = 16, clip_stride: int | None = None
) -> None:
    """Check that videos make enough clips for FVD; their lengths are known before they are made.

    Args:
        lengths: frames that will be generated, of each episode.
        clip_frames: frames in a clip.
        clip_stride: frames between the starts of clips; None: side by side.

    Raises:
        ValueError: a video is shorter than a clip, or all together make fewer than 2 clips.
    """
    num = sum(num_clips(length, clip_frames, clip_stride) for length in lengths)
    if num < 2:
        raise ValueError(
            f"{num} clips of {clip_frames} frames; FVD needs at least 2: give more or "
            "longer videos, or set a smaller clip_frames or clip_stride"
        )


def _checked(episode: int, a: Tensor, b: Tensor) -> None:
    try:
        check_pair(a, b)
    except ValueError as error:
        raise ValueError(f"episode {episode}: {error}") from None


def _frame_scores(
    real: Sequence[Tensor], generated: Sequence[Tensor], base: Passport, net: Net, tell: Progress
) -> dict[str, MetricValue]:
    measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "psnr": psnr,
        "ssim": ssim,
        "lpips": functools.partial(lpips, net=net),
    }
    values = {}
    for name, measure in measures.items():

        def score(i: int, measure: Callable[[Tensor, Tensor], Tensor] = measure) -> float:
            return mean(measure(real[i][None], generated[i][None]))

        passport = replace(lpips_passport(base, net) if name == "lpips" else base, metric=name)
        values[name] = mean_value(for_each(name, tell, len(real), score), passport)
    return values


def _features(what: str, parts: Sequence[Tensor], net: ClipFeatures, tell: Progress) -> Tensor:
    found: list[Tensor] = []
    for i, part in enumerate(parts):
        tell(what, i, len(parts))
        found.append(net(part))
    tell(what, len(parts), len(parts))
    return torch.cat(found)


def _clip_scores(
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    network: ClipFeatures,
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    groups = [i for i, part in enumerate(real) for _ in part]
    a = _features("fvd, true clips", real, network, tell)
    b = _features("fvd, generated clips", generated, network, tell)
    passport = replace(
        base,
        count=len(groups),
        unit="clips",
        network=network.name,
        network_sha256=network.sha256,
        resize=network.resize,
        interval=_CLIP_INTERVAL,
    )
    frechet = replace(passport, metric="fvd", covariance_divisor="N-1", count_matters=True)
    values = {}
    for distance, papers in (
        (frechet_distance, frechet),
        (kernel_distance, replace(passport, metric="kvd", settings="(x.y/d + 1)^3, unbiased")),
    ):
        low, high = clip_interval(distance, a, b, groups, base.seed)
        values[papers.metric] = MetricValue(float(distance(a, b)), low, high, papers)
    return values | _floor_scores(a, b, groups, frechet)


def _floor_scores(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"], groups: list[int], passport: Passport
) -> dict[str, MetricValue]:
    names = ("fvd_floor", "fvd_unpaired")
    try:
        floor = fvd_floor(real, stream(passport.seed, "fvd-floor"), fake, groups)
    except ValueError as reason:
        unknown = replace(passport, count=0, settings=f"not measured: {reason}")
        nan = float("nan")
        return {name: MetricValue(nan, None, None, replace(unknown, metric=name)) for name in names}
    halves = replace(
        passport, count=floor.count, settings="mean of 20 random splits", interval=_FLOOR_INTERVAL
    )
    assert floor.unpaired is not None
    return {
        names[0]: MetricValue(floor.value, floor.low, floor.high, replace(halves, metric=names[0])),
        names[1]: MetricValue(
            floor.unpaired, None, None, replace(halves, metric=names[1], interval="none")
        ),
    }
