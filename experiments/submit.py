"""Start one training run on a SLURM cluster.

python -m experiments.submit --config experiments/configs/doom/tiny.yaml --gpus-per-node 8 --time 4:00:00
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cluster import slurm
from experiments.cluster.script import SCRIPT, Resources, render
from experiments.cluster.site import Site, load_site
from sfv.files import plain_name, write_bytes, write_json

FIT = "fit.yaml"
JOB = "job.json"


@dataclass(frozen=True)
class Run:
    """A checked run, not yet on disk.

    Attributes:
        folder: the run folder.
        config: all settings, as `sfv fit` will write them.
        fit: the settings to start from; unlike `config` without what follows from others.
        script: the batch script.
    """

    folder: Path
    config: str
    fit: str
    script: str


def check(flags: Sequence[str], site: Site, resources: Resources) -> Run:
    """Parse and construct everything as `sfv fit` will, here and now.

    Args:
        flags: of `sfv fit`.
        site: the cluster's defaults.
        resources: what the job asks for.

    Raises:
        ValueError: a setting or the data is wrong.
        SystemExit: a flag is wrong; jsonargparse has said which.
    """
    from sfv.training.fit import LoginNodeCLI, parse, resolved

    cli = parse([*flags, *resources.flags()], LoginNodeCLI)
    folder = Path(cli.config.out)
    script = render(folder.name, fit_command(folder), site, resources)
    settings: str = cli.parser.dump(cli.config, skip_unset=False)
    with tempfile.TemporaryDirectory() as scratch:
        # Read it once as the job will: 1000 may come back as 1000.0, and then be another run's.
        again = Path(scratch) / FIT
        again.write_text(settings)
        return Run(folder, resolved(parse([f"--config={again}"], LoginNodeCLI)), settings, script)


def fit_command(folder: Path) -> list[str]:
    """Arguments of Python that train in a run folder."""
    return ["-m", "sfv.cli", "fit", f"--config={folder / FIT}"]


def write(run: Run) -> Path:
    """Make the run folder, or take the same run's folder over.

    Returns:
        the batch script.

    Raises:
        FileExistsError: the folder belongs to another run, or its job is still there.
    """
    from sfv.training.run_folder import open_run_folder

    refuse_alive(run.folder)
    open_run_folder(run.folder, run.config)
    write_bytes(run.folder / FIT, run.fit.encode())
    write_bytes(run.folder / SCRIPT, run.script.encode())
    return run.folder / SCRIPT


def refuse_alive(folder: Path) -> None:
    """Check that no job works in a folder.

    Raises:
        FileExistsError: names the job.
    """
    job = job_of(folder)
    if job is not None and slurm.alive(job):
        raise FileExistsError(
            f"{folder}: job {job} of this folder is still there; wait, end it with `scancel {job}`, or "
            "give another --out"
        )


def job_of(folder: Path) -> str | None:
    """The job that was submitted last from a folder."""
    path = folder / JOB
    if not path.exists():
        return None
    return plain_name(str(json.loads(path.read_text())["id"]), f"{path}: job")


def submit(script: Path) -> str:
    """Submit a folder's script and note the job's id in the folder."""
    job = slurm.submit(script)
    write_json(script.parent / JOB, {"id": job})
    return job


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="experiments.submit",
        description="Check a config, make its run folder and submit it to SLURM.",
        epilog="Flags of `sfv fit` follow after --, e.g. -- --trainer.max_steps=100",
    )
    p.add_argument("--config", required=True, help="of `sfv fit`")
    p.add_argument("--out", help="run folder; default: the config's `out`")
    add_job_options(p)
    p.add_argument("--dry-run", action="store_true", help="print the batch script, write nothing")
    p.add_argument("--local", action="store_true", help="run the folder here, without SLURM")
    p.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    return p


def add_job_options(p: argparse.ArgumentParser) -> None:
    """Options for where and how long a job runs."""
    p.add_argument("--site", type=Path, help="YAML with the cluster's defaults; default: $SFV_SITE")
    p.add_argument("--nodes", type=int, default=1)
    p.add_argument("--gpus-per-node", type=int, default=0, help="0 trains on CPUs")
    p.add_argument("--tasks-per-node", type=int, default=1, help="processes where there is no GPU")
    p.add_argument("--time", default="24:00:00", help="limit, hours:minutes:seconds")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    flags = [f"--config={args.config}", *args.flags]
    flags += [] if args.out is None else [f"--out={args.out}"]
    try:
        resources = Resources(args.nodes, args.gpus_per_node, args.tasks_per_node, args.time)
        run = check(flags, load_site(args.site), resources)
        if args.dry_run:
            print(run.script, end="")
            return 0
        script = write(run)
        if args.local:
            return subprocess.run(["bash", str(script)], check=False).returncode
        job = submit(script)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"job {job}\nfolder: {run.folder}\nlog: {run.folder / f'slurm-{job}.out'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
