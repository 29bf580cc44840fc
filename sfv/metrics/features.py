"""I3D (Kinetics-400, RGB): the network whose logits FVD compares.

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (arXiv 1705.07750), as published on TF-Hub
and used for FVD by Unterthiner et al. (arXiv 1812.01717). BatchNorm (epsilon 1e-3, no scale) is
folded into the convolutions, which is exact up to rounding. All padding is TensorFlow's "SAME".
"""

import functools
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sfv.metrics.seen import Seen
from sfv.metrics.video import check_video
from sfv.metrics.weights import I3D_KINETICS, conv_weight, load

FEATURES = 400
SIDE = 224
MIN_FRAMES = 9
_BATCH_NORM_EPS = 1e-3
_CONVS = {"Conv3d_1a_7x7": 2, "Conv3d_2b_1x1": 1, "Conv3d_2c_3x3": 1}
_STAGES = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def _same(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """Padding in `F.pad` order (last dimension first); the odd one goes behind."""
    pads: list[int] = []
    for size, k, s in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return pads


def _max_pool(
    x: Float[Tensor, "b c t h w"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "b c t2 h2 w2"]:
    """Max pooling with "SAME" padding; `x` comes from a ReLU, so zeros pad like minus infinity.

    One dimension after the other as maxima of shifted slices: equal to `F.max_pool3d` to the bit
    and several times quicker on a CPU.
    """
    pads = _same(tuple(x.shape[2:]), kernel, stride)
    if any(pads):
        x = F.pad(x, pads)
    for dim, k, s in zip((4, 3, 2), reversed(kernel), reversed(stride), strict=True):
        num = (x.shape[dim] - k) // s + 1
        slices = [x[_along(dim, slice(i, i + (num - 1) * s + 1, s))] for i in range(k)]
        x = functools.reduce(torch.maximum, slices)
    return x


def _along(dim: int, part: slice) -> tuple[slice, ...]:
    return (slice(None),) * dim + (part,)


class _Conv(nn.Module):
    """Convolution with a folded BatchNorm and ReLU."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t2 h2 w2"]:
        kernel = (self.weight.shape[2], self.weight.shape[3], self.weight.shape[4])
        pads = _same(tuple(x.shape[2:]), kernel, (self.stride,) * 3)
        padding = [0, 0, 0]
        if pads[::2] == pads[1::2]:
            padding = pads[::-2]
        else:
            x = F.pad(x, pads)
        x = F.conv3d(x, self.weight, self.bias, stride=self.stride, padding=padding)
        return F.relu_(x)


def _folded(arrays: dict[str, Tensor], *names: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the named units, joined along the output channels."""
    weights, biases = [], []
    for name in names:
        statistics = f"batch_stats/{name}/BatchNorm_0"
        scale = torch.rsqrt(arrays[f"{statistics}/var"].flatten().double() + _BATCH_NORM_EPS)
        kernel = conv_weight(arrays[f"params/{name}/Conv_0/kernel"]).double()
        weights.append((kernel * scale[:, None, None, None, None]).float())
        shift = arrays[f"params/{name}/BatchNorm_0/bias"].double()
        biases.append((shift - arrays[f"{statistics}/mean"].flatten().double() * scale).float())
    return torch.cat(weights), torch.cat(biases)


class _Mixed(nn.Module):
    """Inception block: three 1x1x1 branches on one input run as a single convolution."""

    def __init__(self, arrays: dict[str, Tensor], stage: str) -> None:
        super().__init__()
        unit = f"Mixed_{stage}/Branch_"
        firsts = [f"{unit}{branch}/Conv3d_0a_1x1" for branch in range(3)]
        self.widths = [len(arrays[f"params/{name}/BatchNorm_0/bias"]) for name in firsts]
        self.reduce = _Conv(*_folded(arrays, *firsts))
        self.wide = _Conv(*_folded(arrays, f"{unit}1/Conv3d_0b_3x3"))
        self.narrow = _Conv(*_folded(arrays, f"{unit}2/Conv3d_0b_3x3"))
        self.pooled = _Conv(*_folded(arrays, f"{unit}3/Conv3d_0b_1x1"))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t h w"]:
        direct, wide, narrow = self.reduce(x).split(self.widths, dim=1)
        pooled = self.pooled(_max_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([direct, self.wide(wide), self.narrow(narrow), pooled], dim=1)


class I3D(nn.Module):
    """Clips in [-1, 1] to time-averaged logits; frozen, 12.7M weights kept as buffers."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        arrays = load(I3D_KINETICS, path)
        self.stem = nn.ModuleList(
            _Conv(*_folded(arrays, name), stride=stride) for name, stride in _CONVS.items()
        )
        self.blocks = nn.ModuleDict({stage: _Mixed(arrays, stage) for stage in _STAGES})
        head = "params/Logits/Conv3d_0c_1x1/Conv_0"
        self.register_buffer("head_weight", conv_weight(arrays[f"{head}/kernel"])[:, :, 0, 0, 0])
        self.register_buffer("head_bias", arrays[f"{head}/bias"].clone())

    def forward(self, clips: Float[Tensor, "b 3 t 224 224"]) -> Float[Tensor, "b 400"]:
        x = _max_pool(self.stem[0](clips), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.stem[2](self.stem[1](x)), (1, 3, 3), (1, 2, 2))
        for stage, block in self.blocks.items():
            if stage == "4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            if stage == "5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = block(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1).mean(dim=(2, 3, 4))
        return F.linear(x, self.get_buffer("head_weight"), self.get_buffer("head_bias"))


Precision = Literal["fp32", "bf16"]


@runtime_checkable
class ClipFeatures(Protocol):
    """Maps clips to feature vectors whose distributions FVD compares."""

    name: str
    sha256: str
    resize: str

    def __call__(self, clips: Shaped[Tensor, "n t 3 height width"]) -> Float[Tensor, "n d"]: ...


class I3DFeatures:
    """400 time-averaged Kinetics logits for each clip; remembers what it has seen.

    A clip's features are kept under the hash of its pixels (1.6 kB each), so the true clips are
    computed once however many rows are compared with them.

    Args:
        path: the checkpoint; None takes it from the installed package.
        precision: "fp32" is exact (the anchors) and takes 0.6 s a 16-frame clip on one CPU core;
            "bf16" takes 0.35 s and moves FVD by under a percent, so its values carry another
            name and are not comparable.
        device: where the network runs.
    """

    def __init__(
        self,
        path: Path | None = None,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = I3D(path).to(device).eval()
        self.name = I3D_KINETICS.name if precision == "fp32" else f"{I3D_KINETICS.name}-{precision}"
        self.sha256 = I3D_KINETICS.sha256
        self.resize = f"bilinear half-pixel to {SIDE}x{SIDE}"
        self._bf16 = precision == "bf16"
        self._device = torch.device(device)
        self._seen = Seen()

    def __call__(self, clips: Shaped[Tensor, "n t 3 height width"]) -> Float[Tensor, "n 400"]:
        """Compute the logits on the CPU, float32.

        Raises:
            ValueError: the clips are too short for the network, or not a video.
        """
        if clips.dim() == 5 and clips.shape[1] < MIN_FRAMES:
            raise ValueError(
                f"clips of {clips.shape[1]} frames; I3D needs at least {MIN_FRAMES} "
                "(16 is the rule): cut longer clips or join chunks"
            )
        return torch.stack([self._seen(clip, self._compute) for clip in clips])

    @torch.inference_mode()
    def _compute(self, clip: Shaped[Tensor, "t 3 height width"]) -> Float[Tensor, " 400"]:
        frames = preprocess(check_video(clip, "the clip").to(self._device))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self.network(frames[None])[0]
        return logits.float().cpu().clone()


def preprocess(frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "3 t 224 224"]:
    """Resize [0, 1] frames bilinearly (half-pixel centres, no anti-aliasing) and map to [-1, 1]."""
    resized = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (resized * 2 - 1).movedim(1, 0)
