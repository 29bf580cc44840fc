"""A decoded frame as it is to be seen: upright, with square pixels, in 8 bits of RGB."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

Rgb = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Frame:
    """One frame, decoded; its RGB is made on demand.

    Args:
        number: counted from where reading began.
        time: seconds since the video's first frame.
        stop: seconds until which it is shown.
        raw: as stored; neither turned nor stretched.
        aspect: width of a pixel over its height.
    """

    number: int
    time: float
    stop: float
    raw: av.VideoFrame
    aspect: Fraction = Fraction(1)

    def rgb(self) -> Rgb:
        """The frame as it is to be seen. Transparent pixels show black."""
        width, height = shown_size(self.raw.width, self.raw.height, self.aspect)
        frame = self.raw
        if (width, height) != (frame.width, frame.height):
            frame = frame.reformat(width=width, height=height, interpolation="BICUBIC")
        return _upright(_rgb(frame), *_turn(self.raw))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of `rgb`."""
        width, height = shown_size(self.raw.width, self.raw.height, self.aspect)
        return (width, height) if _turn(self.raw)[0] else (height, width)


def shown_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height with square pixels: the side that is too short grows."""
    if aspect > 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def aspect_of(stream: av.VideoStream) -> Fraction:
    """Width over height of a pixel; within a hundredth of a square it is rounding, and left."""
    ratio = stream.sample_aspect_ratio
    return ratio if ratio and abs(ratio - 1) >= Fraction(1, 100) else Fraction(1)


def _rgb(frame: av.VideoFrame) -> Rgb:
    if any(part.is_alpha for part in frame.format.components):
        rgba = np.asarray(frame.to_ndarray(format="rgba")).astype(np.uint16)
        return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    # Planar RGB, as our own videos are stored, is read without the slow general converter.
    layout = None if frame.format.name == "gbrp" else "rgb24"
    return np.asarray(frame.to_ndarray(format=layout))


def _turn(raw: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to swap rows and columns, then to mirror from left to right, then from top to bottom."""
    try:
        noted = raw.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV has no name for a kind of side data beside it
        noted = None
        quarter = round(raw.rotation / 90) % 4
        return quarter % 2 == 1, quarter in (2, 3), quarter in (1, 2)
    if noted is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(noted), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _upright(
    picture: Rgb, swaps: bool, mirrors: bool, flips: bool
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Turn a picture as the camera was held (telephones note it, rather than turn)."""
    if swaps:
        picture = picture.swapaxes(0, 1)
    if mirrors:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture[::-1] if flips else picture)
