"""From annotated spans of time to episodes of whole chunks; pure functions.

The rules, one after the other:

1. At each moment the action that started last, of those that run, is the one done. So an action
   that starts inside another interrupts it; when it ends, the first goes on if it still runs.
2. Time without an action splits the recording, or is filled with one text if asked for.
3. Each stretch without gaps is cut into chunks of equal length from its first frame on. A chunk gets
   the action that covers most of its frames; of two that cover as much, the later one.
4. What is left after the last whole chunk, and stretches with too few chunks, are left out.

Everything that is left out is counted.
"""

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.convert.recording import Details, Samples, Span
from sfv.data.schema import Action

EPSILON = 1e-3
"""Seconds; below one frame at any rate in use, above the rounding of float32 time stamps."""
GAP = -1

NO_LENGTH = "actions without a length or a text"
BEYOND = "actions beyond the video's end"
CUT = "actions cut at the video's end"
HIDDEN = "actions that are no chunk's longest"
NO_ACTION = "frames without an action"
REST = "frames after a stretch's last whole chunk"
SHORT = "frames of stretches with too few chunks"


@dataclass(frozen=True)
class Layout:
    """How time is cut.

    Args:
        fps: frames a second of the episodes.
        chunk_frames: frames of a chunk.
        min_chunks: chunks that an episode has at least; a chunk needs one before it to be trained on.
        max_chunks: chunks after which a new episode starts; 0 is no limit.
        filler: text for time without an action; None splits there.
    """

    fps: int
    chunk_frames: int
    min_chunks: int = 2
    max_chunks: int = 0
    filler: str | None = None


@dataclass(frozen=True)
class Stretch:
    """One episode to be.

    Args:
        first: its first frame, counted from the recording's start at the layout's fps.
        actions: chunks, frames counted from `first`.
    """

    first: int
    actions: tuple[Action, ...]

    @property
    def num_frames(self) -> int:
        return self.actions[-1].stop


def first_frame(seconds: float, fps: float) -> int:
    """The first frame at or after a moment."""
    return math.ceil((seconds - EPSILON) * fps)


def lay_out(
    details: Details, duration: float, layout: Layout
) -> tuple[list[Stretch], Counter[str]]:
    """Cut a recording into episodes.

    Args:
        details: the annotations.
        duration: seconds of video.
        layout: how to cut.

    Returns:
        the episodes, and how much was left out by reason.
    """
    left_out: Counter[str] = Counter(dict(details.left_out))
    num_frames = max(0, first_frame(duration, layout.fps))
    spans = _usable(details.spans, duration, left_out)
    labels = _paint(spans, num_frames, layout.fps)
    if layout.filler is not None:
        labels[labels == GAP] = len(spans)
        spans.append(Span(layout.filler, 0.0, duration))
    left_out[NO_ACTION] += int((labels == GAP).sum())
    stretches, used = [], set()
    for first, stop in _runs(labels):
        chunks = (stop - first) // layout.chunk_frames
        left_out[REST] += (stop - first) % layout.chunk_frames
        for start, count in _episodes(chunks, layout):
            if count < layout.min_chunks:
                left_out[SHORT] += count * layout.chunk_frames
                continue
            begin = first + start * layout.chunk_frames
            picked = _longest(labels[begin : begin + count * layout.chunk_frames], layout)
            used.update(picked)
            stretches.append(Stretch(begin, _actions(picked, spans, details, begin, layout)))
    num_texts = len(spans) - (layout.filler is not None)
    left_out[HIDDEN] += num_texts - len(used & set(range(num_texts)))
    return stretches, +left_out


def _usable(spans: tuple[Span, ...], duration: float, left_out: Counter[str]) -> list[Span]:
    """Spans that show in the video, in the order of their starts."""
    kept = []
    for span in sorted(spans, key=lambda span: span.start):
        if span.stop <= max(span.start, 0.0) or not span.text.strip():
            left_out[NO_LENGTH] += 1
        elif span.start >= duration - EPSILON:
            left_out[BEYOND] += 1
        else:
            left_out[CUT] += span.stop > duration + EPSILON
            kept.append(span)
    return kept


def _paint(spans: list[Span], num_frames: int, fps: int) -> NDArray[np.int64]:
    """For each frame the number of its span."""
    labels = np.full(num_frames, GAP, dtype=np.int64)
    for index, span in enumerate(spans):
        labels[max(0, first_frame(span.start, fps)) : max(0, first_frame(span.stop, fps))] = index
    return labels


def _runs(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, stop) of each run of frames that have an action."""
    covered = np.concatenate([[False], labels != GAP, [False]])
    edges = np.flatnonzero(covered[1:] != covered[:-1])
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def _episodes(chunks: int, layout: Layout) -> list[tuple[int, int]]:
    """(first chunk, number of chunks) of each episode in a run."""
    step = layout.max_chunks or max(chunks, 1)
    return [(start, min(step, chunks - start)) for start in range(0, chunks, step)]


def _longest(labels: NDArray[np.int64], layout: Layout) -> list[int]:
    """For each chunk the span with most frames in it; of equals the later one."""
    picked = []
    for chunk in labels.reshape(-1, layout.chunk_frames):
        numbers, counts = np.unique(chunk, return_counts=True)
        picked.append(int(numbers[counts == counts.max()][-1]))
    return picked


def _actions(
    picked: list[int], spans: list[Span], details: Details, begin: int, layout: Layout
) -> tuple[Action, ...]:
    actions = []
    for index, label in enumerate(picked):
        start, stop = index * layout.chunk_frames, (index + 1) * layout.chunk_frames
        raw = {} if spans[label].raw is None else {"annotation": spans[label].raw}
        if details.samples:
            raw["samples"] = {
                samples.name: within(samples, begin + start, begin + stop, layout.fps)
                for samples in details.samples
            }
        actions.append(Action(" ".join(spans[label].text.split()), start, stop, raw or None))
    return tuple(actions)


def within(samples: Samples, first: int, stop: int, fps: float) -> list[Any]:
    """Records that lead to the frames first <= frame < stop.

    A frame shows the world after the action that covers it, so its records were made from the
    frame before it on.
    """
    begin = bisect_left(samples.times, (first - 1) / fps - EPSILON)
    end = bisect_left(samples.times, (stop - 1) / fps - EPSILON)
    return list(samples.values[begin:end])
