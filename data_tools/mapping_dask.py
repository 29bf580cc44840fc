"""Workers of `map_shards`: local processes or SLURM jobs, by way of Dask.

Dask starts workers, replaces those that die and carries tasks to them. Which item was being worked
on when a worker died stands in the journal; Dask would also blame items that only waited there.
And Dask repeats a task whose result was lost with its worker: `attempt_once` sees to it that the
work is not.
"""

import contextlib
import dataclasses
import logging
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from data_tools.journal import Journal, Record, record_of
from data_tools.work import BEGUN, NO_SPACE, Cluster, Slurm, Task, attempt_once, skip_line

NEEDED = ("distributed", "dask_jobqueue")

QUEUED_PER_WORKER = 3
"""Tasks that are submitted at a time: enough that no worker waits, few for the scheduler."""

LIFETIME_MARGIN_MIN = 5
"""Minutes between a worker's retirement and the end of its job."""


class MissingDask(ImportError):
    """Dask is not installed; the message holds the line that installs it."""


class ClusterLost(RuntimeError):
    """Dask gave up; what was noted in the journal is safe."""


def require_dask() -> None:
    """Check that Dask is there.

    Raises:
        MissingDask: it is not.
    """
    if any(sys.modules.get(name, 0) is None or not find_spec(name) for name in NEEDED):
        raise MissingDask(
            "more than one worker needs Dask, which is not installed; run: pip install 'sfv[data]' "
            "(or give --workers 1)"
        )


def run_on_cluster(
    tasks: Iterator[Task], notes: Journal, cluster: Cluster, workers: int,
    attempts: int, slurm: Slurm, timeout_s: float,
) -> Iterator[Record]:  # fmt: skip
    """Work through the tasks with several workers; records come as items end.

    Raises:
        OSError: a worker found the disk full.
        ClusterLost: the scheduler or all workers are gone.
    """
    import dask
    from distributed import Client

    first = list(islice(tasks, 1))
    if not first:
        return
    shutil.rmtree(notes.folder / BEGUN, ignore_errors=True)
    with dask.config.set(_config(cluster, timeout_s)), _quiet():
        made = slurm_cluster(slurm, notes.folder) if cluster == "slurm" else _local_cluster()
        with made as running, Client(running, set_as_default=False) as client:
            running.adapt(minimum=workers, maximum=workers)
            feed = _chain(first, tasks)
            yield from _drive(client, feed, notes, attempts, workers * QUEUED_PER_WORKER)
    shutil.rmtree(notes.folder / BEGUN, ignore_errors=True)


def slurm_cluster(slurm: Slurm, folder: Path) -> Any:
    """Describe a cluster of SLURM jobs with one worker each; none is submitted yet.

    Raises:
        ValueError: the walltime leaves a worker no time.
    """
    with _signals_as_they_are():
        from dask_jobqueue import SLURMCluster

    lifetime = slurm.walltime_min - 2 * LIFETIME_MARGIN_MIN
    if lifetime < LIFETIME_MARGIN_MIN:
        raise ValueError(
            f"--slurm-walltime {slurm.walltime_min}: at least {3 * LIFETIME_MARGIN_MIN} minutes are "
            "needed, because workers retire before the job's end"
        )
    logs = folder / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    return SLURMCluster(
        n_workers=0,
        cores=1,
        processes=1,
        memory=f"{slurm.memory_gb} GB",
        walltime=f"{slurm.walltime_min // 60:02d}:{slurm.walltime_min % 60:02d}:00",
        queue=slurm.queue,
        account=slurm.account,
        job_name="sfv-data",
        python=sys.executable,
        log_directory=str(logs),
        local_directory=None,
        job_extra_directives=["--no-requeue", *slurm.extra],
        job_script_prologue=["export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1", f"cd '{Path.cwd()}'"],
        worker_extra_args=[
            "--lifetime", f"{lifetime}m", "--lifetime-stagger", f"{LIFETIME_MARGIN_MIN}m",
        ],
        scheduler_options={"dashboard": False},
    )  # fmt: skip


@contextlib.contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Undo what importing dask_jobqueue does: it makes Ctrl-C and SIGTERM exit with code 0."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _local_cluster() -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _config(cluster: Cluster, timeout_s: float) -> dict[str, Any]:
    return {
        "distributed.scheduler.allowed-failures": 0,  # the journal counts attempts
        # A worker that holds the interpreter's lock sends no heartbeat: the time limit ends it.
        "distributed.scheduler.worker-ttl": f"{int(max(300, 2 * timeout_s))}s",
        # A worker that died is restarted by its nanny; only when that fails is it replaced. Dask's
        # 15 s would end a worker that happens to be restarting once more by then.
        "distributed.deploy.lost-worker-timeout": "300s" if cluster == "local" else "60s",
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.admin.tick.limit": "1h",
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's remarks on workers that come and go off the screen; the journal has the facts."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        logger.setLevel(before)


def _chain(first: list[Task], rest: Iterator[Task]) -> Iterator[Task]:
    yield from first
    yield from rest


def _drive(
    client: Any, tasks: Iterator[Task], notes: Journal, attempts: int, queued: int
) -> Iterator[Record]:
    from distributed import as_completed

    flying: dict[Any, Task] = {}
    number = 0

    def submit(task: Task) -> Any:
        nonlocal number
        number += 1
        future = client.submit(attempt_once, task, key=f"{task.key}-{number}", pure=False)
        flying[future] = task
        return future

    first = [submit(task) for task in islice(tasks, queued)]
    done = as_completed(first, loop=client.loop, raise_errors=False)
    for future in done:
        task = flying.pop(future)
        ending = _ending(future, task, notes, attempts)
        if isinstance(ending, Task):
            done.add(submit(ending))
            continue
        for following in islice(tasks, 1):
            done.add(submit(following))
        yield ending


def _ending(future: Any, task: Task, notes: Journal, attempts: int) -> Record | Task:
    """Tell how an attempt ended: the item's record, or the next attempt."""
    line = _line(future, task)
    if line is not None and "failed" not in line:
        return record_of(line)
    if line is not None:
        reason, detail = line["failed"], line["detail"]
    else:
        notes.refresh()
        if task.key in notes.ended:  # it died between noting the end and telling us
            return notes.ended[task.key]
        if not any(s.attempt == task.attempt for s in notes.starts.get(task.key, [])):
            return task  # it only waited there
        reason, detail = notes.cause_of_end(task.key, task.attempt)
    if task.attempt >= attempts:
        return record_of(skip_line(notes.folder, task.key, task.attempt, reason, detail))
    return dataclasses.replace(task, attempt=task.attempt + 1)


def _line(future: Any, task: Task) -> dict[str, Any] | None:
    """Give what the worker noted last; None when the worker died."""
    from distributed import KilledWorker

    try:
        line: dict[str, Any] | None = future.result()
    except KilledWorker:
        return None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise ClusterLost(
            f"the cluster lost item {task.key!r} ({type(error).__name__}: {error}); what was noted "
            "is safe, give --resume to go on"
        ) from error
    return line
