"""Fréchet video distance, its floor, and an unbiased kernel distance.

FVD (Unterthiner et al., arXiv 1812.01717) is the Fréchet distance between Gaussians fitted to the
I3D logits of true and generated clips. With few clips it is biased upwards by far: 400 dimensions
cannot be estimated from 50 clips, and true clips against other true clips score hundreds. So print
`fvd_floor` beside it, compare only values with equal counts, and trust differences of paired rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from sfv.metrics.features import FEATURES, ClipFeatures
from sfv.rng import seed_of


def _check_features(features: Tensor, name: str) -> Float[Tensor, "n d"]:
    if features.dim() != 2 or features.shape[0] < 2:
        raise ValueError(
            f"{name}: features of shape {tuple(features.shape)}; a covariance needs at least 2 "
            "clips (`n d`, n >= 2): give more or longer videos, or a smaller clip stride"
        )
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name}: features are not finite; look for broken frames in the videos")
    return features.to(torch.float64)


def _root(centred: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """R with RᵀR = the covariance (divisor n - 1) and at most d rows."""
    scaled: Tensor = centred / (centred.shape[0] - 1) ** 0.5
    if scaled.shape[0] <= scaled.shape[1]:
        return scaled
    triangle: Tensor = torch.linalg.qr(scaled, mode="r").R
    return triangle


def frechet_distance(
    features_a: Float[Tensor, "n d"], features_b: Float[Tensor, "m _"]
) -> Float[Tensor, ""]:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½), covariances divided by N - 1, in float64.

    With Σ = RᵀR, tr (Σa Σb)^½ is the sum of the singular values of Ra Rbᵀ. This takes no root of
    a rounding error, needs no jitter for singular covariances, and costs n x m for few clips.

    Raises:
        ValueError: fewer than two clips on a side, other widths, or values that are not finite.
    """
    a, b = _check_features(features_a, "first set"), _check_features(features_b, "second set")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features have widths {a.shape[1]} and {b.shape[1]}; use one network for both sets"
        )
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = _root(a - mean_a), _root(b - mean_b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread: Tensor = root_a.square().sum() + root_b.square().sum() - 2 * cross
    between: Tensor = (mean_a - mean_b).square().sum()
    return between + spread.clamp(min=0)


def frechet_distance_of_moments(
    mean_a: Float[Tensor, " d"],
    covariance_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    covariance_b: Float[Tensor, "d d"],
) -> Float[Tensor, ""]:
    """The same distance from moments: tr (Σa Σb)^½ = tr (Σa^½ Σb Σa^½)^½, symmetric throughout."""
    values, vectors = torch.linalg.eigh(covariance_a.double())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariance_b.double() @ root)
    cross = inner.clamp(min=0).sqrt().sum()
    spread: Tensor = covariance_a.double().trace() + covariance_b.double().trace() - 2 * cross
    between: Tensor = (mean_a.double() - mean_b.double()).square().sum()
    return between + spread.clamp(min=0)


def kernel_distance(
    features_a: Float[Tensor, "n d"], features_b: Float[Tensor, "m d"]
) -> Float[Tensor, ""]:
    """Unbiased squared MMD with the kernel (xᵀy / d + 1)³ (Bińkowski et al., arXiv 1801.01401).

    Its expectation is 0 for equal distributions at any count, so it may come out negative.

    Raises:
        ValueError: as `frechet_distance`.
    """
    a, b = _check_features(features_a, "first set"), _check_features(features_b, "second set")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    distance: Tensor = within(a) + within(b) - 2 * kernel(a, b).mean()
    return distance


@dataclass(frozen=True)
class Floor:
    """What two sets of true clips score against each other.

    Attributes:
        value: mean over the splits.
        low: smallest split.
        high: largest split.
        count: clips on each side; FVD's bias depends on it.
        unpaired: the same splits with the generated clips of the other half on one side, at the
            same count; `unpaired - value` is the distance beyond the floor. None without them.
    """

    value: float
    low: float
    high: float
    count: int
    unpaired: float | None


def fvd_floor(
    features_real: Float[Tensor, "n d"],
    generator: torch.Generator,
    features_fake: Float[Tensor, "n d"] | None = None,
    groups: Sequence[int] | None = None,
    num_splits: int = 20,
) -> Floor:
    """Distance between random halves of the true clips: what no generator can be told from.

    The halves hold N/2 clips each, so this floor lies *above* the one at N, and FVD at N over
    paired clips (same contexts on both sides) may lie below it. An equal comparison is `unpaired`,
    true half against generated other half at the same count. For a floor at N, pass 2N true clips.

    Args:
        features_real: features of the true clips.
        generator: draws the splits.
        features_fake: features of the generated clips, row by row the pairs of `features_real`.
        groups: the episode of each clip; an episode never lies in both halves, as its clips
            resemble each other. None: each clip is its own episode.
        num_splits: random splits to average.

    Raises:
        ValueError: fewer than two episodes, or a half with fewer than two clips.
    """
    real = _check_features(features_real, "true clips")
    owners = torch.arange(len(real)) if groups is None else torch.tensor(groups)
    pairs = [_halves(owners, generator) for _ in range(num_splits)]
    count = min(len(half) for pair in pairs for half in pair)
    if count < 2:
        raise ValueError(
            f"{len(real)} true clips of {len(torch.unique(owners))} episodes cannot be split into two "
            "halves of at least 2 clips without sharing an episode: give more episodes"
        )
    cut = [(a[:count], b[:count]) for a, b in pairs]
    scores = [float(frechet_distance(real[a], real[b])) for a, b in cut]
    unpaired = None
    if features_fake is not None:
        fake = _check_features(features_fake, "generated clips")
        both = [float(frechet_distance(real[a], fake[b])) for a, b in cut]
        unpaired = sum(both) / len(both)
    return Floor(sum(scores) / len(scores), min(scores), max(scores), count, unpaired)


