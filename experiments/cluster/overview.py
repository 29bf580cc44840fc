"""What became of a sweep's trials, and how to end it."""

from collections import Counter
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from experiments import submit
from experiments.cluster import slurm
from experiments.cluster.launch import IN_USE
from experiments.cluster.study import JOURNAL, REASON, Study
from experiments.cluster.sweep_file import Sweep
from experiments.cluster.trial import trial_folder
from sfv.files import locked

GONE = slurm.ENDED | {""}
LOST = "LOST"
"""A trial that began and has no process any more; starting the sweep again goes on with it."""


def status_lines(folder: Path, sweep: Sweep) -> list[str]:
    """One line a trial, then how many there are of each kind."""
    study = _open(folder, sweep)
    tasks = _known_tasks(folder)
    states = {t.number: state_of(t, tasks) for t in study.trials()}
    lines = [_line(t, states[t.number]) for t in study.trials()]
    counts = Counter(states.values())
    total = ", ".join(f"{counts[state]} {state.lower()}" for state in sorted(counts))
    hint = [] if LOST not in counts else ["lost trials go on when the sweep is started again"]
    return [*lines, f"{len(lines)} trials: {total}", *hint]


def best_lines(folder: Path, sweep: Sweep, num: int = 5) -> list[str]:
    """The best completed trials with their folders.

    Raises:
        ValueError: none is complete.
    """
    best = _open(folder, sweep).best()[:num]
    if not best:
        raise ValueError(f"{folder}: no trial is complete yet; see the status")
    return [f"{_line(t, t.state.name)}  {trial_folder(folder, t.number)}" for t in best]


def stop(folder: Path, sweep: Sweep) -> list[str]:
    """Cancel the job and end all trials that have not ended.

    Raises:
        FileExistsError: the sweep runs on this computer, in another command.
    """
    study = _open(folder, sweep)
    with locked(folder, IN_USE):
        job = submit.job_of(folder)
        if job is not None and slurm.alive(job):
            slurm.cancel(job)
        ended = [t.number for t in study.trials() if not t.state.is_finished()]
        for number in ended:
            study.fail(number, "stopped")
    return [f"{len(ended)} trials stopped", *status_lines(folder, sweep)[-1:]]


def state_of(trial: FrozenTrial, tasks: dict[str, str] | None) -> str:
    """A trial's state in the study; one that has no process any more is lost.

    Args:
        trial: as the study knows it.
        tasks: SLURM's states; None while the sweep runs on this computer.
    """
    running = trial.state is TrialState.RUNNING
    if running and tasks is not None and tasks.get(str(trial.number), "") in GONE:
        return LOST
    return trial.state.name


def _known_tasks(folder: Path) -> dict[str, str] | None:
    try:
        with locked(folder, IN_USE):
            job = submit.job_of(folder)
            return {} if job is None else slurm.states(job)
    except FileExistsError:
        return None


def _open(folder: Path, sweep: Sweep) -> Study:
    if not (folder / JOURNAL).exists():
        raise ValueError(f"{folder}: no sweep was started there")
    return Study(folder, sweep)


def _line(trial: FrozenTrial, state: str) -> str:
    known = trial.params or trial.system_attrs.get("fixed_params", {})
    settings = " ".join(f"{name}={value}" for name, value in known.items())
    reason = trial.user_attrs.get(REASON)
    value = "-" if trial.value is None else f"{trial.value:.5g}"
    return f"{trial.number:4} {state:<8} {value:>9}  {settings}" + (
        f"  ({reason})" if reason else ""
    )
