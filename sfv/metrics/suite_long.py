"""Scores of long videos: cuts, motion, and places that are seen again."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sfv.metrics.frame import lpips, psnr
from sfv.metrics.motion import border_jump, motion
from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.scene_cuts import MIN_SCENE_FRAMES, scene_cuts
from sfv.metrics.scene_revisit import (
    AlexNetFeatures,
    FrameFeatures,
    Visits,
    check_visits,
    exchanged,
    revisit_lpips,
    revisit_psnr,
    video_revisit_similarity,
)
from sfv.metrics.suite_common import (
    Progress,
    check_lists,
    for_each,
    lpips_passport,
    mean,
    quiet,
    videos_hash,
)
from sfv.metrics.video import check_video
from sfv.rng import stream

FIRST_CHUNK = "the first chunk is true, scored with the rest"
WAY_OUT = "the way out is true; scored are frames of the way back"


@functools.lru_cache(maxsize=1)
def default_frame_features() -> AlexNetFeatures:
    """The offline frame features of SRC, loaded once."""
    return AlexNetFeatures()


def score_long(
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    *,
    chunk_frames: int,
    fps: int | float,
    reference: Sequence[Tensor] | None = None,
    frame_features: FrameFeatures | None = None,
    context: str = FIRST_CHUNK,
    seed: int = 0,
    progress: Progress | None = None,
    ceilings: Mapping[str, MetricValue] | None = None,
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
        context: which frames of the videos are true, for the passports.
        seed: of the exchanged visits.
        progress: told what is measured.
        ceilings: what `score_true` gave for this reference, so that many rows measure it once.

    Raises:
        ValueError: lists, videos or revisits that do not fit, or ceilings of other videos.
        WeightsMissing: the networks are not installed.
    """
    check_lists(videos, revisits, "videos", "lists of revisits")
    for i, (video, pairs) in enumerate(zip(videos, revisits, strict=True)):
        _checked(i, video, pairs, chunk_frames)
    features = frame_features or default_frame_features()
    tell = progress or quiet
    base = Passport("", "long", len(videos), seed=seed, context=context)
    floor = [exchanged(p, stream(seed, "src-floor", i)) for i, p in enumerate(revisits)]
    if reference is None:
        scores = _long_scores(videos, revisits, chunk_frames, fps, features, base, tell)
        return scores | _src("src_floor", videos, revisits, floor, features, base, tell)
    check_lists(videos, reference, "videos", "reference videos")
    true = [_cut(i, a, b) for i, (a, b) in enumerate(zip(videos, reference, strict=True))]
    base = replace(base, reference_sha256=videos_hash(true))
    scores = _long_scores(videos, revisits, chunk_frames, fps, features, base, tell)
    if ceilings is None:
        scores |= _ceilings(true, revisits, chunk_frames, fps, features, base, tell)
    else:
        scores |= _of_these(ceilings, base.reference_sha256)
    scores |= _src("src_floor", videos, revisits, floor, features, base, tell)
    return scores | _return_scores(videos, true, revisits, replace(base, protocol="return"), tell)


