"""Everything the report shows, in two calls: one for next chunks, one for long videos.

Videos are lists of `t 3 height width` tensors, one an episode, uint8 or float in [0, 1]; lengths may
differ. Nothing is read from disk, and equal input gives equal output.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfv.metrics.features import ClipFeatures, I3DFeatures
from sfv.metrics.frame import lpips, psnr, ssim
from sfv.metrics.fvd import clip_interval, frechet_distance, fvd_floor, kernel_distance
from sfv.metrics.lpips import WEIGHTS, Net
from sfv.metrics.motion import border_jump, motion
from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.scene_cuts import MIN_SCENE_FRAMES, scene_cuts
from sfv.metrics.scene_revisit import (
    AlexNetFeatures,
    FrameFeatures,
    Visits,
    exchanged,
    revisit_lpips,
    revisit_psnr,
    video_revisit_similarity,
)
from sfv.metrics.video import check_pair, check_video, clips
from sfv.rng import stream

Progress = Callable[[str, int, int], None]
"""Called with (what is measured, episodes done, episodes in all)."""

_CLIP_INTERVAL = "bootstrap over episodes, pairs kept, 95 %, centred on the value"
_FLOOR_INTERVAL = "smallest and largest of the splits"


def _quiet(what: str, done: int, total: int) -> None:
    del what, done, total


@functools.lru_cache(maxsize=1)
def default_clip_features() -> I3DFeatures:
    """The exact I3D, loaded once; it remembers the clips it has seen."""
    return I3DFeatures()


@functools.lru_cache(maxsize=1)
def default_frame_features() -> AlexNetFeatures:
    """The offline frame features of SRC, loaded once."""
    return AlexNetFeatures()


def videos_hash(videos: Sequence[Tensor]) -> str:
    """Short hash of the pixels, rounded to 8 bits."""
    digest = hashlib.sha256()
    for video in videos:
        frames = (check_video(video) * 255).round().to(torch.uint8).cpu().contiguous()
        digest.update(repr(tuple(frames.shape)).encode())
        digest.update(frames.numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_lists(a: Sequence[object], b: Sequence[object], name_a: str, name_b: str) -> None:
    if not a or len(a) != len(b):
        raise ValueError(
            f"{len(a)} {name_a} and {len(b)} {name_b}; give one of each for every episode, "
            "at least one episode"
        )


def _for_each(
    what: str, progress: Progress, num: int, score: Callable[[int], float]
) -> list[float]:
    values = []
    for i in range(num):
        progress(what, i, num)
        values.append(score(i))
    progress(what, num, num)
    return values


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


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
        seed: of intervals and splits.
        progress: told what is measured.

    Raises:
        ValueError: lists or videos that do not fit, values outside [0, 1], fewer than 2 clips.
        WeightsMissing: the networks are not installed.
    """
    _check_lists(real, generated, "real videos", "generated videos")
    tell = progress or _quiet
    for i, (a, b) in enumerate(zip(real, generated, strict=True)):
        _checked(i, a, b)
    base = Passport("", "next_chunk", len(real), seed=seed, reference_sha256=videos_hash(real))
    scores = _frame_scores(real, generated, base, lpips_net, tell)
    return scores | _clip_scores(
        [clips(video, clip_frames, clip_stride) for video in real],
        [clips(video, clip_frames, clip_stride) for video in generated],
        clip_features or default_clip_features(),
        replace(base, frames=clip_frames, stride=clip_stride or clip_frames),
        tell,
    )


def _checked(episode: int, a: Tensor, b: Tensor) -> None:
    try:
        check_pair(a, b)
    except ValueError as error:
        raise ValueError(f"episode {episode}: {error}") from None


def _lpips_passport(base: Passport, net: Net) -> Passport:
    return replace(base, network=WEIGHTS[net].name, network_sha256=WEIGHTS[net].sha256)


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
            return _mean(measure(real[i][None], generated[i][None]))

        passport = replace(_lpips_passport(base, net) if name == "lpips" else base, metric=name)
        values[name] = mean_value(_for_each(name, tell, len(real), score), passport)
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
    if len(groups) < 2:
        raise ValueError(
            f"{len(groups)} clips of {base.frames} frames; FVD needs at least 2: give more or "
            "longer videos, or set a smaller clip_frames or clip_stride"
        )
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


