"""What the tools on folders share on the command line, and the summary that they leave."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.files import settings_hash
from data_tools.mapping import JOURNAL, Results, map_shards
from data_tools.mapping_dask import ClusterLost, MissingDask
from data_tools.work import CLUSTERS, Cluster, Slurm, Work
from sfv.files import check_writable, write_json
from sfv.texts import printable

SUMMARY = "summary.json"
USER_ERRORS = (ValueError, MissingDask, ClusterLost, OSError)
"""Schema, shard and journal errors are values that cannot be."""


@dataclass(frozen=True)
class Run:
    """How a tool works through its items; none of this changes a result."""

    cluster: Cluster = "local"
    workers: int = 2
    timeout_s: float = 600.0
    attempts: int = 3
    resume: bool = False
    slurm: Slurm | None = None

    def map(
        self, function: Work, items: Mapping[str, Any], out: Path, settings: Mapping[str, Any],
        title: str, unit: str = "episode",
    ) -> Results:  # fmt: skip
        """Call `map_shards` with its journal in the output folder, which has to be writable."""
        check_writable(out)
        return map_shards(
            function, items, journal=out / JOURNAL, settings=settings, cluster=self.cluster,
            workers=self.workers, timeout_s=self.timeout_s, attempts=self.attempts,
            resume=self.resume, slurm=self.slurm, title=title, unit=unit,
        )  # fmt: skip


def tool_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Begin a tool's command line with the options that all tools have."""
    p = argparse.ArgumentParser(
        prog=f"python -m data_tools.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help=f"folder for results and {SUMMARY}")
    g = p.add_argument_group("running", "how, not what: none of this changes a result")
    g.add_argument("--workers", type=int, default=2, help="processes; 1 needs no Dask")
    g.add_argument("--cluster", choices=CLUSTERS, default="local", help="where the workers run")
    g.add_argument("--resume", action="store_true", help="go on with the run begun in --out")
    g.add_argument("--timeout", type=float, default=600.0, help="seconds an item may take")
    g.add_argument("--attempts", type=int, default=3, help="tries until an item is skipped")
    slurm = Slurm()
    g.add_argument("--slurm-queue", metavar="NAME", help="partition")
    g.add_argument("--slurm-account", metavar="NAME", help="account to charge")
    g.add_argument("--slurm-memory", type=float, default=slurm.memory_gb, help="GB of a worker")
    g.add_argument(
        "--slurm-walltime", type=int, default=slurm.walltime_min, help="minutes of a job"
    )
    g.add_argument(
        "--slurm-extra", action="append", metavar="LINE", help="after #SBATCH; repeatable"
    )
    return p


def run_of(args: argparse.Namespace) -> Run:
    """Read the options of `tool_parser`."""
    slurm = Slurm(
        args.slurm_queue, args.slurm_account, args.slurm_memory, args.slurm_walltime,
        tuple(args.slurm_extra or ()),
    )  # fmt: skip
    return Run(args.cluster, args.workers, args.timeout, args.attempts, args.resume, slurm)


def summarise(
    out: Path, tool: str, settings: Mapping[str, Any], results: Results, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `summary.json`, which accounts for every input."""
    plain = dict(settings)
    about = {"tool": tool, "settings": plain, "settings_hash": settings_hash(plain)}
    summary = about | results.account() | dict(more)
    write_json(out / SUMMARY, summary)
    return summary


def run_tool(work: Callable[[], dict[str, Any]]) -> int:
    """Run a command and print its summary.

    Returns:
        0; 1 when no input was kept; 2 when the user has to change something; 130 after Ctrl-C.
    """
    try:
        summary = work()
    except USER_ERRORS as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; give --resume to go on", file=sys.stderr)
        return 130
    shown = {
        key: value for key, value in summary.items() if key not in ("settings", "skipped inputs")
    }
    print(json.dumps(shown, indent=1))
    return 0 if summary["inputs"]["kept"] else 1
