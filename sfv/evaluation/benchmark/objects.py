"""Scores of a thing that should be where it was: its place, its look, whether it is there at all.

The things are those of the episodes (`EpisodeMeta.objects`); a definition names the measures under
`objects`. Scored are the frames of the way back that show a known place with the thing in view.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from sfv.data.objects import SceneObject
from sfv.evaluation.benchmark.spec import ObjectMeasure
from sfv.evaluation.benchmark.walks import Walk
from sfv.metrics.frame import lpips, psnr
from sfv.metrics.objects import (
    COLOUR_DISTANCE,
    LEAST_CROP,
    LPIPS_SIDE,
    around,
    at_height,
    enlarged,
    locate,
    project,
)
from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.suite_common import lpips_passport

Video = UInt8[Tensor, "t 3 height width"]


@dataclass(frozen=True)
class Sight:
    """One frame of the way back that shows a thing.

    Args:
        walk: the true walk.
        thing: what is shown.
        frame: number of the frame.
        first: of the place's first visit.
        without: a frame with this view and without the thing here; None where there is none.
    """

    walk: Walk
    thing: SceneObject
    frame: int
    first: int
    without: int | None


Measure = Callable[[Sight, UInt8[Tensor, "3 height width"]], float]


def score_objects(
    measures: Sequence[ObjectMeasure],
    walks: Sequence[Walk],
    videos: Sequence[Video],
    base: Passport,
) -> dict[str, MetricValue]:
    """Means over the sights of each walk, then over walks.

    `NAME_ceiling` is what the true first visit scores, `NAME_floor` a true frame without the thing.

    Args:
        measures: which; see `chosen`.
        walks: the truth.
        videos: of the same walks, whole.
        base: passport of the protocol's other scores.
    """
    sights = [sights_of(walk) for walk in walks]
    found = {}
    for name, (measure, passport) in chosen(measures, base).items():
        shown: Mapping[str, Callable[[int, Sight], Tensor | None]] = {
            name: lambda i, sight: videos[i][sight.frame],
            f"{name}_ceiling": lambda _, sight: sight.walk.video[sight.first],
            f"{name}_floor": lambda _, sight: (
                None if sight.without is None else sight.walk.video[sight.without]
            ),
        }
        for title, picture in shown.items():
            values = [
                _mean([(s, picture(i, s)) for s in seen], measure) for i, seen in enumerate(sights)
            ]
            found[title] = mean_value(values, replace(passport, metric=title))
    return found


def sights_of(walk: Walk) -> list[Sight]:
    """Frames of the way back that show a known place, and a thing in it."""
    first = {later: place for place, later in reversed(walk.revisits)}
    return [
        Sight(walk, thing, frame, first[frame], dict(thing.without).get(frame))
        for thing in walk.meta.objects
        for frame in sorted(first)
        if thing.boxes[frame] is not None
    ]


def chosen(
    measures: Sequence[ObjectMeasure], base: Passport
) -> dict[str, tuple[Measure, Passport]]:
    """The functions behind the names of measures, each with its passport."""
    crop = f"a square around the thing, twice its side, at least {LEAST_CROP} pixels"
    blob = f"largest blob within {COLOUR_DISTANCE:g} of the colour; none: the picture's middle"
    resized = replace(
        lpips_passport(base, "alex"), resize=f"bilinear half-pixel to {LPIPS_SIDE}x{LPIPS_SIDE}"
    )
    known: dict[ObjectMeasure, dict[str, tuple[Measure, Passport]]] = {
        "crop": {
            "object_psnr": (crop_psnr, replace(base, settings=crop)),
            "object_lpips": (crop_lpips, replace(resized, settings=crop)),
        },
        "place": {
            "object_pixels": (pixels_off, replace(base, settings=blob)),
            "object_metres": (metres_off, replace(base, settings=f"{blob}; at its true height")),
        },
        "there": {
            "object_there": (
                there,
                replace(
                    base, settings=f"{crop}: % of frames nearer to the true one than to one without"
                ),
            )
        },
    }
    return dict(chain.from_iterable(known[measure].items() for measure in measures))


def crop_psnr(sight: Sight, picture: UInt8[Tensor, "3 height width"]) -> float:
    """PSNR of the thing's part of the picture, dB."""
    true, made = _crop(sight, sight.walk.video[sight.frame]), _crop(sight, picture)
    return float(psnr(true[None, None], made[None, None]))


def crop_lpips(sight: Sight, picture: UInt8[Tensor, "3 height width"]) -> float:
    """LPIPS of the thing's part of the picture."""
    true, made = _crop(sight, sight.walk.video[sight.frame]), _crop(sight, picture)
    return float(lpips(enlarged(true), enlarged(made)))


def pixels_off(sight: Sight, picture: UInt8[Tensor, "3 height width"]) -> float:
    """Distance of the thing, found by its colour, from where it should be, pixels."""
    place, camera = sight.thing.places[sight.frame], sight.walk.meta.camera
    if place is None or camera is None or sight.thing.colour is None:
        return math.nan
    return math.dist(_found(sight, picture), project(np.array(camera, dtype=np.float64), place))


def metres_off(sight: Sight, picture: UInt8[Tensor, "3 height width"]) -> float:
    """The same in the world's units, at the height where the thing should be."""
    place, camera = sight.thing.places[sight.frame], sight.walk.meta.camera
    if place is None or camera is None or sight.thing.colour is None:
        return math.nan
    x, y, height = place
    seen = at_height(np.array(camera, dtype=np.float64), _found(sight, picture), height)
    return math.dist(seen, (x, y))


def there(sight: Sight, picture: UInt8[Tensor, "3 height width"]) -> float:
    """100 where its part of the picture is nearer to the true one than to the same place without it."""
    if sight.without is None:
        return math.nan
    made, true, bare = (
        _crop(sight, shown).float()
        for shown in (picture, sight.walk.video[sight.frame], sight.walk.video[sight.without])
    )
    return 100.0 * float((made - true).square().mean() < (made - bare).square().mean())


def _found(sight: Sight, picture: Tensor) -> tuple[float, float]:
    """Where the thing is seen; who does not see it guesses the picture's middle."""
    assert sight.thing.colour is not None
    middle = (sight.walk.meta.width / 2, sight.walk.meta.height / 2)
    return locate(picture.permute(1, 2, 0).numpy(), sight.thing.colour) or middle


def _crop(sight: Sight, picture: Tensor) -> Tensor:
    box = sight.thing.boxes[sight.frame]
    assert box is not None
    rows, columns = around(box, picture.shape[1], picture.shape[2])
    return picture[:, rows, columns]


def _mean(shown: Sequence[tuple[Sight, Tensor | None]], measure: Measure) -> float:
    values = [measure(sight, picture) for sight, picture in shown if picture is not None]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