def score_true(
    reference: Sequence[Tensor],
    revisits: Sequence[Visits],
    *,
    chunk_frames: int,
    fps: int | float,
    frame_features: FrameFeatures | None = None,
    context: str = FIRST_CHUNK,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """What the true videos score: every `NAME_ceiling` of `score_long`, whose arguments these are.

    Raises:
        ValueError: lists, videos or revisits that do not fit.
        WeightsMissing: the networks are not installed.
    """
    check_lists(reference, revisits, "reference videos", "lists of revisits")
    for i, (video, pairs) in enumerate(zip(reference, revisits, strict=True)):
        _checked(i, video, pairs, chunk_frames)
    base = Passport("", "long", len(reference), seed=seed, context=context)
    base = replace(base, reference_sha256=videos_hash(reference))
    features = frame_features or default_frame_features()
    return _ceilings(reference, revisits, chunk_frames, fps, features, base, progress or quiet)


def score_return(
    videos: Sequence[Tensor],
    revisits: Sequence[Visits],
    reference: Sequence[Tensor],
    *,
    frame_features: FrameFeatures | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """The way back after the true way out, in `videos` whose first frames are the true ones.

    `return_psnr`, `return_lpips`: revisiting frames against the true frames of the same moment.
    `return_src`: against the first visits. The arguments are those of `score_long`.

    Raises:
        ValueError: lists, videos or revisits that do not fit.
        WeightsMissing: the networks are not installed.
    """
    check_lists(videos, revisits, "videos", "lists of revisits")
    check_lists(videos, reference, "videos", "reference videos")
    for i, (video, pairs) in enumerate(zip(videos, revisits, strict=True)):
        _checked(i, video, pairs)
    true = [_cut(i, a, b) for i, (a, b) in enumerate(zip(videos, reference, strict=True))]
    sha256, tell = videos_hash(true), progress or quiet
    base = Passport("", "return", len(videos), reference_sha256=sha256, seed=seed, context=WAY_OUT)
    features = frame_features or default_frame_features()
    scores = _src("return_src", videos, revisits, revisits, features, base, tell)
    return _return_scores(videos, true, revisits, base, tell) | scores


def _ceilings(
    true: Sequence[Tensor],
    revisits: Sequence[Visits],
    chunk_frames: int,
    fps: int | float,
    features: FrameFeatures,
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    scores = _long_scores(true, revisits, chunk_frames, fps, features, base, tell)
    return {
        f"{name}_ceiling": replace(
            value, passport=replace(value.passport, metric=f"{name}_ceiling")
        )
        for name, value in scores.items()
    }


def _of_these(ceilings: Mapping[str, MetricValue], sha256: str) -> Mapping[str, MetricValue]:
    for name, value in ceilings.items():
        if value.passport.reference_sha256 != sha256:
            raise ValueError(
                f"{name} is of the true videos {value.passport.reference_sha256}, these are {sha256}: "
                "give what score_true makes of the reference"
            )
    return ceilings


def _checked(episode: int, video: Tensor, pairs: Visits, chunk_frames: int | None = None) -> None:
    try:
        check_video(video)
        if pairs:
            check_visits(pairs, len(video))
        if chunk_frames is not None:
            border_jump(video, chunk_frames)
    except ValueError as error:
        raise ValueError(f"episode {episode}: {error}") from None


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
    compared: Sequence[Visits],
    features: FrameFeatures,
    base: Passport,
    tell: Progress,
) -> dict[str, MetricValue]:
    def score(i: int) -> float:
        if not compared[i]:
            return float("nan")
        return mean(video_revisit_similarity(videos[i], revisits[i], features, compared[i]))

    passport = replace(
        base,
        metric=name,
        network=features.name,
        network_sha256=features.sha256,
        resize=features.resize,
        settings="100 x cosine; first visit against each later visit",
    )
    return {name: mean_value(for_each(name, tell, len(videos), score), passport)}


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
            lambda i: mean(revisit_psnr(videos[i], revisits[i])) if revisits[i] else float("nan"),
            replace(base, metric="revisit_psnr"),
        ),
        (
            lambda i: mean(revisit_lpips(videos[i], revisits[i])) if revisits[i] else float("nan"),
            replace(lpips_passport(base, "alex"), metric="revisit_lpips"),
        ),
    ]
    scores = {}
    for score, passport in measures:
        values = for_each(passport.metric, tell, len(videos), score)
        scores[passport.metric] = mean_value(values, passport)
    return scores | _src("src", videos, revisits, revisits, features, base, tell)


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
        return mean(measure(true[i][later][None], videos[i][later][None]))

    scores = {}
    for name, measure, passport in (
        ("return_psnr", psnr, base),
        ("return_lpips", lpips, lpips_passport(base, "alex")),
    ):
        values = for_each(name, tell, len(videos), functools.partial(score, measure=measure))
        scores[name] = mean_value(values, replace(passport, metric=name))
    return scores
