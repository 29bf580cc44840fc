"""The second opinion on scene cuts: TransNetV2."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.suite_common import Progress, check_lists, for_each, quiet, videos_hash
from sfv.metrics.suite_long import FIRST_CHUNK
from sfv.metrics.transnet import RESIZE, THRESHOLD, TransNetV2, scene_cuts_transnet
from sfv.metrics.weights import TRANSNET_V2


def score_transnet(
    videos: Sequence[Tensor],
    *,
    reference: Sequence[Tensor] | None = None,
    network: TransNetV2 | None = None,
    context: str = FIRST_CHUNK,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MetricValue]:
    """`scuts_transnet`, the cuts that TransNetV2 finds, and its ceiling where the truth is known.

    Args:
        videos: one long video an episode.
        reference: the true videos, at least as long.
        network: None takes the installed weights.
        context: which frames of the videos are true, for the passports.
        seed: for the passports.
        progress: told what is measured.

    Raises:
        ValueError: lists that do not fit.
        WeightsMissing: the weights are not installed.
    """
    rows = {"scuts_transnet": list(videos)}
    passport = Passport(
        "",
        "long",
        len(videos),
        seed=seed,
        context=context,
        network=TRANSNET_V2.name,
        network_sha256=TRANSNET_V2.sha256,
        resize=RESIZE,
        settings=f"threshold {THRESHOLD}, windows of 100 frames",
    )
    if reference is not None:
        check_lists(videos, reference, "videos", "reference videos")
        true = [b[: len(a)] for a, b in zip(videos, reference, strict=True)]
        rows["scuts_transnet_ceiling"] = true
        passport = replace(passport, reference_sha256=videos_hash(true))
    found = {}
    for name, shown in rows.items():

        def score(i: int, shown: Sequence[Tensor] = shown) -> float:
            return float(len(scene_cuts_transnet(shown[i], network=network)))

        values = for_each(name, progress or quiet, len(shown), score)
        found[name] = mean_value(values, replace(passport, metric=name))
    return found
