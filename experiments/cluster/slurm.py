"""The four SLURM commands that are used, with errors a person can act on."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
    | {"BOOT_FAIL", "DEADLINE", "REVOKED"}
)
"""States in which a job writes nothing any more; in all others it runs or will."""

JOB = re.compile(r"([0-9]+)(?:;([A-Za-z0-9_.-]+))?")
"""A job as `sbatch --parsable` prints it: its id and, with several clusters, its cluster."""

IN_WORDS = re.compile(r"Submitted batch job ([0-9]+)(?: on cluster ([A-Za-z0-9_.-]+))?")
"""The same from a wrapper of sbatch that drops the option."""

FORGOTTEN = "Invalid job id specified"


class SlurmError(OSError):
    """A SLURM command failed; the message holds what it said."""


class NotSubmitted(SlurmError):
    """There is no new job: sbatch is missing, or refused."""


def submit(script: Path) -> str:
    """Submit a batch script from its own folder; its log comes there.

    Returns:
        the job: `ID`, or `ID;CLUSTER`.

    Raises:
        ValueError: SLURM would take the folder's name amiss.
        NotSubmitted: sbatch is missing or refused.
        SlurmError: sbatch may have made a job, but said not which.
    """
    folder = str(script.parent.resolve())
    if any(sign in folder for sign in "%\\\n"):
        raise ValueError(
            f"{folder!r} holds a %, a backslash or a line's end, which SLURM reads as a pattern for the "
            "log's name; give another folder"
        )
    try:
        printed = _run(["sbatch", "--parsable", script.name], script.parent).stdout
    except SlurmError as error:
        # A job whose confirmation came too late is in the queue all the same.
        if (
            isinstance(error.__cause__, subprocess.TimeoutExpired)
            or "timed out" in str(error).lower()
        ):
            raise
        raise NotSubmitted(str(error)) from error
    lines = [line.strip() for line in printed.splitlines()]
    found = [match for line in lines if (match := JOB.fullmatch(line) or IN_WORDS.fullmatch(line))]
    if len(found) != 1:  # none, or a number in a banner beside it
        raise SlurmError(f"sbatch's answer holds no job's id: {' '.join(printed.split())!r}")
    number, cluster = found[0].groups()
    return f"{number};{cluster}" if cluster else str(number)


def number_of(job: str) -> str:
    """The job's id without its cluster."""
    return job.partition(";")[0]


def states(job: str) -> dict[str, str]:
    """State of each task of a job by its index; of a job without an array under "".

    A job that SLURM has forgotten has none.

    Raises:
        SlurmError: squeue failed, or its answer is not understood; the job may be there.
    """
    number, on_cluster = _named(job)
    command = ["squeue", "--noheader", "--array", "--states=all", *on_cluster, f"--jobs={number}"]
    try:
        done = _run([*command, "--format=%i %T"])
    except SlurmError as error:
        if FORGOTTEN in str(error):
            return {}
        raise
    form = re.compile(rf"{number}(?:_(\S+))?(?:\+[0-9]+)?\s+([A-Z_]+)")
    lines = [line.strip() for line in done.stdout.splitlines()]
    found = {match[1] or "": match[2] for line in lines if (match := form.fullmatch(line))}
    odd = [line for line in lines if line and not line.startswith("CLUSTER:")]
    if not found and (odd or done.stderr.strip()) and FORGOTTEN not in done.stderr:
        said = " ".join([*odd, *done.stderr.split()])
        raise SlurmError(f"squeue's answer on job {number} is not understood: {said!r}")
    return found


def alive(job: str) -> bool:
    """Whether any task of a job waits, runs or ends just now."""
    return any(state not in ENDED for state in states(job).values())


def cancel(job: str) -> None:
    """Cancel a job with all its tasks; nothing happens to one that has ended."""
    _run(cancel_command(job))


def cancel_command(job: str) -> list[str]:
    """What ends a job."""
    number, on_cluster = _named(job)
    return ["scancel", *on_cluster, number]


def _named(job: str) -> tuple[str, list[str]]:
    match = JOB.fullmatch(job)
    if match is None:
        raise SlurmError(f"{job!r} is no job's id")
    return match[1], [f"--clusters={match[2]}"] if match[2] else []


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # SQUEUE_USERS and the like would hide a job that is there.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
            check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not on this machine's PATH; log in to a cluster, or use --local"
        ) from None
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within two minutes; try again") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"{command[0]}: {said or done.returncode}")
    return done