def clip_interval(
    distance: Callable[[Tensor, Tensor], Tensor],
    features_real: Float[Tensor, "n d"],
    features_fake: Float[Tensor, "n d"],
    groups: Sequence[int],
    seed: int,
    level: float = 0.95,
    num: int = 100,
) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap interval of a distance between paired sets; None for fewer than two episodes.

    Whole episodes are drawn with replacement, the same ones on both sides. Drawn twice, a clip adds
    no variety, so the resampled distances lie above the value; the interval is therefore moved
    until its mean is the value (and cut at 0 where the distance cannot be negative). It shows
    the scatter over episodes, not the bias of a small count: the floor shows that.

    Args:
        distance: `frechet_distance` or `kernel_distance`.
        features_real: features of the true clips.
        features_fake: row by row their generated counterparts.
        groups: the episode of each clip.
        seed: of the resampling.
        level: coverage.
        num: resamples.
    """
    owners = np.asarray(groups)
    episodes = [np.flatnonzero(owners == g) for g in np.unique(owners)]
    if len(episodes) < 2:
        return None, None
    rng = np.random.default_rng(seed_of(seed, "clip-bootstrap", len(episodes)))
    draws: list[float] = []
    while len(draws) < num:
        chosen = rng.integers(0, len(episodes), len(episodes))
        rows = torch.from_numpy(np.concatenate([episodes[i] for i in chosen]))
        draws.append(float(distance(features_real[rows], features_fake[rows])))
    value = float(distance(features_real, features_fake))
    shift = value - float(np.mean(draws))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) + shift
    lowest = 0.0 if distance is frechet_distance else -float("inf")
    return max(float(low), lowest), float(high)


def _halves(owners: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clip numbers of two random halves of the episodes, each in random order."""
    episodes = torch.unique(owners)
    mixed = episodes[torch.randperm(len(episodes), generator=generator)]
    first = torch.isin(owners, mixed[: len(mixed) // 2])
    second = torch.isin(owners, mixed[len(mixed) // 2 : len(mixed) // 2 * 2])

    def shuffled(mask: Tensor) -> Tensor:
        numbers = mask.nonzero().flatten()
        return numbers[torch.randperm(len(numbers), generator=generator)]

    return shuffled(first), shuffled(second)


class FVD(Metric):
    """Fréchet video distance over all clips of all processes.

    Keeps counts, sums and outer products in float64 (1.3 MB a side), so memory does not grow and
    processes may see different numbers of clips, or none.

    Args:
        extractor: clip features; `I3DFeatures()` is FVD.
        num_features: their width.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, extractor: ClipFeatures, num_features: int = FEATURES) -> None:
        super().__init__()
        self.extractor = extractor
        for side in ("real", "fake"):
            for name, shape in (
                ("count", ()),
                ("sum", (num_features,)),
                ("outer", (num_features, num_features)),
            ):
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(f"{side}_{name}", zeros, dist_reduce_fx="sum")

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Add true and generated clips, `n t 3 height width`; either side may be empty (n = 0)."""
        for side, clips in (("real", real), ("fake", fake)):
            if len(clips) > 0:
                self._add(side, self.extractor(clips).double().to(self.device))

    def _add(self, side: str, features: Float[Tensor, "n d"]) -> None:
        for name, value in (
            ("count", torch.tensor(float(len(features)))),
            ("sum", features.sum(0)),
            ("outer", features.T @ features),
        ):
            getattr(self, f"{side}_{name}").add_(value)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        count, total, outer = (getattr(self, f"{side}_{n}") for n in ("count", "sum", "outer"))
        if count < 2:
            raise ValueError(
                f"FVD has {int(count)} {side} clips; a covariance needs at least 2: give more clips"
            )
        mean = total / count
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)

    def compute(self) -> Tensor:
        """The distance, float64.

        Raises:
            ValueError: fewer than two clips on a side.
        """
        return frechet_distance_of_moments(*self._moments("real"), *self._moments("fake"))


class KVD(Metric):
    """Unbiased kernel distance over all clips of all processes; keeps the features of every clip.

    Args:
        extractor: clip features.
        num_features: their width.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, extractor: ClipFeatures, num_features: int = FEATURES) -> None:
        super().__init__()
        self.extractor, self.num_features = extractor, num_features
        for side in ("real", "fake"):
            self.add_state(side, [], dist_reduce_fx="cat")

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Add true and generated clips, `n t 3 height width`; either side may be empty (n = 0)."""
        for side, clips in (("real", real), ("fake", fake)):
            if len(clips) > 0:
                # Flat and of the metric's own type, as torchmetrics sends for a process without clips.
                features = self.extractor(clips).to(self.device, self.dtype)
                getattr(self, side).append(features.flatten())

    def _gathered(self, side: str) -> Float[Tensor, "n d"]:
        state = getattr(self, side)  # a list before processes are joined, a tensor after
        none = torch.zeros(0, dtype=self.dtype, device=self.device)
        flat = state if isinstance(state, Tensor) else torch.cat([none, *state])
        return flat.reshape(-1, self.num_features)

    def compute(self) -> Tensor:
        """The distance, float64; see `kernel_distance`.

        Raises:
            ValueError: fewer than two clips on a side.
        """
        return kernel_distance(self._gathered("real"), self._gathered("fake"))
