"""The batch script of a job: plain bash that a person can read, edit and submit again."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.cluster.site import Site
from sfv.training.signals import REQUEUE_EXIT, STOP_EXIT

SCRIPT = "job.sh"
LOG = "slurm-%j.out"
ARRAY_LOG = "slurm-%A_%a.out"

KILLED_EARLY = 128 + 10
"""Exit code of a process that SIGUSR1 met before Python could catch it."""

WAIT_S = 300
"""How long processes may go on after the first has ended. They would wait for a crashed one for ever;
killing them at once would hide with what code they end, and cut off the one that saves."""

TIME = re.compile(r"([0-9]+-)?[0-9]+(:[0-9][0-9]){0,2}")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
VARIABLE = re.compile(rf"(\$\$|\$({_NAME})|\$\{{({_NAME})\}}|[^$]+|\$)")


@dataclass
class Resources:
    """What a job asks for.

    Attributes:
        nodes: computers.
        gpus_per_node: with one process each; 0 trains on CPUs.
        tasks_per_node: processes on a node without GPUs.
        time: limit as SLURM writes it: minutes, hours:minutes:seconds or days-hours.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 1
    time: str = "24:00:00"

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if self.gpus_per_node < 0:
            raise ValueError(f"gpus_per_node is {self.gpus_per_node}; give 0 or more")
        if not TIME.fullmatch(self.time):
            raise ValueError(
                f"time is {self.time!r}; write minutes (90), hours:minutes:seconds (4:00:00) or "
                "days-hours (2-0)"
            )

    @property
    def processes(self) -> int:
        """On one node."""
        return self.gpus_per_node or self.tasks_per_node

    def flags(self) -> list[str]:
        """What `sfv fit` has to know of it."""
        return [
            f"--trainer.num_nodes={self.nodes}",
            f"--trainer.devices={self.processes}",
            f"--trainer.accelerator={'gpu' if self.gpus_per_node else 'cpu'}",
        ]


def render(
    name: str,
    command: list[str],
    site: Site,
    resources: Resources,
    prepare: list[str] | None = None,
    array: str | None = None,
    failed: list[str] | None = None,
) -> str:
    """Write a batch script; it also runs without SLURM, then on this computer alone.

    Args:
        name: of the job; characters that SLURM takes amiss become `-`.
        command: arguments of Python for each process; `$NAME` in them is the shell's.
        site: the cluster's defaults.
        resources: what the job asks for.
        prepare: arguments of Python for one process that runs first.
        array: indices of the job's tasks, e.g. `0-11%4`.
        failed: arguments of Python for one process that runs last if the command ended in a way that the
            same command again would not mend; the exit code follows them.
    """
    python = site.python or ("python" if site.container else sys.executable)
    options = _options(name, site, resources, array)
    first = [] if prepare is None else [f"{_line(site, python, prepare)} || exit $?"]
    expected = "|".join(str(code) for code in (0, REQUEUE_EXIT, STOP_EXIT, KILLED_EARLY))
    note = "" if failed is None else f"{_line(site, python, failed)} $code"
    last = [] if failed is None else [f"case $code in {expected}) ;; *) {note} ;; esac"]
    lines = [
        "#!/bin/bash",
        f"# Submit again: cd to this folder, then sbatch {SCRIPT}. Without SLURM: bash {SCRIPT}",
        *(f"#SBATCH {option}" for option in options),
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        *(f"export {key}={_expanded(value)}" for key, value in site.environment.items()),
        *(line for name in site.modules for line in _module(name)),
        *site.setup,
        "launch=",
        f'[ -z "${{SLURM_JOB_ID:-}}" ] || launch="srun --kill-on-bad-exit=0 --wait={WAIT_S}"',
        *first,
        f"$launch {_line(site, python, command)}",
        "code=$?",
        f"# {REQUEUE_EXIT}: saved because the time is nearly up; {KILLED_EARLY}: asked to before Python "
        "had started.",
        f'if [ -n "$launch" ] && {{ [ $code = {REQUEUE_EXIT} ] || [ $code = {KILLED_EARLY} ]; }}; then',
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {site.max_restarts} ]; then',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "  else",
        f'    echo "restarted {site.max_restarts} times, which is the site\'s max_restarts: not again" >&2',
        "  fi",
        "fi",
        *last,
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _options(name: str, site: Site, resources: Resources, array: str | None) -> list[str]:
    chosen = {
        "job-name": re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII),
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "nodes": resources.nodes,
        "ntasks-per-node": resources.processes,
        "gpus-per-node": resources.gpus_per_node or None,
        "cpus-per-task": site.cpus_per_task,
        "mem": site.memory,
        "time": resources.time,
        "signal": f"USR1@{site.warn_s}",
        "array": array,
        "output": LOG if array is None else ARRAY_LOG,
        "open-mode": "append",
    }
    given = [f"--{key}={value}" for key, value in chosen.items() if value is not None]
    options = [*given, "--requeue", *site.sbatch]
    for option in options:
        if "\n" in option or "\r" in option:
            raise ValueError(f"{option!r}: an option of sbatch is one line")
    return options


def _expanded(value: str) -> str:
    """A word of the shell in which `$NAME` and `${NAME}` alone are the shell's; `$$` is a dollar sign."""
    parts = []
    for text, name, braced in re.findall(VARIABLE, value):
        if name or braced:
            parts.append(f'"${{{name or braced}}}"')
        else:
            parts.append(shlex.quote("$" if text == "$$" else text))
    return "".join(parts) or "''"


def _module(name: str) -> list[str]:
    said = shlex.quote(f"module load {name} failed: see modules in the site's file")
    return [
        f"module load {shlex.quote(name)}",
        f"[ $? -eq 0 ] || {{ echo {said} >&2; exit 1; }}",
    ]


def _line(site: Site, python: str, arguments: list[str]) -> str:
    front = f"{site.container} " if site.container else ""
    return front + " ".join(_quoted(word) for word in (python, *arguments))


def _quoted(word: str) -> str:
    return f'"{word}"' if re.fullmatch(r"\$[A-Z_]+", word) else shlex.quote(word)
