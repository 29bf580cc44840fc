"""What a training trial tells its study: the objective after each validation."""

import pytorch_lightning as pl

from experiments.cluster.study import Study


class Report(pl.Callback):
    """Notes the objective and stops training that is not worth going on with.

    Args:
        study: None on ranks other than 0.
        number: of the trial.
        objective: what validation logs, e.g. `val/loss`.
        prune: whether to ask the study if the trial should stop.
    """

    def __init__(self, study: Study | None, number: int, objective: str, prune: bool) -> None:
        self.study, self.number = study, number
        self.objective, self.prune = objective, prune
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report.

        Raises:
            ValueError: validation does not log the objective.
        """
        if trainer.sanity_checking:
            return
        if self.objective not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"objective {self.objective!r} is not logged; logged are: {logged}")
        hopeless = False
        if self.study is not None:
            value = float(trainer.callback_metrics[self.objective])
            hopeless = self.study.report(self.number, trainer.global_step, value)
        if self.prune and trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            self.pruned = trainer.should_stop = True
