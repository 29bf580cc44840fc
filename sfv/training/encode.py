"""Training from video: batches are encoded as they come."""

from typing import Any

import pytorch_lightning as pl


class EncodeVideo(pl.Callback):
    """Turns batches of video into latents with the learner's codec, on the learner's device.

    For `data.read: video`. Encoding costs time in every step; `python -m data_tools.encode_latents` does it
    once.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        encode(pl_module.codec, batch)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        encode(pl_module.codec, batch)


def encode(codec: Any, batch: dict[str, Any]) -> None:
    """Put latents in the place of a batch's video."""
    if "video" in batch:
        batch["latents"] = codec.encode(batch.pop("video").float() / 255)
