"""Checkpoints: one file, or a folder in which every process has written its shards.

FOLDER/*.distcp     shards of weights, of their average and of the optimiser's state, by PyTorch's DCP
FOLDER/.metadata    where in the files each tensor lies
FOLDER/meta.pt      the rest; written last, so that a folder with it is complete

Either kind can be read by any number of processes. Reading runs no code from a file: what is pickled inside
is limited to plain values, and everything else is refused.
"""

import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sfv.training.state_names import GROUPS, OPTIMIZER, numbered, optimizer_state, split_names

META = "meta.pt"
_INDEX = ".metadata"
_SPARE, _PART = ".spare", ".part"
_DISTRIBUTED = "torch.distributed.checkpoint"
_ADMITTED = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)),
    *(
        (f"{_DISTRIBUTED}.metadata", name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    (f"{_DISTRIBUTED}.filesystem", "_StorageInfo"),
}
"""What an index may be made of: descriptions of tensors. Pickled objects inside the files are not."""


def is_complete(path: Path) -> bool:
    """Whether a checkpoint is there, whole."""
    return path.is_file() or (path / META).is_file()


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, file or folder itself; what a cut save left does not count."""
    names = ("*.ckpt", f".*{_SPARE}")
    found = [path for name in names for path in folder.glob(name) if is_complete(path)]
    return max(found, key=_written_at) if found else None


def _written_at(path: Path) -> float:
    return (path / META if path.is_dir() else path).stat().st_mtime


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's shards of named tensors; every process of the group calls it."""
    # Without a process group there is one process, which writes all.
    single = not torch.distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(dict(tensors), storage_writer=_Writer(folder), no_dist=single)


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill named tensors in place; each process reads what it holds, whoever wrote it.

    Raises:
        ValueError: a tensor is missing or of another shape, or the folder is damaged.
    """
    stored = stored_sizes(folder)
    for name, tensor in tensors.items():
        if stored.get(name, (None,))[0] != tensor.shape:
            there = tuple(stored[name][0]) if name in stored else "absent"
            raise ValueError(
                f"{folder} has another shape than this model: {name} is {there} there and "
                f"{tuple(tensor.shape)} here. Use the preset and settings it was trained with"
            )
    with warnings.catch_warnings():
        # Each process reads by itself what the index says it needs.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(dict(tensors), storage_reader=_SafeReader(folder), no_dist=True)


def stored_sizes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of the tensors in a folder, by name.

    Raises:
        ValueError: the folder is damaged, or its index asks for more than descriptions of tensors.
    """
    index = _SafeReader(folder).read_metadata().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in index.items()}  # type: ignore[union-attr]


def read_meta(folder: Path) -> dict[str, Any]:
    """What a folder holds beside shards."""
    content: dict[str, Any] = torch.load(folder / META, map_location="cpu", weights_only=True)
    return content


def make_room(path: Path) -> Path:
    """Tidy up after a save that was cut short; the empty place to write a new folder to."""
    spare, part = _beside(path, _SPARE), _beside(path, _PART)
    if is_complete(spare) and not is_complete(path):
        _remove(path)
        spare.replace(path)
    _remove(spare)
    _remove(part)
    return part


def put_in_place(path: Path) -> None:
    """Let the finished folder beside `path` take its place; one of both is complete at any moment."""
    spare, part = _beside(path, _SPARE), _beside(path, _PART)
    if path.exists():
        path.replace(spare)
    part.replace(path)
    _remove(spare)


class FileOrFolder(TorchCheckpointIO):
    """Reads folders of shards too, for strategies that know only files (one device, DDP)."""

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, whole, in the form of a file's."""
        if not Path(path).is_dir():
            found: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
            return found
        folder = Path(path)
        tensors = {
            name: torch.empty(size, dtype=dtype)
            for name, (size, dtype) in stored_sizes(folder).items()
        }
        read_shards(folder, tensors)
        checkpoint = read_meta(folder)
        groups = checkpoint.pop(GROUPS)
        parts = split_names(tensors)
        states = [optimizer_state(parts, i, group) for i, group in enumerate(groups)]
        checkpoint["optimizer_states"] = [numbered(state) for state in states]
        for key in {name.partition("/")[0] for name in tensors} - {OPTIMIZER}:
            checkpoint[key] = parts[key]
        return checkpoint


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}{end}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Writer(FileSystemWriter):
    """PyTorch's writer, but the index does not name the folder of this machine that it lay in."""

    def storage_meta(self) -> None:
        return None


class _IndexOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


class _SafeReader(FileSystemReader):
    """PyTorch's reader, but what is pickled in the index cannot run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / _INDEX
        try:
            with path.open("rb") as file:
                metadata: Metadata = _IndexOnly(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
        except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or was not written by sfv ({error}); nothing in it was run. Resume "
                "from another checkpoint"
            ) from error
        return metadata


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run folder resumes from: the newest complete one under `checkpoints/`."""
    return newest_complete(folder / "checkpoints")
