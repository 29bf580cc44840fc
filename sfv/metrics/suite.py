"""Everything the report shows: a call for next chunks, one for long videos, and more for what costs more.

Videos are lists of `t 3 height width` tensors, one an episode, uint8 or float in [0, 1]; lengths may
differ. Nothing is read from disk, and equal input gives equal output.
"""

from sfv.metrics.suite_actions import score_actions, score_swaps
from sfv.metrics.suite_common import Progress, videos_hash
from sfv.metrics.suite_curves import score_curves
from sfv.metrics.suite_cuts import score_transnet
from sfv.metrics.suite_long import default_frame_features, score_long, score_return, score_true
from sfv.metrics.suite_next_chunk import (
    check_clips,
    default_clip_features,
    score_frames,
    score_next_chunk,
    too_few_clips,
)

__all__ = [
    "Progress",
    "check_clips",
    "default_clip_features",
    "default_frame_features",
    "score_actions",
    "score_curves",
    "score_frames",
    "score_long",
    "score_next_chunk",
    "score_return",
    "score_swaps",
    "score_transnet",
    "score_true",
    "too_few_clips",
    "videos_hash",
]
