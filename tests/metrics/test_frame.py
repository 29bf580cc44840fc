import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as other_lpips

from sfv.metrics.frame import LPIPS, PSNR, SSIM, lpips, psnr, ssim
from sfv.metrics.lpips import LPIPSNetwork, Net
from tests.metrics.scenes import noisy, pan


def _pair(frames: int = 3) -> tuple[Tensor, Tensor]:
    a = torch.stack([pan(1, frames), pan(2, frames)])
    return a, noisy(a, 0.1)


def test_psnr_against_the_definition() -> None:
    a, b = _pair()
    values = psnr(a, b)
    for i in range(2):
        for k in range(3):
            error = np.mean((a[i, k].double().numpy() - b[i, k].double().numpy()) ** 2)
            assert values[i, k].item() == pytest.approx(10 * math.log10(1 / error), abs=1e-4)


def test_equal_frames_are_capped_at_100_db() -> None:
    a, b = _pair()
    b[1, 2] = a[1, 2]
    values = psnr(a, b)
    assert values[1, 2] == 100
    assert values[0].max() < 30


def _ssim_loop(a: np.ndarray, b: np.ndarray) -> float:
    """One channel, windows that lie inside the frame, as the authors' code does."""
    x = np.arange(11) - 5
    line = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
            both = (window * p * q).sum() - mp * mq
            values.append(
                (2 * mp * mq + 1e-4)
                * (2 * both + 9e-4)
                / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )
    return float(np.mean(values))


def test_ssim_against_a_plain_loop() -> None:
    a, b = _pair(frames=1)
    a, b = a[..., :20, :23], b[..., :20, :23]
    expected = [
        np.mean([_ssim_loop(x[c].double().numpy(), y[c].double().numpy()) for c in range(3)])
        for x, y in zip(a[:, 0], b[:, 0], strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b)[:, 0].numpy(), expected, atol=1e-4)


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match="frames of 10x20; SSIM's window needs at least 11x11"):
        ssim(torch.rand(1, 2, 3, 10, 20), torch.rand(1, 2, 3, 10, 20))


def _torchvision_features(network: LPIPSNetwork) -> nn.Sequential:
    """Our weights in torchvision's order of layers, for torchmetrics' own LPIPS."""
    layers: list[nn.Module] = []
    if network.net == "alex":
        for i, conv in enumerate(network.trunk.convs):  # type: ignore[union-attr, arg-type]
            layers += [conv, nn.ReLU()]
            if i in (0, 1, 4):
                layers.append(nn.MaxPool2d(3, 2))
        return nn.Sequential(*layers)
    for block in network.trunk.blocks:  # type: ignore[union-attr]
        for conv in block:
            layers += [conv, nn.ReLU()]
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_against_torchmetrics_with_its_own_heads(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = LPIPSNetwork(net)
    features = _torchvision_features(ours)
    monkeypatch.setattr(other_lpips, "_get_tv_model_features", lambda *_, **__: features)
    theirs = other_lpips._LPIPS(pretrained=True, net=net, use_dropout=True)
    a, b = _pair(frames=2)
    expected = theirs(a.flatten(0, 1), b.flatten(0, 1), normalize=True).reshape(2, 2)
    torch.testing.assert_close(lpips(a, b, net), expected, rtol=1e-4, atol=1e-6)
    assert lpips(a, b, net).min() > 0.05


def test_lpips_of_black_against_white_is_the_published_value() -> None:
    black = torch.zeros(1, 1, 3, 64, 64)
    assert lpips(black, torch.ones_like(black)).item() == pytest.approx(0.81401, abs=1e-4)


def test_lpips_splits_many_frames_without_changing_them() -> None:
    a = pan(3, 40, 32, 33)[None]
    b = noisy(a, 0.2)
    whole = lpips(a, b)
    assert whole.shape == (1, 40)
    torch.testing.assert_close(whole[:, 37:], lpips(a[:, 37:], b[:, 37:]))


def test_lpips_errors_name_what_is_allowed() -> None:
    small = torch.rand(1, 1, 3, 30, 64)
    with pytest.raises(ValueError, match="frames of 30x64; LPIPS on alex needs at least 31x31"):
        lpips(small, small)
    assert lpips(*[torch.rand(1, 1, 3, 31, 31)] * 2).item() == 0


@pytest.mark.parametrize("make", [PSNR, SSIM, LPIPS])
def test_classes_average_videos_and_merge_processes(make: type[PSNR | SSIM | LPIPS]) -> None:
    function = {PSNR: psnr, SSIM: ssim, LPIPS: lpips}[make]
    a, b = _pair()
    c = noisy(a[:1], 0.02)
    first, second, third = make(), make(), make()
    first.update(a, b)
    second.update(a[:1], c)
    first.merge_state(second)
    first.merge_state(third)
    expected = torch.cat([function(a, b), function(a[:1], c)]).double().mean()
    assert first.compute().item() == pytest.approx(expected.item(), rel=1e-6)
