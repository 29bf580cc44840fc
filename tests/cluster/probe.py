"""A callback that notes what a run does and holds it at places where a test wants to interfere."""

import time
from pathlib import Path

import pytorch_lightning as pl

from sfv.training import signals


class Probe(pl.Callback):
    """Writes `losses-RANK` beside the run folder and waits at gates.

    A file `gates/PLACE` holds a run at that place until the signal named in it came, or it is removed;
    `PLACE.reached` tells that it is there. Places: `train-STEP-RANK`, `val-STEP-RANK`.
    """

    folder = Path()

    def setup(self, trainer, pl_module, stage):
        self.folder = Path(f"{trainer.default_root_dir} probed")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.hold(f"train-{trainer.global_step}-{trainer.global_rank}")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.hold(f"val-{trainer.global_step}-{trainer.global_rank}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.note(trainer, trainer.global_step, *batch["keys"], outputs["loss"].item().hex())

    def on_validation_end(self, trainer, pl_module):
        value = trainer.callback_metrics["val/loss"].item()
        self.note(trainer, "val", trainer.global_step, value.hex())

    def note(self, trainer, *words):
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"losses-{trainer.global_rank}").open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def hold(self, place):
        gate = self.folder / "gates" / place
        if not gate.exists():
            return
        asked = gate.read_text()
        gate.with_suffix(".reached").touch()
        while gate.exists() and not signals.received(asked):
            time.sleep(0.02)
        gate.unlink(missing_ok=True)
