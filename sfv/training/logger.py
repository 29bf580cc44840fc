"""Lightning's TensorBoard logger, as every training uses it."""

from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger


def tensorboard_logger(folder: Path) -> TensorBoardLogger:
    """One event folder per run, so that a resumed run stays one curve."""
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
