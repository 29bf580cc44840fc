"""The four SLURM commands that are used, with errors a person can act on."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
    | {"BOOT_FAIL", "DEADLINE", "REVOKED"}
)
"""States in which a job writes nothing any more; in all others it runs or will."""


class SlurmError(OSError):
    """A SLURM command failed; the message holds what it said."""


def submit(script: Path) -> str:
    """Submit a batch script from its own folder; its log comes there.

    Returns:
        the job's id.

    Raises:
        ValueError: SLURM would take the folder's name amiss.
        SlurmError: sbatch is missing or refused.
    """
    folder = str(script.parent.resolve())
    if any(sign in folder for sign in "%\\\n"):
        raise ValueError(
            f"{folder!r} holds a %, a backslash or a line's end, which SLURM reads as a pattern for the "
            "log's name; give another folder"
        )
    printed = _run(["sbatch", "--parsable", script.name], script.parent)
    return printed.strip().split(";")[0]


def states(job: str) -> dict[str, str]:
    """State of each task of a job by its index; of a job without an array under "".

    A job that SLURM has forgotten has none.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}"]
    try:
        printed = _run([*command, "--format=%i %T"])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    found = [line.split() for line in printed.splitlines()]
    return {task.partition("_")[2]: state for task, state in found}


def alive(job: str) -> bool:
    """Whether any task of a job waits, runs or ends just now."""
    return any(state not in ENDED for state in states(job).values())


def cancel(job: str) -> None:
    """Cancel a job with all its tasks; nothing happens to one that has ended."""
    _run(["scancel", job])


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not on this machine's PATH; log in to a cluster, or use --local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within two minutes; try again") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout
