"""Keys: features of a pose, alike where poses are near (the address of `sfv.fast.addressed`)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from sfv.models.poses import PLANE, PoseSpace
from sfv.rng import stream


class FourierKeys(nn.Module):
    """Random Fourier features of a pose (Rahimi & Recht, 2007) at several scales, fixed, |k| = 1.

        k = [sin(F x), cos(F x)] / √(D/2)      rows of F normal with deviation 1/bandwidth

    x are the pose's coordinates. Products of keys approach the mean of the scales' Gaussian kernels, with
    an error of about 1/√D: at one scale, k(p)·k(q) ≈ exp(-Σ_i (x_i - y_i)² / 2 b_i²). So a bandwidth is
    how far apart, in a coordinate, two frames still mostly share what is stored: small ones keep places
    apart, large ones fill gaps. Several scales do both.

    Args:
        scales: bandwidths b of each scale, one a coordinate of the space; see `plane_bandwidths`.
        key_size: D, a multiple of twice the number of scales. More keep more places apart; a chunk costs D²
            and D c h w.
        space: of the poses.
        seed: names the stream of the features. A memory is read with the features it was written with.

    Raises:
        ValueError: a number is out of its range.
    """

    features: Tensor

    def __init__(
        self,
        scales: Sequence[Sequence[int | float]],
        key_size: int = 504,
        space: PoseSpace = PLANE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        num = space.num_coordinates
        if not scales or any(len(scale) != num or min(scale) <= 0 for scale in scales):
            raise ValueError(
                f"scales are {[list(scale) for scale in scales]}; allowed: at least one, each of {num} "
                f"bandwidths above 0 for {space}"
            )
        if key_size < 1 or key_size % (2 * len(scales)):
            raise ValueError(
                f"key_size is {key_size}; with {len(scales)} scales it must be a multiple of "
                f"{2 * len(scales)}: half sines and half cosines, equally many a scale"
            )
        self.key_size, self.space = key_size, space
        generator = stream(seed, "fourier-keys")
        drawn = torch.randn(key_size // 2, num, generator=generator, dtype=torch.float64)
        bandwidths = torch.tensor([list(scale) for scale in scales], dtype=torch.float64)
        features = drawn / bandwidths.repeat_interleave(key_size // 2 // len(scales), dim=0)
        self.register_buffer("features", features, persistent=False)  # the seed makes them again

    def forward(self, poses: Float64[Tensor, "*b q"]) -> Float[Tensor, "*b k"]:
        """Keys in float32; the phases are computed in the poses' float64."""
        phases = self.space.coordinates(poses) @ self.features.mT
        keys = torch.cat([phases.sin(), phases.cos()], dim=-1) / math.sqrt(self.key_size / 2)
        return keys.float()


def plane_bandwidths(
    way: float | int, turn: float | int = 20.0
) -> tuple[float | int, float | int, float, float]:
    """Bandwidths for `Plane`: x, y, cos and sin of the yaw.

    Args:
        way: in the world's units; for Doom, where a frame of walking is 12 units, 20 to 128.
        turn: degrees. On the circle the kernel is exp(-(1 - cos Δ) / b²), for small angles exp(-Δ² / 2 b²).

    Raises:
        ValueError: a number is not above 0.
    """
    if way <= 0 or turn <= 0:
        raise ValueError(f"bandwidths are way={way}, turn={turn}; both must be above 0")
    return (way, way, math.radians(turn), math.radians(turn))
