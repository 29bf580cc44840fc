"""Reading, writing and hashing weights; safetensors only, no pickle."""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfv.files import replacing

CHECKSUM = "checksum"
"""Where the metadata of a file keeps the hash of its tensors."""


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the sha256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        # One number may have any stride and count as contiguous, but not be viewed as bytes.
        numbers = tensor.as_strided((tensor.numel(),), (1,))
        digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    checksum: str | None = None,
) -> None:
    """Write a safetensors file, whole or not at all; `metadata` gets a checksum beside it.

    Args:
        path: the file.
        tensors: its content.
        metadata: texts that stand in its header.
        checksum: `hash_tensors` of the tensors, where it is known already.

    Raises:
        OSError: the disk is full or the folder cannot be written; names the file.
        ValueError: a number is not finite; nothing is written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(contiguous, f"{path} is not written")
    said = {**metadata, CHECKSUM: checksum or hash_tensors(contiguous)}
    with replacing(Path(path)) as temporary, disk_errors():
        save_file(contiguous, temporary, metadata=said)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Make equal content equal files: safetensors writes the metadata in any order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse NaN and infinity, which would be found only when every result is NaN.

    Args:
        tensors: weights by name; those of integers or without data (meta) pass.
        what: begins the message.

    Raises:
        ValueError: names the first tensor with such a number.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and (wrong := num_not_finite(tensor)):
            raise ValueError(
                f"{what}: {wrong} of {tensor.numel()} numbers of {name} are NaN or infinite, so training "
                "has diverged (lower its learning rate) or the file is damaged; use weights of before"
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; waits for the device."""
    return not num_not_finite(tensor)


def num_not_finite(tensor: Tensor) -> int:
    """How many numbers are NaN or infinite; waits for the device."""
    return tensor.numel() - int(tensor.isfinite().sum())


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what safetensors raises on a full disk, which is no `OSError`, into one."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, no safetensors file, not what was written, or holds a number that is
            not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}): write it again"
        ) from error
    if said.pop(CHECKSUM, None) not in (None, hash_tensors(tensors)):
        raise ValueError(
            f"{path} is damaged: its checksum is not that of what was written; copy or write it again"
        )
    check_finite(tensors, f"{path} cannot be used")
    return tensors, said
