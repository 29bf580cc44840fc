"""ResNet-18 without its classifier, for a weight file of the user's.

The paper's SRC uses these features. The weights are not on PyPI: download torchvision's
`resnet18-f37072fd.pth` (BSD) once and give its path. Parameter names are torchvision's.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.downsample(x))


class ResNet18(nn.Module):
    """ImageNet-scaled frames to the 512 pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width_in = 64
        for stage, width in enumerate(_WIDTHS, start=1):
            blocks = nn.Sequential(
                _Block(width_in, width, 1 if stage == 1 else 2), _Block(width, width, 1)
            )
            self.add_module(f"layer{stage}", blocks)
            width_in = width

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 512"]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3))


def load_resnet18(path: Path) -> ResNet18:
    """Read torchvision's ResNet-18 from `.safetensors` or `.pth`; no pickled code runs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds other weights.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no ResNet-18 weights at {path}; download torchvision's resnet18-f37072fd.pth and "
            "give its path, or leave the path out to use the installed AlexNet features"
        )
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    network = ResNet18()
    wanted = network.state_dict()
    wrong = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if wrong:
        raise ValueError(
            f"{path} is not a ResNet-18 of torchvision: {len(wrong)} of {len(wanted)} tensors are "
            f"missing or have other shapes, the first is {wrong[0]}"
        )
    network.load_state_dict({k: state[k] for k in wanted})
    return network.eval()