def score_long(
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    *,
    chunk_frames: int,
    fps: int | float,
    reference: Sequence[Tensor] | None = None,
    frame_features: FrameFeatures | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """Consistency of long videos.

    Of the video alone: `scuts`, `motion`, `border_jump`, and between the first and later visits of
    a place `src`, `revisit_psnr`, `revisit_lpips`, with `src_floor` (visits exchanged). With
    the true videos also `NAME_ceiling` for all of these (what the true video scores), and
    `return_psnr`, `return_lpips`: revisiting frames against the true frames of the same moment.

    Args:
        videos: one long video an episode.
        revisits: for each episode, pairs [first_frame, later_frame] of equal pose; an episode
            without pairs does not count in the scores that need them.
        chunk_frames: frames in a chunk, for the jumps at borders.
        fps: frames a second.
        reference: the true videos of the same episodes, at least as long; None: not known.
        frame_features: network of SRC; None: AlexNet, not the paper's ResNet-18.
        seed: of intervals and of the exchanged visits.
        progress: told what is measured.

    Raises:
        ValueError: lists, videos or revisits that do not fit.
        WeightsMissing: the networks are not installed.
    """
    _check_lists(videos, revisits, "videos", "lists of revisits")
    features = frame_features or default_frame_features()
    tell = progress or _quiet
    base = Passport("", "long", len(videos), seed=seed)
    floor = [exchanged(p, stream(seed, "src-floor", i)) for i, p in enumerate(revisits)]
    if reference is None:
        scores = _long_scores(videos, revisits, chunk_frames, fps, features, base, tell)
        return scores | _src("src_floor", videos, floor, features, base, tell)
    _check_lists(videos, reference, "videos", "reference videos")
    true = [_cut(i, a, b) for i, (a, b) in enumerate(zip(videos, reference, strict=True))]
    base = replace(base, reference_sha256=videos_hash(true))
    scores = _long_scores(videos, revisits, chunk_frames, fps, features, base, tell)
    ceiling = _long_scores(true, revisits, chunk_frames, fps, features, base, tell)
    for name, value in ceiling.items():
        passport = replace(value.passport, metric=f"{name}_ceiling")
        scores[f"{name}_ceiling"] = replace(value, passport=passport)
    scores |= _src("src_floor", videos, floor, features, base, tell)
    return scores | _return_scores(videos, true, revisits, replace(base, protocol="return"), tell)


def _cut(episode: int, video: Tensor, true: Tensor) -> Tensor:
    if video.dim() != 4 or true.shape[1:] != video.shape[1:] or len(true) < len(video):
        raise ValueError(
            f"episode {episode}: video of shape {tuple(video.shape)}, reference "
            f"{tuple(true.shape)}; the reference must have equal frames and at least as many"
        )
    return true[: len(video)]


def _src(
    name: str,
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    features: FrameFeatures,
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    def score(i: int) -> float:
        if not revisits[i]:
            return float("nan")
        return _mean(video_revisit_similarity(videos[i], revisits[i], features))

    passport = replace(
        base,
        metric=name,
        network=features.name,
        network_sha256=features.sha256,
        resize=features.resize,
        settings="100 x cosine; first visit against each later visit",
    )
    return {name: mean_value(_for_each(name, tell, len(videos), score), passport)}


def _long_scores(
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    chunk_frames: int,
    fps: int | float,
    features: FrameFeatures,
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    detector = f"AdaptiveDetector defaults, min_scene_len {MIN_SCENE_FRAMES} frames, {fps:g} fps"
    measures: list[tuple[Callable[[int], float], Passport]] = [
        (
            lambda i: float(len(scene_cuts(videos[i], fps))),
            replace(base, metric="scuts", network="PySceneDetect", settings=detector),
        ),
        (
            lambda i: motion(videos[i]),
            replace(base, metric="motion", settings="mean |frame difference| x 255"),
        ),
        (
            lambda i: border_jump(videos[i], chunk_frames),
            replace(base, metric="border_jump", settings=f"chunks of {chunk_frames} frames"),
        ),
        (
            lambda i: _mean(revisit_psnr(videos[i], revisits[i])) if revisits[i] else float("nan"),
            replace(base, metric="revisit_psnr"),
        ),
        (
            lambda i: _mean(revisit_lpips(videos[i], revisits[i])) if revisits[i] else float("nan"),
            replace(_lpips_passport(base, "alex"), metric="revisit_lpips"),
        ),
    ]
    scores = {}
    for score, passport in measures:
        values = _for_each(passport.metric, tell, len(videos), score)
        scores[passport.metric] = mean_value(values, passport)
    return scores | _src("src", videos, revisits, features, base, tell)


def _return_scores(
    videos: Sequence[Tensor],
    true: Sequence[Tensor],
    revisits: Sequence[Visits],
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    def score(i: int, measure: Callable[[Tensor, Tensor], Tensor]) -> float:
        later = sorted({pair[1] for pair in revisits[i]})
        if not later:
            return float("nan")
        return _mean(measure(true[i][later][None], videos[i][later][None]))

    scores = {}
    for name, measure, passport in (
        ("return_psnr", psnr, base),
        ("return_lpips", lpips, _lpips_passport(base, "alex")),
    ):
        values = _for_each(name, tell, len(videos), functools.partial(score, measure=measure))
        scores[name] = mean_value(values, replace(passport, metric=name))
    return scores
