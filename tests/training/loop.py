"""What the tests of the slow-fast loop share."""

from contextlib import contextmanager

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from sfv.backbones.base import base_state_dict
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.training.slow_fast import ReplayMemory, SlowFastSettings, fit_slow_fast, with_memories
from tests.training import make
from tests.training.make import make_datamodule, make_trainer, weights_of

SETTINGS = SlowFastSettings(
    episodes_per_group=2,
    lora=LoRASettings(r=2, alpha=2.0),
    fast=FastSettings(num_steps=1, learning_rate=1e-2, probe_draws=0),
    seed=11,
)
PAIRS = 2
"""Chunk pairs of an episode: with f_p = 3 the first two of its four actions have no window."""


class Record(pl.Callback):
    """What happened around every slow step."""

    def __init__(self):
        self.epoch_starts, self.first_steps = [], []
        self.batches, self.memories, self.losses = [], [], []
        self.outside = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epoch_starts.append(phi(pl_module))
        self.outside += theta(trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.outside += theta(trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.first_steps.append(phi(pl_module))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.memories.append(theta(trainer))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.losses.append(outputs["loss"].detach().clone())


def phi(learner):
    weights = {k: v.clone() for k, v in base_state_dict(learner.denoiser).items()}
    return weights | {f"text.{k}": v for k, v in weights_of(learner.text).items()}


def theta(trainer):
    """(A, B) that act in every adapted layer right now; None where Φ is alone."""
    (replay,) = (c for c in trainer.callbacks if isinstance(c, ReplayMemory))
    return [layer.active for layer in replay.learner.weights.layers]


def num_hooks(learner):
    return sum(len(module._forward_hooks) for module in learner.denoiser.modules())


def fit(data, steps, settings=SETTINGS, callbacks=(), trainer=None, **changes):
    learner, record = make.make_learner(data, **changes), Record()
    trainer = trainer or make_trainer(steps, [*callbacks, record])
    fit_slow_fast(trainer, learner, make_datamodule(data, "episodes"), settings)
    return learner, record, trainer


class Logger(pl.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


class Episodes(pl.LightningDataModule):
    """Training episodes given as a list; validation as usual."""

    def __init__(self, data, episodes):
        super().__init__()
        self.data, self.episodes = data, episodes

    def train_dataloader(self):
        return DataLoader(self.episodes, batch_size=None)

    def val_dataloader(self):
        return make_datamodule(self.data, "episodes").val_dataloader()


@contextmanager
def phase_of(data, settings=SETTINGS, **changes):
    """A fast phase around a new learner, both alive inside."""
    learner = make.make_learner(data, **changes)
    with with_memories(make_trainer(1), learner, settings) as phase:
        phase.slow = learner
        yield phase


def learned(phase, episodes, visits=0):
    """Learn a group; its replay."""
    phase.replay.begin(1)
    reports = []
    phase.learn(phase.courses(episodes, visits), reports.extend)
    assert len(reports) == len(phase.replay)
    return phase.replay.items


def numbered(data):
    return enumerate(make_datamodule(data, "episodes").train_dataloader())


def cut(data, lengths):
    """Episodes with their first pairs alone."""
    return [
        {**episode, "pairs": episode["pairs"][:n], "actions": episode["actions"][:n]}
        for n, (_, episode) in zip(lengths, numbered(data), strict=True)
    ]
