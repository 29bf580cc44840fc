"""What a video or picture may cost, and the error of one that cannot be taken."""

from dataclasses import dataclass

MAX_SIDE = 16384
"""Pixels of the longer side of a picture."""
MAX_PIXELS = 2**26
"""Pixels of one picture (8192x8192): 0.2 GB as RGB."""
MAX_SAMPLE_PIXELS = 2**31
"""Pixels of all frames that are held at once (an hour of 256x256 at 8 frames a second): 6.4 GB as RGB."""

MAX_SECONDS = 7 * 24 * 3600
"""Of a video; a header that states more is broken."""

UNREADABLE = "video cannot be read or is damaged"
TOO_LARGE = "larger than allowed"


class MediaError(ValueError):
    """A video or picture that cannot be taken as it is.

    Args:
        where: the file.
        reason: in words that are the same for all files with this fault.
        detail: about this file: the frame, the value found.
    """

    def __init__(self, where: str, reason: str, detail: str = "") -> None:
        super().__init__(where, reason, detail)
        self.where, self.reason, self.detail = where, reason, detail

    @property
    def fault(self) -> str:
        """What is wrong, without the file's name."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason

    def __str__(self) -> str:
        return f"{self.where}: {self.fault}"


def check_held(where: str, num_frames: int, size: tuple[int, int]) -> None:
    """Refuse more pixels than may be held at once.

    Raises:
        MediaError: names the limit.
    """
    if num_frames * size[0] * size[1] > MAX_SAMPLE_PIXELS:
        raise MediaError(
            where,
            "more pixels than can be held at once",
            f"{num_frames} frames of {size[0]}x{size[1]}; allowed are {MAX_SAMPLE_PIXELS} pixels: "
            "make it smaller or shorter",
        )


def other_size(
    where: str, given: tuple[int, int], expected: tuple[int, int], number: int
) -> MediaError:
    """The error of a frame that is not as high and wide as it has to be."""
    (height, width), (high, wide) = given, expected
    return MediaError(
        where,
        "frames of another size",
        f"frame {number} is {height}x{width}, expected is {high}x{wide}",
    )


@dataclass(frozen=True)
class Limit:
    """What one frame of a file may cost.

    Args:
        where: the file.
        size: height and width that are expected; None allows up to `MAX_PIXELS`.
    """

    where: str
    size: tuple[int, int] | None = None

    @property
    def pixels(self) -> int:
        """Pixels of a frame as codecs store it: they fill up blocks at two sides."""
        return MAX_PIXELS if self.size is None else (self.size[0] + 64) * (self.size[1] + 64)

    @property
    def said(self) -> str:
        """What is allowed, in words."""
        return f"allowed are {MAX_PIXELS} pixels a frame and {MAX_SIDE} a side: make it smaller"

    def check(self, width: int, height: int) -> None:
        """Refuse frames that are too large, before they are decoded.

        Raises:
            MediaError: names the limit.
        """
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise MediaError(
                self.where,
                TOO_LARGE,
                f"{height}x{width} pixels; {self.said}",
            )
        if self.size is not None and width * height > self.size[0] * self.size[1]:
            raise other_size(self.where, (height, width), self.size, 0)
