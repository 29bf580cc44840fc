import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from sfv.metrics.fvd import (
    FVD,
    KVD,
    clip_interval,
    frechet_distance,
    frechet_distance_of_moments,
    fvd_floor,
    kernel_distance,
)
from sfv.rng import seed_of, stream
from tests.metrics.scenes import Corners


def _features(n: int, d: int, key: int, shift: float = 0.0) -> Tensor:
    mix = torch.randn(d, d, generator=stream(0, "mix", key)) / d**0.5
    return torch.randn(n, d, generator=stream(0, "features", key)) @ mix + shift


@pytest.mark.parametrize(("n", "m"), [(40, 33), (40, 5), (4, 3)])
def test_frechet_distance_against_torchmetrics(n: int, m: int) -> None:
    """More clips than dimensions, fewer on one side, fewer on both."""
    a, b = _features(n, 7, 1).double(), _features(m, 7, 2, shift=0.5).double()
    theirs = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item()
    assert frechet_distance(a, b).item() == pytest.approx(theirs, rel=1e-5)
    moments = frechet_distance_of_moments(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert moments.item() == pytest.approx(theirs, rel=1e-5)


def test_frechet_distance_of_diagonal_gaussians_in_closed_form() -> None:
    a = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    b = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]) + torch.tensor([4.0, 5.0])
    expected = 41 + (2 / 3) * ((3 - 1) ** 2 + (1 - 2) ** 2)
    assert frechet_distance(a, b).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [3, 400])
def test_equal_sets_have_distance_zero_without_jitter(n: int) -> None:
    a = 100 * _features(n, 50, 3)
    assert frechet_distance(a, a).item() < 1e-9
    assert frechet_distance(a, a + 3).item() == pytest.approx(9 * 50, rel=1e-6)


def test_kernel_distance_against_torchmetrics_and_unbiased() -> None:
    a, b = _features(9, 5, 1), _features(9, 5, 2, shift=0.3)

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / 5 + 1) ** 3

    theirs = poly_mmd(a.double(), b.double(), degree=3, gamma=None, coef=1.0)
    assert kernel_distance(a, b).item() == pytest.approx(theirs.item(), rel=1e-9)
    loop = sum(k(a[i : i + 1], a[j : j + 1]).item() for i in range(9) for j in range(9) if i != j)
    loop += sum(k(b[i : i + 1], b[j : j + 1]).item() for i in range(9) for j in range(9) if i != j)
    assert kernel_distance(a, b).item() == pytest.approx(loop / 72 - 2 * k(a, b).mean().item())
    same = torch.randn(200, 6, 5, generator=stream(0, "same"))
    draws = [kernel_distance(x[:3], x[3:]).item() for x in same]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / len(draws) ** 0.5


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.rand(1, 4), torch.rand(3, 4), r"first set.*needs at least 2 clips"),
        (torch.rand(3, 4), torch.rand(3, 4) * torch.nan, "second set: features are not finite"),
        (torch.rand(3, 4), torch.rand(3, 5), "widths 4 and 5; use one network"),
    ],
)
def test_bad_features_are_named(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def test_floor_is_the_mean_over_splits_into_halves() -> None:
    real, fake = _features(11, 3, 1), _features(11, 3, 2, shift=2.0)
    floor = fvd_floor(real, stream(0, "floor"), fake, num_splits=6)
    generator = stream(0, "floor")
    scores, unpaired = [], []
    for _ in range(6):
        mixed = torch.randperm(11, generator=generator)
        a, b = mixed[:5], mixed[5:10]
        for _ in range(2):
            torch.randperm(5, generator=generator)
        scores.append(frechet_distance(real[a], real[b]).item())
        unpaired.append(frechet_distance(real[a], fake[b]).item())
    assert floor.count == 5
    assert floor.value == pytest.approx(np.mean(scores))
    assert (floor.low, floor.high) == pytest.approx((min(scores), max(scores)))
    assert floor.unpaired == pytest.approx(np.mean(unpaired))
    assert fvd_floor(real, stream(0, "floor"), num_splits=6).unpaired is None


def test_floor_falls_with_the_count_and_meets_a_perfect_generator() -> None:
    real = _features(64, 16, 1)
    few, many = (fvd_floor(real[:n], stream(0, "floor"), real[:n]) for n in (8, 64))
    assert few.value > 2 * many.value
    assert many.unpaired == many.value


def test_floor_keeps_episodes_whole() -> None:
    """Two copies in each episode: halves that shared an episode would meet their own copies."""
    base = _features(6, 3, 1)
    doubled = base.repeat_interleave(2, 0)
    groups = [e for e in range(6) for _ in range(2)]
    whole = fvd_floor(doubled, stream(0, "floor"), groups=groups, num_splits=40)
    torn = fvd_floor(doubled, stream(0, "floor"), num_splits=40)
    assert whole.count == 6
    assert whole.value > 1.3 * torn.value


def test_floor_of_too_few_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match="8 true clips of 1 episodes cannot be split"):
        fvd_floor(_features(8, 3, 1), stream(0, "floor"), groups=[4] * 8)
    with pytest.raises(ValueError, match="give more episodes"):
        fvd_floor(_features(3, 3, 1), stream(0, "floor"))


