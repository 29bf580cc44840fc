"""Low-rank updates as pure functions: applied to a batch of episodes, measured, joined, compressed.

A pair (A, B) stands for ΔW = scale · B·A. For a linear layer A is `r i` and B is `o r`; for a convolution
along time A is `r i k 1 1` and B is `o r 1 1 1`. With a leading `e`, every episode of a batch has its own.
The samples of one episode stand beside each other: sample n of N belongs to episode n // (N / e).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[Tensor, Tensor]


def add_linear(
    output: Float[Tensor, "*batch o"],
    inputs: Float[Tensor, "*batch i"],
    a: Float[Tensor, "e r i"],
    b: Float[Tensor, "e o r"],
    scale: float,
) -> Float[Tensor, "*batch o"]:
    """What a linear layer put out, plus each episode's update of it, in the output's precision."""
    num, dtype = len(a), output.dtype
    low = torch.bmm(inputs.reshape(num, -1, a.shape[2]).to(dtype), a.to(dtype).mT)
    flat = output.reshape(num, -1, b.shape[1])
    return torch.baddbmm(flat, low, b.to(dtype).mT, alpha=scale).view(output.shape)


def add_convolution(
    output: Float[Tensor, "b o t h w"],
    inputs: Float[Tensor, "b i t h w"],
    a: Float[Tensor, "e r i k 1 1"],
    b: Float[Tensor, "e o r 1 1 1"],
    scale: float,
) -> Float[Tensor, "b o t h w"]:
    """The same for a convolution along time (stride 1, as long out as in), in groups of channels."""
    num, dtype = len(a), output.dtype
    grouped = torch.unflatten(inputs.to(dtype), 0, (num, -1)).transpose(0, 1)
    folded = grouped.flatten(1, 2).flatten(3)
    padding = (a.shape[3] // 2, 0)
    down = a.to(dtype).flatten(0, 1).flatten(3)
    low = F.conv2d(folded, down, padding=padding, groups=num)
    up = F.conv2d(low, b.to(dtype).flatten(0, 1).flatten(3), groups=num)
    delta = torch.unflatten(up, 1, (num, -1)).transpose(0, 1).reshape(output.shape)
    return output + scale * delta


def delta_weight(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """ΔW itself, shaped as the layer's weight."""
    return scale * (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:])


def delta_norm(a: Tensor, b: Tensor, scale: float) -> float:
    """‖ΔW‖ (Frobenius), from products of rank-sized matrices alone."""
    return delta_norms([(a, b)], scale)[0]


def delta_norms(pairs: Sequence[Pair], scale: float) -> list[float]:
    """‖ΔW‖ of each; a GPU is waited for once, not once a pair."""
    squares = torch.stack([_inner(pair, pair) for pair in pairs]).clamp(min=0)
    found: list[float] = (abs(scale) * squares.sqrt()).tolist()
    return found


def delta_inner(first: Pair, second: Pair, scales: tuple[float, float]) -> float:
    """⟨ΔW₁, ΔW₂⟩ without making either; the ranks may differ."""
    return float(scales[0] * scales[1] * _inner(first, second))


def join_pairs(pairs: list[Pair], scales: list[float]) -> Pair:
    """One pair of scale 1 whose update is the sum of all; its rank is the sum of theirs."""
    a = torch.cat([scale * a for (a, _), scale in zip(pairs, scales, strict=True)])
    return a, torch.cat([b for _, b in pairs], dim=1)


def compress(a: Tensor, b: Tensor, rank: int) -> tuple[Pair, float]:
    """The nearest pair of a lower rank (truncated SVD), and how much was lost.

    Args:
        a: of rank R.
        b: of rank R.
        rank: at most R.

    Returns:
        the pair, its two parts equally large, and ‖lost‖ / ‖ΔW‖ (0 where ΔW is 0).
    """
    left, core_left = torch.linalg.qr(b.flatten(1).double())
    right, core_right = torch.linalg.qr(a.flatten(1).double().mT)
    u, singular, v = torch.linalg.svd(core_left @ core_right.mT)
    num = min(rank, len(singular))
    root = singular[:num].sqrt()
    new_b = torch.zeros(len(b), rank, dtype=torch.float64)
    new_a = torch.zeros(rank, right.shape[0], dtype=torch.float64)
    new_b[:, :num] = left @ u[:, :num] * root
    new_a[:num] = root[:, None] * (v[:num] @ right.mT)
    whole = float(singular.square().sum())
    lost = float(singular[num:].square().sum()) / whole if whole else 0.0
    shapes = (rank, *a.shape[1:]), (len(b), rank, *b.shape[2:])
    return (new_a.float().view(shapes[0]), new_b.float().view(shapes[1])), lost**0.5


def _inner(first: Pair, second: Pair) -> Tensor:
    """⟨B₁A₁, B₂A₂⟩ = ⟨B₁ᵀB₂, A₁A₂ᵀ⟩."""
    (a1, b1), (a2, b2) = (
        (a.flatten(1).double(), b.flatten(1).double()) for a, b in (first, second)
    )
    return ((b1.mT @ b2) * (a1 @ a2.mT)).sum()
