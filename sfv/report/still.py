"""Values that do not count: a video in which less moves than in the true one gets them for nothing."""

from collections.abc import Mapping

MOST_LOST_MOTION = 0.15
"""Share of the true video's motion that may be missing."""

WON_BY_STILLS = (
    "scuts", "scuts_transnet", "src", "revisit_psnr", "revisit_lpips",
    "recall_src", "recall_psnr", "recall_lpips",
)  # fmt: skip
"""Metrics and curves that compare a video with itself: a blur or a still frame is best at all of them."""


def why_not_counted(values: Mapping[str, float | None]) -> str:
    """Why a row's `WON_BY_STILLS` do not count; "" where they do, or where no motion is known.

    Args:
        values: of the row, by metric; `motion` and `motion_ceiling`, the truth's, decide.
    """
    motion, true = values.get("motion"), values.get("motion_ceiling")
    if motion is None or not true or not motion < (1 - MOST_LOST_MOTION) * true:
        return ""
    return (
        f"its motion of {motion:.2f} is {1 - motion / true:.0%} below the true video's {true:.2f}"
    )
