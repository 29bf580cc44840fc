"""The loop on two real processes with uneven episodes: it does not hang, and goes on exactly."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.make import make_data

SCRIPT = """
import json, logging, sys
from dataclasses import replace
from pathlib import Path
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from sfv.backbones.video_unet import PRESETS
from sfv.training.sharded_strategy import ShardedStrategy
from sfv.training.sharding import sharded_modules, whole
from sfv.training.slow_fast import fit_slow_fast
from tests.training.loop import SETTINGS
from tests.training.make import Data, make_datamodule, make_learner, make_trainer

torch.set_num_threads(1)
PRESETS["tiny"] = replace(PRESETS["tiny"], block_out_channels=(16, 16), norm_num_groups=8)
folder, steps, out = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
strategy = ShardedStrategy() if sys.argv[4] == "shards" else "ddp"
data = Data(folder / "data", folder / "data" / "codec.safetensors", 2)

class Uneven(pl.LightningDataModule):
    # Rank 0 learns two pairs of each episode, rank 1 one.
    def __init__(self):
        super().__init__()
        self.inner = make_datamodule(data, "episodes")
    def train_dataloader(self):
        self.inner.trainer = self.trainer
        stream = self.inner.train_dataloader()
        make, num = stream.make, 2 - self.trainer.global_rank
        def shorter(found):
            episode = make(found)
            return {**episode, "pairs": episode["pairs"][:num], "actions": episode["actions"][:num]}
        stream.make = shorter
        return stream
    def val_dataloader(self):
        self.inner.trainer = self.trainer
        return self.inner.val_dataloader()

class Losses(pl.Callback):
    def __init__(self):
        self.rows = []
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append([trainer.global_step, batch["keys"], outputs["loss"].item()])
    def on_validation_end(self, trainer, pl_module):
        self.rows.append(["val", trainer.callback_metrics["val/loss"].item()])

class Rows(pl.loggers.logger.DummyLogger):
    repeated = []
    def log_metrics(self, metrics, step=None):
        if "slow/repeated" in metrics:
            self.repeated.append(metrics["slow/repeated"])

settings = replace(SETTINGS, episodes_per_group=1, start="learned")
losses, rows = Losses(), Rows()
checkpoint = ModelCheckpoint(
    folder / "checkpoints", "newest", every_n_train_steps=1, enable_version_counter=False
)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy=strategy, max_steps=steps, callbacks=[losses, checkpoint],
    logger=rows, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    check_val_every_n_epoch=None, val_check_interval=2, default_root_dir=folder,
)
learner = make_learner(data, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
newest = folder / "checkpoints" / "newest.ckpt"
fit_slow_fast(trainer, learner, Uneven(), settings, str(newest) if newest.exists() else None)
assert bool(sharded_modules(learner)) == (strategy != "ddp")
with whole(learner, keep=True):
    weights = torch.cat([p.detach().flatten() for p in learner.parameters()]).double()
start = trainer.fit_loop.fast_loop.phase.learner.start.double()
found = {
    "rows": losses.rows, "repeated": rows.repeated,
    "sums": [weights.sum().item(), weights.cos().sum().item(), start.cos().sum().item()],
}
Path(f"{out}-{trainer.global_rank}.json").write_text(json.dumps(found))
"""


def two_ranks(folder: Path, steps: int, out: Path, strategy: str = "ddp") -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {
        **os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                SCRIPT,
                str(folder),
                str(steps),
                str(out),
                strategy,
            ],
            cwd=Path(__file__).parents[2],
            env={**base, "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_ranks_with_unequal_numbers_of_chunks_march_alike_and_go_on(tmp_path):
    """Rank 1 repeats its one pair; both end with one Φ, one Θ_0; cut in a group, they go on exactly."""
    for name in ("whole", "cut"):
        make_data(tmp_path / name / "data", 5, 2, (4, 6), 4)
    whole = two_ranks(tmp_path / "whole", 5, tmp_path / "whole" / "end")
    first, second = whole
    assert first["sums"] == second["sums"], "Φ and Θ_0 are the same on both ranks"
    steps = [[row for row in rank["rows"] if row[0] != "val"] for rank in whole]
    assert [len(rank) for rank in steps] == [5, 5]
    assert {len(set(map(str, (a[1], b[1])))) for a, b in zip(steps[0], steps[1], strict=True)} == {
        2
    }
    assert steps[1][0][1] == steps[1][1][1], "repeated"
    assert first["repeated"] == [1.0] * 3 and len(second["repeated"]) == 3
    two_ranks(tmp_path / "cut", 3, tmp_path / "cut" / "first")
    again = two_ranks(tmp_path / "cut", 5, tmp_path / "cut" / "end")
    for rank in range(2):
        assert again[rank]["sums"] == whole[rank]["sums"]
        num = len(again[rank]["rows"])
        assert num > 0 and again[rank]["rows"] == whole[rank]["rows"][-num:]


@pytest.mark.slow
def test_shards_learn_what_whole_copies_learn_and_go_on_in_the_middle_of_a_group(tmp_path):
    """Ranks take unequal numbers of fast steps, in training and validation; none waits for another."""
    for name in ("ddp", "shards"):
        make_data(tmp_path / name / "data", 5, 2, (4, 6), 4)
    expected = two_ranks(tmp_path / "ddp", 5, tmp_path / "ddp" / "end")
    first = two_ranks(tmp_path / "shards", 3, tmp_path / "shards" / "first", "shards")
    kept = {path.name: path.is_dir() for path in (tmp_path / "shards" / "checkpoints").iterdir()}
    assert kept == dict.fromkeys(["newest.ckpt", "newest.previous.ckpt"], True)
    again = two_ranks(tmp_path / "shards", 5, tmp_path / "shards" / "end", "shards")
    for rank in range(2):
        found = first[rank]["rows"] + again[rank]["rows"]
        losses = {str(row[:-1]): row[-1] for row in found if row[0] != "val"}
        wanted = {str(row[:-1]): row[-1] for row in expected[rank]["rows"] if row[0] != "val"}
        assert losses == pytest.approx(wanted, rel=1e-4)
        assert [row[1] for row in found if row[0] == "val"] == pytest.approx(
            [row[1] for row in expected[rank]["rows"] if row[0] == "val"], rel=1e-4
        )
        assert again[rank]["sums"] == pytest.approx(expected[rank]["sums"], rel=1e-5)
