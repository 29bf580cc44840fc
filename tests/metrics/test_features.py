import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfv.metrics.features import I3D, I3DFeatures, _max_pool, _same, preprocess
from sfv.metrics.fvd import frechet_distance
from sfv.metrics.suite import default_clip_features
from sfv.metrics.weights import I3D_KINETICS, load
from sfv.rng import stream
from tests.metrics.scenes import noisy, pan

ARRAYS = load(I3D_KINETICS)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (16, 7, 2, [2, 3]),
        (15, 3, 2, [1, 1]),
        (112, 3, 2, [0, 1]),
        (9, 3, 1, [1, 1]),
        (5, 2, 2, [0, 1]),
    ],
)
def test_same_padding_as_tensorflow_documents_it(
    size: int, kernel: int, stride: int, pads: list[int]
) -> None:
    assert _same((size,), (kernel,), (stride,)) == pads


@pytest.mark.parametrize(
    ("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]
)
def test_pooling_equals_torch_on_odd_and_even_sizes(
    kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    x = torch.rand(2, 4, 5, 6, 7, generator=stream(0, "pool"))
    padded = F.pad(x, _same((5, 6, 7), kernel, stride), value=-torch.inf)
    assert torch.equal(_max_pool(x, kernel, stride), F.max_pool3d(padded, kernel, stride))


def _unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
    """Convolution, BatchNorm, ReLU, one after the other, straight from the checkpoint."""
    weight = ARRAYS[f"params/{name}/Conv_0/kernel"].permute(4, 3, 0, 1, 2)
    pads = []
    for size, k in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        pads += [total // 2, total - total // 2]
    x = F.conv3d(F.pad(x, pads), weight, stride=stride)
    norm = f"batch_stats/{name}/BatchNorm_0"
    mean, variance = ARRAYS[f"{norm}/mean"].flatten(), ARRAYS[f"{norm}/var"].flatten()
    shift = ARRAYS[f"params/{name}/BatchNorm_0/bias"]
    return F.relu(F.batch_norm(x, mean, variance, None, shift, eps=1e-3))


def _pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return F.max_pool3d(F.pad(x, _same(tuple(x.shape[2:]), kernel, stride)), kernel, stride)


def _mixed(x: Tensor, stage: str) -> Tensor:
    branch = f"Mixed_{stage}/Branch_"
    return torch.cat(
        [
            _unit(x, f"{branch}0/Conv3d_0a_1x1"),
            _unit(_unit(x, f"{branch}1/Conv3d_0a_1x1"), f"{branch}1/Conv3d_0b_3x3"),
            _unit(_unit(x, f"{branch}2/Conv3d_0a_1x1"), f"{branch}2/Conv3d_0b_3x3"),
            _unit(_pool(x, (3, 3, 3), (1, 1, 1)), f"{branch}3/Conv3d_0b_1x1"),
        ],
        dim=1,
    )


def _plain_i3d(clip: Tensor) -> Tensor:
    x = _pool(_unit(clip, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = _unit(_unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = _mixed(_mixed(_pool(x, (1, 3, 3), (1, 2, 2)), "3b"), "3c")
    x = _pool(x, (3, 3, 3), (2, 2, 2))
    for stage in ("4b", "4c", "4d", "4e", "4f"):
        x = _mixed(x, stage)
    x = _mixed(_mixed(_pool(x, (2, 2, 2), (2, 2, 2)), "5b"), "5c")
    head = "params/Logits/Conv3d_0c_1x1/Conv_0"
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    x = torch.einsum("bcthw,co->btohw", x, ARRAYS[f"{head}/kernel"][0, 0, 0])
    return x[:, :, :, 0, 0].mean(1) + ARRAYS[f"{head}/bias"]


@pytest.mark.slow
def test_i3d_equals_an_unfolded_one_and_bf16_comes_close() -> None:
    clip = noisy(pan(5, 11, 40, 52, speed=3), 0.05)
    exact = default_clip_features()(clip[None])[0]
    with torch.inference_mode():
        plain = _plain_i3d(preprocess(clip)[None])[0]
    torch.testing.assert_close(exact, plain, rtol=1e-3, atol=1e-3)
    quick = I3DFeatures(precision="bf16")
    assert quick.name != default_clip_features().name
    assert (quick(clip[None])[0] - exact).norm() < 0.05 * exact.norm()


@pytest.mark.slow
def test_black_against_white_is_the_published_distance() -> None:
    """TensorFlow's FVD gives 151.3924, the public torchscript network 151.2565."""
    features = default_clip_features()
    black, white = torch.zeros(8, 30, 3, 64, 64), torch.ones(8, 30, 3, 64, 64)
    distance = frechet_distance(features(black), features(white)).item()
    assert distance == pytest.approx(151.3924, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="256 clips take minutes on a CPU")
def test_uniform_noise_is_the_published_distance() -> None:
    """128 against 128 clips, seeds 1 and 2 of the public comparison; covariances divided by N - 1."""
    network = I3D().cuda().eval()

    def features(seed: int) -> torch.Tensor:
        draw = np.random.RandomState(seed)
        found = []
        for _ in range(128):
            clip = torch.from_numpy(draw.rand(16, 224, 224, 3).astype(np.float32))
            with torch.inference_mode():
                found.append(network(clip.permute(3, 0, 1, 2)[None].cuda()).cpu().clone())
        return torch.cat(found)

    assert frechet_distance(features(1), features(2)).item() == pytest.approx(10.13809, rel=1e-3)


def test_preprocessing_is_bilinear_with_half_pixel_centres() -> None:
    frames = torch.zeros(2, 3, 4, 8)
    frames[1, 2, 1, 3] = 1.0
    ready = preprocess(frames)
    assert ready.shape == (3, 2, 224, 224)
    assert ready[2, 0].max() == ready[0, 1].max() == -1

    def tent(position: int, scale: int, centre: int) -> float:
        return max(0.0, 1 - abs((position + 0.5) / scale - 0.5 - centre))

    for y, x in ((84, 98), (70, 91), (110, 100), (10, 100)):
        expected = 2 * tent(y, 56, 1) * tent(x, 28, 3) - 1
        assert ready[2, 1, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_seen_clips_are_not_computed_again_and_types_do_not_mix() -> None:
    features = I3DFeatures()
    clip = (pan(1, 9, 20, 24) * 255).to(torch.uint8)
    first = features(clip[None])

    def fail(_: Tensor) -> Tensor:
        raise AssertionError("computed again")

    features.network.forward = fail  # type: ignore[method-assign, assignment]
    assert torch.equal(features(torch.stack([clip, clip])), first.expand(2, -1))
    with pytest.raises(AssertionError, match="computed again"):
        features(clip.flip(0)[None])
    with pytest.raises(AssertionError, match="computed again"):
        features(clip.float()[None] / 255)


def test_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="clips of 8 frames; I3D needs at least 9"):
        default_clip_features()(torch.rand(2, 8, 3, 16, 20))
