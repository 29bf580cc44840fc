"""LPIPS v0.1 (Zhang et al., arXiv 1801.03924) on AlexNet or VGG16, and their trunks as features.

The definition is the authors': ImageNet scaling of [-1, 1] input, unit-normalised channels after
five ReLUs, squared differences weighted by the learned heads, mean over positions, sum over layers.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfv.metrics.weights import LPIPS_ALEX, LPIPS_VGG, WeightFile, conv_weight, load

Net = Literal["alex", "vgg"]
WEIGHTS: dict[Net, WeightFile] = {"alex": LPIPS_ALEX, "vgg": LPIPS_VGG}
MIN_SIDE: dict[Net, int] = {"alex": 31, "vgg": 16}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10


class AlexNetTrunk(nn.Module):
    """AlexNet's convolutions; returns the five ReLU outputs."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        geometry = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
        self.convs = nn.ModuleList(
            _conv(arrays, f"AlexNet_0/Conv_{i}", stride, padding)
            for i, (stride, padding) in enumerate(geometry)
        )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        outputs = []
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            outputs.append(x)
        return outputs


class VGG16Trunk(nn.Module):
    """VGG16's convolutions; returns the last ReLU output of each of the five blocks."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        sizes = (2, 2, 3, 3, 3)
        self.blocks = nn.ModuleList()
        first = 0
        for size in sizes:
            names = [f"VGG16_0/Conv_{i}" for i in range(first, first + size)]
            self.blocks.append(nn.ModuleList(_conv(arrays, name, 1, 1) for name in names))
            first += size

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        outputs = []
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = F.max_pool2d(x, 2, 2)
            assert isinstance(block, nn.ModuleList)
            for conv in block:
                x = F.relu(conv(x))
            outputs.append(x)
        return outputs


def _conv(arrays: dict[str, Tensor], name: str, stride: int, padding: int) -> nn.Conv2d:
    weight = conv_weight(arrays[f"{name}/kernel"])
    conv = nn.Conv2d(
        weight.shape[1], weight.shape[0], weight.shape[2], stride, padding, device="meta"
    )
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(arrays[f"{name}/bias"].clone(), requires_grad=False)
    return conv


class LPIPSNetwork(nn.Module):
    """The frozen network; call it on frames in [0, 1].

    Args:
        net: "alex" is the authors' choice for evaluation; "vgg" is closer to a training loss.
        path: the checkpoint; None takes it from the installed package.
    """

    def __init__(self, net: Net = "alex", path: Path | None = None) -> None:
        super().__init__()
        arrays = load(WEIGHTS[net], path)
        self.net: Net = net
        self.trunk = AlexNetTrunk(arrays) if net == "alex" else VGG16Trunk(arrays)
        for layer in range(5):
            head = arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].reshape(1, -1, 1, 1)
            self.register_buffer(f"head_{layer}", head.clone())
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(3, 1, 1))

    def layers(self, frames: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n _ _ _"]]:
        """ReLU outputs for frames in [0, 1].

        Raises:
            ValueError: the frames are too small for the network's pooling.
        """
        smallest = MIN_SIDE[self.net]
        if min(frames.shape[-2:]) < smallest:
            raise ValueError(
                f"frames of {frames.shape[-2]}x{frames.shape[-1]}; LPIPS on {self.net} needs "
                f"at least {smallest}x{smallest}: resize the frames"
            )
        scaled = (frames * 2 - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        outputs: list[Tensor] = self.trunk(scaled)
        return outputs

    def forward(
        self,
        frames_a: Float[Tensor, "n 3 height width"],
        frames_b: Float[Tensor, "n 3 height width"],
    ) -> Float[Tensor, " n"]:
        total = frames_a.new_zeros(frames_a.shape[0])
        for layer, (a, b) in enumerate(
            zip(self.layers(frames_a), self.layers(frames_b), strict=True)
        ):
            difference = (_unit(a) - _unit(b)).square()
            total = total + (difference * self.get_buffer(f"head_{layer}")).sum(1).mean((1, 2))
        return total


def _unit(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return x / (x.square().sum(1, keepdim=True).sqrt() + _EPS)
