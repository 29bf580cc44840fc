"""Encode frames to mp4 (for browsers) and GIF (for TensorBoard), and put videos beside each other.

Frames are `t height width 3`, uint8: what is shown is what was measured, one picture a frame.
"""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8
from torch import Tensor

from sfv.media.rate import exact_rate
from sfv.report.draw import BACKGROUND, MARGIN, font_size, label_strip

GIF_TICK = Fraction(1, 100)  # GIF counts time in hundredths of a second
KEYFRAME_EVERY = 16  # close keyframes make scrubbing quick
BT709 = 1  # ffmpeg's number for the BT.709 colours that browsers assume
LIMITED_RANGE = 1
GAP = 4  # pixels between two panels


def to_frames(video: Float[Tensor, "t 3 height width"]) -> UInt8[np.ndarray, "t height width 3"]:
    """Round one video in [0, 1] to frames of bytes; what lies outside is clamped."""
    pixels = (video.detach().float().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def encode_mp4(
    frames: UInt8[np.ndarray, "t height width 3"],
    fps: float | int,
    *,
    upscale: int = 1,
    crf: int = 18,
) -> bytes:
    """Encode H.264 in yuv420p, which every browser plays; equal input gives equal bytes.

    Args:
        frames: at least one frame.
        fps: frames per second, above 0.
        upscale: each pixel becomes a square of this many pixels a side. From 2 on, colours keep
            their resolution, which yuv420p halves.
        crf: x264's constant rate factor, 0 (lossless in YUV) to 51 (worst).

    Raises:
        ValueError: no frames, or `fps`, `upscale` or `crf` out of range.
    """
    _check(frames, fps)
    if upscale < 1:
        raise ValueError(f"upscale={upscale}: allowed are whole factors from 1 on.")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf={crf}: x264 allows 0 (best) to 51 (worst); 18 looks lossless.")
    frames = _to_even(_enlarge(frames, upscale))
    rate = exact_rate(fps)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "g": str(KEYFRAME_EVERY), "bf": "0"}
        context = stream.codec_context
        context.thread_count = 1  # the bytes depend on it
        context.time_base = 1 / rate
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_gif(frames: UInt8[np.ndarray, "t height width 3"], fps: float | int) -> bytes:
    """Encode a looping GIF with one palette of 256 colours chosen for this video.

    Every frame is kept, also one that equals its predecessor (Pillow merges those). Delays are
    whole hundredths of a second, spread so that the whole has the right length.

    Args:
        frames: at least one frame.
        fps: frames per second, above 0 and at most 50, the fastest that viewers honour.

    Raises:
        ValueError: no frames, or `fps` out of range.
    """
    _check(frames, fps)
    if fps > 50:
        raise ValueError(f"fps={fps}: GIF viewers play at most 50; drop frames or encode an mp4.")
    last_delay = round(1 / (fps * GIF_TICK))
    buffer = io.BytesIO()
    with av.open(
        buffer, "w", format="gif", options={"loop": "0", "final_delay": str(last_delay)}
    ) as container:
        stream = container.add_stream("gif", rate=exact_rate(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = GIF_TICK
        stream.options = {"gifflags": "0"}  # whole frames: every decoder agrees on them
        for picture in _with_palette(frames, fps):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def side_by_side(
    videos: Sequence[UInt8[np.ndarray, "_ height width 3"]],
    labels: Sequence[str],
    *,
    upscale: int = 3,
) -> UInt8[np.ndarray, "_ panel_height panel_width 3"]:
    """Put videos of one size in a row, each under its label, with a thin gap between them.

    A video that is shorter than the longest one holds its last frame, dimmed, with "(ended)" behind
    its label.

    Args:
        videos: one or more videos of equal height and width.
        labels: one a video.
        upscale: whole factor by which each is enlarged; small frames need it for legible labels.

    Raises:
        ValueError: counts differ, sizes differ, or a video has no frames.
    """
    if not videos or len(videos) != len(labels):
        raise ValueError(
            f"{len(videos)} videos and {len(labels)} labels: give one label a video, at least one."
        )
    sizes = {label: video.shape[1:3] for label, video in zip(labels, videos, strict=True)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"videos beside each other must have one height and width, got {sizes}: resize first."
        )
    for label, video in zip(labels, videos, strict=True):
        if len(video) == 0:
            raise ValueError(f"video {label!r} has no frames: give at least one.")
    length = max(len(video) for video in videos)
    width = videos[0].shape[2] * upscale
    captions = {label: (label, f"{label} (ended)") for label in labels}
    size = font_size([text for pair in captions.values() for text in pair], width - MARGIN)
    panels = [
        _panel(
            _enlarge(video, upscale),
            [label_strip(text, width, size) for text in captions[label]],
            length,
        )
        for video, label in zip(videos, labels, strict=True)
    ]
    gap = np.full((length, panels[0].shape[1], GAP, 3), BACKGROUND, dtype=np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    return np.concatenate(row, axis=2)


def _panel(video: np.ndarray, strips: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Put a strip above each frame (running, ended) and hold the last frame up to `length`."""
    num_held = length - len(video)
    held = np.repeat(video[-1:] // 2, num_held, axis=0)
    heads = np.stack([strips[0]] * len(video) + [strips[1]] * num_held)
    return np.concatenate([heads, np.concatenate([video, held])], axis=1)


def _check(frames: np.ndarray, fps: float | int) -> None:
    if len(frames) == 0:
        raise ValueError("a video needs at least one frame, got none.")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps}: frames per second must be above 0 and finite.")


def _enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _to_even(frames: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where a side is odd: yuv420p knows even sides only."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _with_palette(frames: np.ndarray, fps: float | int) -> Iterator[Any]:
    """Yield palette frames: ffmpeg's palettegen over the whole video, then paletteuse.

    Dither is off: it flickers in video and lies further from the true pixels.
    """
    height, width = frames.shape[1:3]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=GIF_TICK)
    split = graph.add("split")
    generate = graph.add("palettegen", "stats_mode=full:reserve_transparent=0")
    use = graph.add("paletteuse", "dither=none")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for index, pixels in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.pts, picture.time_base = round(index / (fps * GIF_TICK)), GIF_TICK
        source.push(picture)
    source.push(None)
    for _ in frames:
        yield graph.pull()