def test_interval_is_centred_paired_and_repeatable() -> None:
    real = _features(24, 5, 1)
    fake = real + 0.5 + 0.1 * _features(24, 5, 2)
    groups = [i // 3 for i in range(24)]
    value = frechet_distance(real, fake).item()
    low, high = clip_interval(frechet_distance, real, fake, groups, seed=1)
    assert low is not None and high is not None
    assert 0 <= low < value < high
    assert clip_interval(frechet_distance, real, fake, groups, seed=1) == (low, high)
    assert clip_interval(frechet_distance, real, fake, groups, seed=2) != (low, high)
    torn = clip_interval(frechet_distance, real, fake[torch.arange(23, -1, -1)], groups, seed=1)
    assert torn[1] is not None and torn[1] - value > high - value
    assert clip_interval(frechet_distance, real, fake, [0] * 24, seed=1) == (None, None)


def test_interval_is_the_spread_of_resampled_episodes_moved_onto_the_value() -> None:
    real, groups = _features(12, 30, 1), [0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 5]
    fake = real + 0.3 * _features(12, 30, 2)
    rng = np.random.default_rng(seed_of(4, "clip-bootstrap", 6))
    draws = []
    for _ in range(100):
        rows = [c for e in rng.integers(0, 6, 6) for c in range(12) if groups[c] == e]
        draws.append(frechet_distance(real[rows], fake[rows]).item())
    value = frechet_distance(real, fake).item()
    assert np.mean(draws) > value
    expected = np.quantile(draws, [0.025, 0.975]) + value - np.mean(draws)
    interval = clip_interval(frechet_distance, real, fake, groups, seed=4)
    assert interval == pytest.approx(tuple(expected))


def test_class_equals_the_function_and_merges_uneven_processes() -> None:
    real = torch.rand(9, 4, 3, 5, 6, generator=stream(0, "real"))
    fake = torch.rand(7, 4, 3, 5, 6, generator=stream(0, "fake")) ** 2
    first, second, idle = (FVD(Corners(), num_features=6) for _ in range(3))
    first.update(real[:2], fake[:5])
    first.update(real[2:5], fake[:0])
    second.update(real[5:], fake[5:])
    first.merge_state(second)
    first.merge_state(idle)
    expected = frechet_distance(Corners()(real), Corners()(fake)).item()
    assert first.compute().item() == pytest.approx(expected, rel=1e-9)
    idle.update(real[:1], fake[:0])
    with pytest.raises(ValueError, match="FVD has 1 real clips; a covariance needs at least 2"):
        idle.compute()


def test_kernel_class_equals_the_function_on_all_clips_and_needs_two() -> None:
    clips = torch.rand(9, 2, 3, 4, 5, generator=stream(0, "clips"))
    metric = KVD(Corners(), num_features=6)
    metric.update(clips[:3], clips[5:6])
    with pytest.raises(ValueError, match=r"second set: features of shape \(1, 6\)"):
        metric.compute()
    metric.update(clips[:0], clips[6:])
    expected = kernel_distance(Corners()(clips[:3]), Corners()(clips[5:]))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-6)
    metric.reset()
    with pytest.raises(ValueError, match=r"first set: features of shape \(0, 6\)"):
        metric.compute()
