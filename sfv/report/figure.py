"""A still picture of videos: one row a video, one column a moment."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from sfv.report.draw import font_of

PAPER, INK, SOFT = (255, 255, 255), (27, 29, 34), (101, 106, 115)
GAP, MARGIN = 4, 14  # pixels between frames; around the picture
ROW_FONT, COLUMN_FONT = 15, 13  # pixels


def filmstrip(
    videos: Mapping[str, UInt8[np.ndarray, "_ height width 3"]],
    frame_indices: Sequence[int],
    scale: int = 2,
    column_labels: Sequence[str] | None = None,
) -> bytes:
    """Draw the chosen frames of each video in a row behind its label; returns a PNG.

    Args:
        videos: label to frames, all of one height and width, top row first.
        frame_indices: which frames, left to right; each video must have them.
        scale: each pixel becomes a square of this many pixels a side.
        column_labels: text above each column; None writes the frame's number.

    Raises:
        ValueError: no video or frame is chosen, sizes differ, or a frame does not exist.
    """
    _check(videos, frame_indices, column_labels)
    labels = column_labels or [f"frame {index}" for index in frame_indices]
    first = next(iter(videos.values()))
    height, width = (side * scale for side in first.shape[1:3])
    row_font, column_font = font_of(ROW_FONT), font_of(COLUMN_FONT)
    left = MARGIN + round(max(row_font.getlength(label) for label in videos)) + 12
    top = MARGIN + COLUMN_FONT + 8
    size = (
        left + len(frame_indices) * (width + GAP) - GAP + MARGIN,
        top + len(videos) * (height + GAP) - GAP + MARGIN,
    )
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    xs = [left + column * (width + GAP) for column in range(len(frame_indices))]
    for x, text in zip(xs, labels, strict=True):
        pen.text((x + width / 2, top - 6), text, fill=SOFT, font=column_font, anchor="ms")
    for row, (label, frames) in enumerate(videos.items()):
        y = top + row * (height + GAP)
        pen.text((left - 12, y + height / 2), label, fill=INK, font=row_font, anchor="rm")
        for x, index in zip(xs, frame_indices, strict=True):
            still = Image.fromarray(frames[index])
            picture.paste(still.resize((width, height), Image.Resampling.NEAREST), (x, y))
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _check(
    videos: Mapping[str, np.ndarray],
    frame_indices: Sequence[int],
    column_labels: Sequence[str] | None,
) -> None:
    if not videos or not frame_indices:
        raise ValueError("a filmstrip needs at least one video and one frame index.")
    if column_labels is not None and len(column_labels) != len(frame_indices):
        raise ValueError(
            f"{len(column_labels)} column labels for {len(frame_indices)} frames: give one each."
        )
    sizes = {label: frames.shape[1:3] for label, frames in videos.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"videos must have one height and width, got {sizes}: resize first.")
    for label, frames in videos.items():
        outside = [index for index in frame_indices if not 0 <= index < len(frames)]
        if outside:
            raise ValueError(
                f"video {label!r} has frames 0..{len(frames) - 1}; {outside} are not among them."
            )
