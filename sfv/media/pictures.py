"""Picture files and animations as RGB, by Pillow: upright, composed, in 8 bits. For `sfv.media` alone."""

import io
import warnings
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfv.media.limits import TOO_LARGE, Limit, MediaError

Rgb = UInt8[np.ndarray, "height width 3"]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by the orientation that EXIF notes."""
_STARTS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP"}
_ANIMATED = ("GIF", "PNG", "WEBP")
_SHORT, _USUAL = 0.011, 0.1
"""Seconds: browsers show a frame of an animation that is to stay for less than this for 0.1 s."""


def is_picture(file: io.BufferedIOBase) -> bool:
    """Whether a file begins as a picture does that Pillow reads."""
    return _format(file) is not None


def pictures_in(file: io.BufferedIOBase, limit: Limit) -> Iterator[tuple[float, Rgb]]:
    """Decode a picture, or an animation frame by frame; of several pages the first.

    Args:
        file: at its beginning.
        limit: holds before anything is decoded.

    Yields:
        seconds that the frame stays (0 for a single picture), and the frame.

    Raises:
        MediaError: damaged, cut off or too large.
    """
    form = _format(file)
    assert form is not None
    try:
        with warnings.catch_warnings():  # a limit of our own holds
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(cast(BinaryIO, file), formats=[form])
        limit.check(*image.size)
        count = int(getattr(image, "n_frames", 1)) if form in _ANIMATED else 1
        for index in range(count):
            image.seek(index)
            image.load()
            stays = float(image.info.get("duration", 0)) / 1000
            if count == 1:
                stays = 0.0
            elif stays < _SHORT:
                stays = _USUAL
            yield stays, _upright_rgb(image)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(limit.where, TOO_LARGE, f"by its header; {limit.said}") from error
    except Exception as error:  # whatever a damaged file makes Pillow say
        detail = str(error) or type(error).__name__
        raise MediaError(limit.where, "picture cannot be read or is damaged", detail) from error


def _format(file: io.BufferedIOBase) -> str | None:
    head = file.read(16)
    file.seek(0)
    for start, form in _STARTS.items():
        if head.startswith(start):
            return form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if head[4:12] in (b"ftypavif", b"ftypavis") else None


def _upright_rgb(image: Image.Image) -> Rgb:
    turn = _TURNS.get(_orientation(image))
    return _rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """What EXIF notes; a note that cannot be read is none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError):
        return 1


def _rgb(image: Image.Image) -> Rgb:
    """8 bits of red, green and blue; what is transparent shows black."""
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return np.array(image.convert("RGB"))
