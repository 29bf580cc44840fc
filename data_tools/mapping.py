"""Do one thing to each of very many items, on one machine or on a cluster, and lose none.

`map_shards(function, items, ...)` calls `function(value, settings)` once for each item in worker
processes (Dask), and notes each result in a journal before it counts. A driver that dies goes on
where it stopped; a worker that dies, hangs or crashes costs the others nothing; an item that cannot
be done is skipped after some attempts, with the reason.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_tools.files import settings_hash
from data_tools.journal import Journal, Record, Role, record_of
from data_tools.work import CLUSTERS, Cluster, Skip, Slurm, Task, Work, attempt, name_of, skip_line

__all__ = ["JOURNAL", "Cluster", "Results", "Skip", "Slurm", "map_shards"]

JOURNAL = "journal"


@dataclass(frozen=True)
class Results:
    """How every item ended, in the order of the items."""

    records: tuple[Record, ...]
    from_before: int = field(default=0)

    @property
    def kept(self) -> dict[str, Any]:
        """Results of the items that were done."""
        return {record.key: record.result for record in self.records if record.kept}

    @property
    def skipped(self) -> dict[str, Record]:
        return {record.key: record for record in self.records if not record.kept}

    def account(self) -> dict[str, Any]:
        """Account for every input, as a summary holds it; the numbers add up."""
        skipped = self.skipped
        reasons = Counter(record.reason for record in skipped.values())
        counts = {
            "given": len(self.records),
            "kept": len(self.kept),
            "skipped": len(skipped),
            "from before": self.from_before,
        }
        assert counts["given"] == counts["kept"] + sum(reasons.values())
        return {
            "inputs": counts,
            "skipped": dict(sorted(reasons.items())),
            "skipped inputs": {
                key: {"reason": r.reason, "detail": r.detail, "attempts": r.attempts}
                for key, r in skipped.items()
            },
        }


def map_shards(
    function: Work, items: Mapping[str, Any], *, journal: Path, settings: Mapping[str, Any],
    cluster: Cluster = "local", workers: int = 2, timeout_s: float = 600.0, attempts: int = 3,
    resume: bool = False, slurm: Slurm | None = None, title: str = "items", unit: str = "item",
) -> Results:  # fmt: skip
    """Call `function(value, settings)` for each item.

    Whatever the function writes has to be whole or absent (`sfv.files`), and the same each time:
    an item whose process died is done again.

    Args:
        function: at the top level of a module; returns something JSON-able, or raises `Skip`.
        items: key to value; both JSON-able and small (a path, not a video).
        journal: folder of the journal; one run's alone.
        settings: what decides the results; another run's journal is refused.
        cluster: `local` for processes on this machine, `slurm` for one job a worker, `none` for
            this process (also with one local worker); then no Dask is needed, but a crash or a
            hanging item ends this process, and the next call with `resume` counts that attempt.
        workers: processes; changes no result.
        timeout_s: seconds an attempt may take.
        attempts: tries until an item is skipped.
        resume: go on with the journal that stands there.
        slurm: what to ask for; None for the defaults.
        title: of the progress bar.
        unit: of the progress bar.

    Raises:
        JournalError: another run's journal, or one that needs `resume`.
        MissingDask: more than one process was asked for without Dask.
        ValueError: settings that cannot be.
        OSError: the disk is full. Nothing that was noted is lost.
    """
    if workers < 1 or attempts < 1 or timeout_s <= 0:
        raise ValueError(
            f"--workers {workers} --attempts {attempts} --timeout {timeout_s}: allowed are "
            "workers >= 1, attempts >= 1, timeout > 0 (seconds)"
        )
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster {cluster!r}: allowed are {CLUSTERS}")
    here = cluster == "none" or (cluster == "local" and workers == 1)
    plain = dict(settings)
    name = name_of(function)
    owner = {"function": name, "settings": plain, "hash": settings_hash({"run": [name, plain]})}
    with Journal(journal, owner, resume) as notes:
        _give_up(notes, attempts)
        from_before = sum(key in notes.ended for key in items)
        tasks = _tasks(name, items, plain, notes, here, timeout_s)
        with tqdm(total=len(items), initial=from_before, desc=title, unit=unit) as bar:
            if here:
                ended = _run_here(tasks, attempts)
            else:
                from data_tools.mapping_dask import require_dask, run_on_cluster

                require_dask()
                ended = run_on_cluster(
                    tasks, notes, cluster, workers, attempts, slurm or Slurm(), timeout_s
                )
            skipped = 0
            for record in ended:
                skipped += not notes.end(record).kept
                bar.set_postfix(skipped=skipped, refresh=False)
                bar.update()
        return Results(tuple(notes.ended[key] for key in items), from_before)


def _give_up(notes: Journal, attempts: int) -> None:
    """Skip items that ended the driver's own process often enough."""
    for key in set(notes.starts) - set(notes.ended):
        tried = notes.tried_here(key)
        if tried >= attempts:
            reason, detail = notes.cause_of_end(key, tried)
            line = skip_line(notes.folder, key, tried, reason, detail)
            notes.end(record_of(line))


def _tasks(
    name: str, items: Mapping[str, Any], settings: dict[str, Any], notes: Journal, here: bool,
    timeout_s: float,
) -> Iterator[Task]:  # fmt: skip
    """Give the first attempt at each item that is left."""
    folder = str(notes.folder.resolve())
    role: Role = "driver" if here else "worker"
    for key, value in items.items():
        if key not in notes.ended:
            tried = notes.tried_here(key)
            yield Task(name, key, value, settings, tried + 1, folder, role, timeout_s)


def _run_here(tasks: Iterator[Task], attempts: int) -> Iterator[Record]:
    """Work in this process."""
    for first in tasks:
        task = first
        while "failed" in (line := attempt(task)):
            if task.attempt >= attempts:
                line = skip_line(
                    Path(task.journal), task.key, task.attempt, line["failed"], line["detail"]
                )
                break
            task = dataclasses.replace(task, attempt=task.attempt + 1)
        yield record_of(line)
