"""Attempts at one run: each start takes the next number, and only the newest may write.

A node that lost its network goes on computing while SLURM starts the job again elsewhere. Its
checkpoints must not replace those of the new attempt.
"""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from sfv.files import replacing, write_json
from sfv.run_folder import git_state
from sfv.training.checkpoints import FileOrFolder, check_numbers, keep_previous

FOLDER = "attempts"


class StaleAttempt(ValueError):
    """A newer attempt has taken the run over; the message names both."""


@dataclass(frozen=True)
class Attempt:
    """A start of a run.

    Attributes:
        folder: the run folder.
        number: counts from 1.
    """

    folder: Path
    number: int

    def check(self) -> None:
        """Check that no newer attempt exists.

        Raises:
            StaleAttempt: one does; nothing may be written to the run folder any more.
        """
        newest = max(_numbers(self.folder), default=0)
        if newest > self.number:
            raise StaleAttempt(
                f"{self.folder}: attempt {newest} has taken this run over, so attempt {self.number} writes "
                f"nothing more; {self.folder / FOLDER / _name(newest)} says where it runs"
            )


def claim(folder: Path) -> Attempt:
    """Take the next number; older attempts write nothing from here on."""
    where = folder / FOLDER
    where.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(folder), default=0) + 1
    while True:
        try:
            (where / _name(number)).touch(exist_ok=False)  # the name alone is the claim
            break
        except FileExistsError:
            number += 1
    write_json(where / _name(number), _circumstances())
    return Attempt(folder, number)


def _circumstances() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "commit": git_state()[0].strip(),
    }


def _name(number: int) -> str:
    return f"{number:04d}.json"


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in (folder / FOLDER).glob("[0-9]*.json")]


class FencedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and only for the newest attempt.

    Args:
        attempt: whose checkpoints these are; None on the other ranks until `ShareAttempt` tells them.
    """

    def __init__(self, attempt: Attempt | None) -> None:
        self.attempt = attempt

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file, or a folder of shards."""
        return FileOrFolder().load_checkpoint(path, map_location, weights_only)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write and rename.

        Raises:
            StaleAttempt: a newer attempt runs.
            OSError: the disk is full, say; the checkpoint of before stays.
            ValueError: a weight is not finite; the checkpoint of before stays.
        """
        assert storage_options is None
        path = Path(path)
        self.check()
        step = checkpoint.get("global_step")
        check_numbers(checkpoint, f"checkpoint {path} of slow step {step} is not written")
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                _save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            self.check()  # writing may have taken minutes
            keep_previous(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that a callback no longer wants.

        Raises:
            StaleAttempt: a newer attempt runs.
        """
        self.check()
        super().remove_checkpoint(path)

    def check(self) -> None:
        """Check that this attempt is still the newest; see `Attempt.check`."""
        if self.attempt is not None:
            self.attempt.check()


class ShareAttempt(pl.Callback):
    """Tells all ranks the number of the attempt, which rank 0 has claimed: each deletes files of its own.

    Args:
        checkpoint_io: of this rank.
        folder: the run folder.
    """

    def __init__(self, checkpoint_io: FencedCheckpointIO, folder: Path) -> None:
        self.checkpoint_io, self.folder = checkpoint_io, folder

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        mine = self.checkpoint_io.attempt
        number = trainer.strategy.broadcast(0 if mine is None else mine.number)
        self.checkpoint_io.attempt = Attempt(self.folder, number)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # On a full disk torch's writer fails a second time when it closes, and hides the first.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
