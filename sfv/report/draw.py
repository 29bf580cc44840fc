"""Draw labels with Pillow's built-in font, so that pictures look alike on every machine."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (24, 26, 31)
FOREGROUND = (236, 238, 242)
LARGEST, SMALLEST = 16, 9  # font sizes in pixels
STRIP_HEIGHT = 24
MARGIN = 6  # pixels left free in a strip, both sides together
ELLIPSIS = "…"


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Return the built-in font; `size` in pixels."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def font_size(texts: Sequence[str], width: int) -> int:
    """Find the largest font size, in pixels, at which each text fits into `width` pixels."""
    for size in range(LARGEST, SMALLEST, -1):
        if max(font_of(size).getlength(text) for text in texts) <= width:
            return size
    return SMALLEST


def label_strip(text: str, width: int, size: int = LARGEST) -> UInt8[np.ndarray, "_ width 3"]:
    """Draw one line in the middle of a dark strip, 24 pixels high; too long a text is cut."""
    font = font_of(size)
    if font.getlength(text) > width - MARGIN:
        while text and font.getlength(text + ELLIPSIS) > width - MARGIN:
            text = text[:-1]
        text += ELLIPSIS
    picture = Image.new("RGB", (width, STRIP_HEIGHT), BACKGROUND)
    middle = (width / 2, STRIP_HEIGHT / 2)
    ImageDraw.Draw(picture).text(middle, text, fill=FOREGROUND, font=font, anchor="mm")
    return np.asarray(picture)
