"""Frame rates as files state them."""

from fractions import Fraction


def exact_rate(fps: float | int) -> Fraction:
    """Give the rate to write into a file, not rounded: 12.5 is 25/2, 29.97 is 2997/100.

    Raises:
        ValueError: below one frame in a thousand seconds, or infinite.
    """
    if not 0.001 <= fps < float("inf"):
        raise ValueError(f"{fps} frames a second: allowed are 0.001 and above")
    return Fraction(fps).limit_denominator(1001)
