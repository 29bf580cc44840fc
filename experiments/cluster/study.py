"""The trials of a sweep in an Optuna journal: one file that many processes may write.

Trial number n is task n of the SLURM array and the run folder trial-n, from the start: nothing is
made up later, so everything can be accounted for.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.cluster.journal import mend
from experiments.cluster.sweep_file import (
    SEED,
    Choice,
    Method,
    Parameter,
    Sweep,
    combinations,
    num_trials,
)
from sfv.rng import seed_of

JOURNAL = "study.journal"
NAME = "sweep"
REASON = "reason"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The trials of one sweep.

    Args:
        folder: of the sweep.
        sweep: its file.
        number: of the trial that this process works on; None where none is drawn.

    Raises:
        ValueError: the journal is damaged; names the line.
    """

    def __init__(self, folder: Path, sweep: Sweep, number: int | None = None) -> None:
        self.sweep = sweep
        # The lock is a link to the journal. Optuna takes over a dead holder's lock by its age, which it
        # reads through the link: that needs the whole path.
        journal = (folder / JOURNAL).resolve()
        lock = JournalFileSymlinkLock(str(journal))
        mend(journal, lock)
        try:
            self.storage = JournalStorage(JournalFileBackend(str(journal), lock))
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=NAME,
                direction=sweep.direction.value,
                sampler=_sampler(sweep, number),
                pruner=_pruner(sweep),
                load_if_exists=True,
            )
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise ValueError(f"{journal} is no journal of a sweep ({error!r})") from error

    def fill(self) -> None:
        """Add the trials that are missing, all waiting."""
        known = len(self.trials())
        if self.sweep.method is Method.grid:
            fixed: list[dict[str, Any]] = list(combinations(self.sweep))
        else:
            fixed = [{}] * num_trials(self.sweep)
        for settings in fixed[known:]:
            self.study.enqueue_trial(settings)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self.study.get_trials(deepcopy=False)

    def start(self, number: int) -> Trial | None:
        """Begin a trial, or go on with it; None when it has ended."""
        frozen = self.trials()[number]
        if frozen.state.is_finished():
            return None
        if frozen.state is TrialState.WAITING:
            self.storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return Trial(self.study, frozen._trial_id)

    def settings(self, trial: Trial) -> dict[str, Choice]:
        """What a trial tries; the same again when it goes on."""
        found = {name: _suggest(trial, name, p) for name, p in self.sweep.space.items()}
        return {**found, SEED: trial.suggest_categorical(SEED, self.sweep.seeds)}

    def finish(self, number: int) -> str:
        """End a trial with its last value, and say how.

        Returns:
            `COMPLETE`, or why there is no value.
        """
        frozen = self.trials()[number]
        if frozen.state.is_finished():  # it was stopped at the last moment
            return f"{frozen.state.name} already"
        measured = frozen.intermediate_values
        value = measured[max(measured)] if measured else None
        if value is None or not math.isfinite(value):
            reason = f"{self.sweep.objective} is {'not measured' if value is None else value}"
            self.fail(number, reason)
            return reason
        self.study.tell(number, value)
        return TrialState.COMPLETE.name

    def report(self, number: int, step: int, value: float) -> bool:
        """Note the objective at a slow step; a step that is repeated is noted once.

        Returns:
            whether the trial should be stopped, being worse than the others were.
        """
        frozen = self.trials()[number]
        if step not in frozen.intermediate_values:
            self.storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        return bool(self.study.pruner.prune(self.study, self.trials()[number]))

    def prune(self, number: int) -> str:
        """End a trial that was stopped early."""
        frozen = self.trials()[number]
        if not frozen.state.is_finished():
            self.study.tell(number, state=TrialState.PRUNED)
        return f"{TrialState.PRUNED.name} at slow step {max(frozen.intermediate_values)}"

    def fail(self, number: int, reason: str) -> None:
        """End a trial without a value."""
        frozen = self.trials()[number]
        if not frozen.state.is_finished():
            self.storage.set_trial_user_attr(frozen._trial_id, REASON, reason)
            self.storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def best(self) -> list[FrozenTrial]:
        """Completed trials, the best first."""
        complete = [t for t in self.trials() if t.state is TrialState.COMPLETE]
        sign = 1 if self.sweep.direction.value == "minimize" else -1
        return sorted(complete, key=lambda t: (sign * (t.value or 0.0), t.number))


def _sampler(sweep: Sweep, number: int | None) -> BaseSampler:
    seed = seed_of(sweep.seeds[0], "sweep", number or 0) % 2**32
    if sweep.method is Method.tpe:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, constant_liar=True)  # others run at the same time
    return RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> BasePruner:
    return MedianPruner() if sweep.prune else NopPruner()


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Choice:
    if parameter.values is not None:
        choice: Choice = trial.suggest_categorical(name, parameter.values)
        return choice
    assert parameter.low is not None and parameter.high is not None
    if parameter.integer:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
