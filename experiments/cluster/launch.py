"""Start a sweep, or what is left of it: as one SLURM job array, or some processes at a time here."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from experiments import submit
from experiments.cluster import slurm
from experiments.cluster.script import SCRIPT, render
from experiments.cluster.site import Site
from experiments.cluster.study import Study
from experiments.cluster.sweep_file import Sweep, combinations, load_sweep
from experiments.cluster.trial import CONFIG, SWEEP, fit_flags
from sfv.files import claim_folder, locked, write_bytes
from sfv.texts import read_text

IN_USE = "another command is running this sweep; wait for it, or end it"
TASK = "$SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True)
class Launch:
    """How to start.

    Attributes:
        site: the cluster's defaults.
        local: trials at a time on this computer; None submits to SLURM.
        dry_run: print the batch script only.
    """

    site: Site
    local: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.local is not None and self.local < 1:
            raise ValueError(f"--local {self.local}: give 1 or more trials at a time")


def start(file: Path, launch: Launch) -> int:
    """Make the sweep's folder and start all trials that have not ended.

    Returns:
        an exit code: 1 if a local trial failed.

    Raises:
        ValueError: a setting is wrong.
        FileExistsError: the folder belongs to another sweep, or this one runs.
    """
    sweep = load_sweep(file)
    folder = Path(sweep.out)
    _check_flags(file, sweep)
    if launch.dry_run:
        print(_script(folder, sweep, launch.site, [0]), end="")
        return 0
    claim_folder(folder, SWEEP, "a sweep")
    with locked(folder, IN_USE):
        _write(file, folder, sweep)
        submit.refuse_alive(folder)
        study = Study(folder, sweep)
        study.fill()
        left = [t.number for t in study.trials() if not t.state.is_finished()]
        if not left:
            print(f"all {len(study.trials())} trials have ended")
            return 0
        write_bytes(folder / SCRIPT, _script(folder, sweep, launch.site, left).encode())
        if launch.local is not None:
            return _run_here(folder, left, launch.local)
        job = submit.submit(folder / SCRIPT)
    number = slurm.number_of(job)
    print(f"job {number}: {len(left)} trials, {sweep.parallel} at a time\nfolder: {folder}")
    return 0


def _check_flags(file: Path, sweep: Sweep) -> None:
    """Parse and construct what the first trial will, so that a wrong name ends here."""
    from sfv.training.fit import LoginNodeCLI, parse

    first = {
        name: p.values[0] if p.values else int(p.low or 0) if p.integer else p.low
        for name, p in sweep.space.items()
    }
    grid = list(combinations(sweep)) if sweep.trials is None else [first]
    for settings in grid[:: max(1, len(grid) - 1)]:  # the first and the last
        args = fit_flags(Path(sweep.out), sweep, 0, dict(settings))
        parse([f"--config={sweep.config}", *args[1:]], LoginNodeCLI)


def _write(file: Path, folder: Path, sweep: Sweep) -> None:
    """Keep copies: trials that start later must not see what was edited meanwhile."""
    from sfv.run_folder import first_difference

    text = read_text(file)
    if (folder / SWEEP).exists():
        difference = first_difference(read_text(folder / SWEEP), text)
        if difference:
            raise FileExistsError(
                f"{folder} belongs to another sweep: its {SWEEP} differs ({difference}). Give another "
                "`out`, or the file of then to go on with it"
            )
        return
    write_bytes(folder / CONFIG, Path(sweep.config).read_bytes())
    write_bytes(folder / SWEEP, text.encode())


def _script(folder: Path, sweep: Sweep, site: Site, numbers: list[int]) -> str:
    module = ["-m", "experiments.cluster.trial"]
    return render(
        folder.name,
        [*module, "fit", str(folder), TASK],
        site,
        sweep.resources,
        [*module, "prepare", str(folder), TASK],
        f"{_ranges(numbers)}%{sweep.parallel}",
        [*module, "failed", str(folder), TASK],
    )


def _ranges(numbers: list[int]) -> str:
    """Write 0, 1, 2, 5 as SLURM does: 0-2,5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def _run_here(folder: Path, numbers: list[int], at_a_time: int) -> int:
    def run(number: int) -> int:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            "SLURM_ARRAY_TASK_ID": str(number),
        }
        with (folder / f"local_{number}.out").open("a") as log:
            command = ["bash", str(folder / SCRIPT)]
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
        return done.returncode

    with ThreadPoolExecutor(at_a_time) as pool:
        codes = list(pool.map(run, numbers))
    bad = [n for n, code in zip(numbers, codes, strict=True) if code]
    print(f"{len(numbers) - len(bad)} of {len(numbers)} trials ended well; folder: {folder}")
    if bad:
        print(f"trials {_ranges(bad)} did not: see {folder}/local_NUMBER.out")
    return 1 if bad else 0
