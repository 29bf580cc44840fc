"""Two real processes: uneven shards, equal numbers of batches, each window once."""

from collections import Counter
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from sfv.data.datamodule import EpisodeDataModule
from sfv.data.shards import write_shards
from tests.data.make import CHUNK, latents_sample

LENGTHS = (9, 2, 2, 3, 2)
"""Chunks of the episodes; a window each but for the first: 8 + 1 + 1 + 2 + 1."""


class Keys(pl.LightningModule):
    """Writes down what each rank trains and validates on."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.note("train", batch)
        return (batch["latents"] * self.weight).mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.note("val", batch)

    def note(self, split: str, batch: dict) -> None:
        with (self.folder / f"{split}-{self.trainer.world_size}-{self.global_rank}").open("a") as f:
            f.write(" ".join(batch["keys"]) + "\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, ranks: int, steps: int, resume: Path | None = None) -> None:
    data = EpisodeDataModule(
        str(folder / "shards"), str(folder / "shards"), num_context=CHUNK, num_generated=CHUNK,
        batch_size=2, shuffle_buffer=6,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp_spawn" if ranks > 1 else "auto",
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="newest", every_n_train_steps=2)],
        num_sanity_val_steps=0, default_root_dir=folder,
        check_val_every_n_epoch=None, val_check_interval=2,
    )  # fmt: skip
    trainer.fit(Keys(folder), data, ckpt_path=resume, weights_only=True)


def noted(folder: Path, split: str, ranks: int) -> list[list[str]]:
    return [(folder / f"{split}-{ranks}-{rank}").read_text().split() for rank in range(ranks)]


@pytest.mark.slow
def test_two_ranks_share_an_epoch_and_one_goes_on_with_the_rest(tmp_path: Path) -> None:
    samples = [latents_sample(f"e-{i}", num) for i, num in enumerate(LENGTHS)]
    write_shards(samples, tmp_path / "shards", "train", max_bytes=1)
    fit(tmp_path, ranks=2, steps=2)
    train, val = noted(tmp_path, "train", 2), noted(tmp_path, "val", 2)
    assert [len(keys) for keys in train] == [4, 4], "two batches of two each: none waits"
    assert len(set(train[0] + train[1])) == 8
    counts = Counter(val[0] + val[1])
    assert len(counts) == 13 and set(counts.values()) == {1}, "validation is shared too"

    fit(tmp_path, ranks=1, steps=2 + 3, resume=tmp_path / "newest.ckpt")
    (rest,) = noted(tmp_path, "train", 1)
    assert len(rest) == 13 - 8, "three batches: 2, 2 and 1"
    counts = Counter([*train[0], *train[1], *rest])
    assert len(counts) == 13 and set(counts.values()) == {1}
