"""Checkpoints: one file, or a folder in which every process has written its shards.

FOLDER/*.distcp     shards of weights, of their average and of the optimiser's state, by PyTorch's DCP
FOLDER/.metadata    where in the files each tensor lies
FOLDER/sums-*.json  checksums of the files that each process wrote
FOLDER/meta.pt      the rest; written last, so that a folder with it is complete

Either kind can be read by any number of processes. Reading runs no code from a file: what is pickled inside
is limited to plain values, and everything else is refused. The checkpoint that a new one replaces is kept
as NAME.previous.ckpt, for the case that the new one is damaged later.
"""

import json
import pickle
import shlex
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sfv.files import sync_folder, write_json
from sfv.storage.weight_files import check_finite
from sfv.training.sharding import local
from sfv.training.state_names import GROUPS, OPTIMIZER, numbered, optimizer_state, split_names

META = "meta.pt"
_INDEX = ".metadata"
_PART = "part"
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
    found = {path for path in folder.glob("*.ckpt") if is_complete(path)}
    found -= {previous_of(path) for path in found}  # whatever their times say after copying
    return max(found, key=_written_at) if found else None


def previous_of(path: Path) -> Path:
    """Where the checkpoint of before is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damaged(path: Path, why: str) -> ValueError:
    """The error for a checkpoint that cannot be used; says how to go on with the one before.

    Args:
        path: of the checkpoint, file or folder.
        why: what is wrong with it.
    """
    earlier = previous_of(path)
    way = (
        "no earlier one is left: begin again in another --out, from a saved model (model.init_from)"
    )
    if is_complete(earlier):
        way = (
            f"to go on from the one before, {earlier}, remove the damaged one (rm -r "
            f"{shlex.quote(str(path))}) and give the same command again"
        )
    return ValueError(f"checkpoint {path} is damaged or was not written by sfv ({why}); {way}")


def check_numbers(content: Any, what: str, name: str = "") -> None:
    """Refuse NaN and infinity in weights, averages and optimiser states.

    Args:
        content: a checkpoint, or part of one.
        what: begins the message.
        name: of that part.

    Raises:
        ValueError: names the tensor.
    """
    if isinstance(content, Tensor):
        check_finite({name: local(content)}, what)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if key != "callbacks":  # the best score so far may be infinite
                check_numbers(value, what, f"{name}/{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            check_numbers(value, what, f"{name}/{i}")


def _written_at(path: Path) -> float:
    return (path / META if path.is_dir() else path).stat().st_mtime


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's shards of named tensors, with checksums; every process of the group calls it."""
    # Without a process group there is one process, which writes all.
    single = not torch.distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(dict(tensors), storage_writer=_Writer(folder), no_dist=single)
    rank = 0 if single else torch.distributed.get_rank()
    names = [path.name for path in folder.glob(f"__{rank}_*.distcp")] + [_INDEX] * (rank == 0)
    write_json(folder / f"sums-{rank:05d}.json", {name: _sum(folder / name) for name in names})


def check_sums(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Check that files of shards are as they were written; folders of older versions have no checksums.

    Args:
        folder: a checkpoint.
        part: which share of the files to check, from 0.
        parts: processes that share the work.

    Raises:
        ValueError: a file is missing or damaged; names it.
    """
    sums: dict[str, int] = {}
    for path in sorted(folder.glob("sums-*.json")):
        try:
            sums |= json.loads(path.read_bytes())
        except (ValueError, TypeError) as error:
            raise damaged(folder, f"{path.name}: {error}") from error
    for name in sorted(sums)[part::parts]:
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
        if _sum(folder / name) != sums[name]:
            raise damaged(folder, f"{name} has another checksum than when it was written")


def _sum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


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
    """What a folder holds beside shards.

    Raises:
        ValueError: it is damaged, or asks for more than plain values.
    """
    path = folder / META
    with told_as_damaged(folder, f"{META}: "):
        _check_zip(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content


def _check_zip(path: Path) -> None:
    """Compare the checksums that PyTorch writes into its files and does not look at."""
    with zipfile.ZipFile(path) as archive:
        wrong = archive.testzip()
    if wrong is not None:
        raise ValueError(f"{wrong} in it has another checksum than when it was written")


@contextmanager
def told_as_damaged(checkpoint: str | Path, where: str = "") -> Iterator[None]:
    """Name the checkpoint in whatever reading missing or damaged bytes of it raises.

    Args:
        checkpoint: its path.
        where: begins what is said of the fault.

    Raises:
        ValueError: see `damaged`.
    """
    try:
        yield
    except Exception as error:
        is_fault_of_machine = isinstance(error, OSError) and not isinstance(
            error, FileNotFoundError
        )
        if is_fault_of_machine or isinstance(error, MemoryError):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise damaged(Path(checkpoint), where + lines[0]) from error


def make_room(path: Path, attempt: int = 0) -> Path:
    """Tidy up after saves that were cut short; the free place to write a new folder to.

    Args:
        path: of the checkpoint.
        attempt: whose folder it is: one that was thought dead must not write into it.
    """
    for left in path.parent.glob(f".{path.name}.{_PART}*"):
        _remove(left)
    return path.with_name(f".{path.name}.{_PART}{attempt}")


def put_in_place(new: Path, path: Path) -> None:
    """Let a finished folder take its place; one of both is complete at any moment."""
    sync_folder(new)
    keep_previous(path)
    new.replace(path)
    sync_folder(path.parent)


def keep_previous(path: Path) -> None:
    """Move the checkpoint that is about to be replaced, file or folder, to `previous_of`."""
    if is_complete(path):
        _remove(previous_of(path))
        path.replace(previous_of(path))
    else:
        _remove(path)


class FileOrFolder(TorchCheckpointIO):
    """Reads folders of shards too, for strategies that know only files (one device, DDP)."""

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, whole, in the form of a file's.

        Raises:
            ValueError: it is damaged, or holds numbers that are not finite; says how to go on.
        """
        path = Path(path)
        if path.is_dir():
            check_sums(path)
            found = self._read_folder(path)
        else:
            with told_as_damaged(path):
                _check_zip(path)
                found = super().load_checkpoint(path, map_location, weights_only)
        with told_as_damaged(path):
            check_numbers(found, "it cannot be used")
        return found

    def _read_folder(self, folder: Path) -> dict[str, Any]:
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
