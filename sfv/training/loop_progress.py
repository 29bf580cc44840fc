"""A progress bar for both phases: "Group 3, fast" counts chunk pairs, "Group 3, slow" slow batches."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar


class LoopBar(TQDMProgressBar):
    """Lightning's bar, which also moves in the fast phase and counts groups, not "Epoch 3/-2"."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Group {trainer.current_epoch}")

    def on_fast_phase_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, num_pairs: int
    ) -> None:
        self._begin(trainer, "fast", num_pairs)

    def on_fast_chunk_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, reports: list[object]
    ) -> None:
        self.train_progress_bar.update(len(reports))
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_slow_phase_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, num_batches: int
    ) -> None:
        self._begin(trainer, "slow", num_batches)

    def _begin(self, trainer: pl.Trainer, phase: str, total: int) -> None:
        self.train_progress_bar.reset(total)
        self.train_progress_bar.set_description(f"Group {trainer.current_epoch}, {phase}")


def use_loop_bar(trainer: pl.Trainer) -> None:
    """Put the bar in the place of one of Lightning's own; a bar that a user made stays."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for place, callback in enumerate(callbacks):
        if type(callback) in (TQDMProgressBar, RichProgressBar):
            assert isinstance(callback, ProgressBar)
            callbacks[place] = LoopBar(getattr(callback, "refresh_rate", 1))
