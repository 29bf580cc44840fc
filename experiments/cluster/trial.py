"""One task of a sweep's job array: begin or go on with one trial, train, note the outcome.

python -m experiments.cluster.trial prepare FOLDER NUMBER   (one process)
python -m experiments.cluster.trial fit FOLDER NUMBER       (every process of the trial)
python -m experiments.cluster.trial failed FOLDER NUMBER CODE   (one process, after a failure)
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cluster.sweep_file import Sweep, flags, load_sweep
from sfv.files import read_json, write_json
from sfv.texts import printable
from sfv.training import signals

SWEEP = "sweep.yaml"
CONFIG = "base.yaml"


def settings_file(folder: Path, number: int) -> Path:
    """What a trial tries; not in its run folder, which `sfv fit` makes."""
    return folder / "settings" / f"{number:04d}.json"


def trial_folder(folder: Path, number: int) -> Path:
    """The run folder of a trial."""
    return folder / f"trial-{number:04d}"


def fit_flags(folder: Path, sweep: Sweep, number: int, settings: dict[str, Any]) -> list[str]:
    """Flags of `sfv fit` for a trial."""
    return [
        f"--config={folder / CONFIG}",
        *flags(sweep.overrides),
        *flags(settings),
        *sweep.resources.flags(),
        f"--out={trial_folder(folder, number)}",
    ]


def prepare(folder: Path, number: int) -> None:
    """Choose a trial's settings, or find those of before, and write them down."""
    from experiments.cluster.study import Study

    study = Study(folder, load_sweep(folder / SWEEP), number)
    trial = study.start(number)
    if trial is not None:
        write_json(settings_file(folder, number), study.settings(trial))


def fit(folder: Path, number: int) -> None:
    """Train a trial; rank 0 notes what came of it."""
    from experiments.cluster.study import Study

    sweep = load_sweep(folder / SWEEP)
    is_first = int(os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0) == 0
    study = Study(folder, sweep, number) if is_first else None
    if study is not None and study.trials()[number].state.is_finished():
        return
    settings = read_json(settings_file(folder, number))
    try:
        pruned = _train(fit_flags(folder, sweep, number, settings), sweep, study, number)
    except Exception as error:
        from sfv.training.attempts import StaleAttempt

        if study is not None and not isinstance(error, StaleAttempt):
            study.fail(number, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise
    if study is not None:
        print(f"trial {number}: {study.prune(number) if pruned else study.finish(number)}")


def failed(folder: Path, number: int, code: int) -> None:
    """Note that a trial's processes died; one that could say why has done so."""
    from experiments.cluster.study import Study

    number_of_signal = code - 128
    known = number_of_signal in signal.valid_signals()
    reason = f"exit code {code}" + (f": {signal.strsignal(number_of_signal)}" if known else "")
    Study(folder, load_sweep(folder / SWEEP)).fail(number, f"{reason}; its log may say more")


def _train(args: list[str], sweep: Sweep, study: Any, number: int) -> bool:
    from experiments.cluster.report import Report
    from sfv.training.fit import fit as fit_run

    report = Report(study, number, sweep.objective, sweep.prune)
    fit_run(args, [report])
    return report.pruned


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step of a trial."""
    step, folder, *numbers = sys.argv[1:] if argv is None else argv
    steps: dict[str, Callable[..., None]] = {"prepare": prepare, "fit": fit, "failed": failed}
    with signals.caught():  # before torch is imported
        try:
            steps[step](Path(folder), *map(int, numbers))
        except (ValueError, OSError) as error:
            print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
