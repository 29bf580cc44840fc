import inspect
from dataclasses import dataclass, replace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loops import fit_loop as lightning_fit
from pytorch_lightning.loops import training_epoch_loop as lightning_epoch
from pytorch_lightning.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.progress import _Progress
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from sfv import rng
from sfv.fast.learner import FastSettings
from sfv.models.temporal_lora import TemporalLoRA, base_state_dict
from sfv.training.loops import FastLoop, ReplayFetcher, ReplayItem
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import (
    LoRASettings,
    ReplayMemory,
    SlowFastSettings,
    fit_slow_fast,
    make_learner,
)
from tests.training import make
from tests.training.make import make_datamodule, make_trainer, same, weights_of
from tests.training.test_slow import Validations, denoising_loss, still

SETTINGS = SlowFastSettings(
    episodes_per_group=2,
    lora=LoRASettings(r=2, alpha=2.0),
    fast=FastSettings(num_steps=1, learning_rate=1e-2, probe_draws=0),
    seed=11,
)
PAIRS = 2
"""Chunk pairs of an episode: with f_p = 3 the first two of its four actions have no window."""


PAIRS_OF_A_GROUP = 2 * PAIRS


class Record(pl.Callback):
    """What happened around every slow step."""

    def __init__(self):
        self.epoch_starts, self.first_steps = [], []
        self.batches, self.memories, self.losses = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epoch_starts.append(phi(pl_module))

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
    return [layer.active for layer in replay.lora.layers]


def num_hooks(learner):
    return sum(len(module._forward_hooks) for module in learner.denoiser.modules())


def fit(data, steps, settings=SETTINGS, callbacks=(), trainer=None, **changes):
    learner, record = make.make_learner(data, **changes), Record()
    trainer = trainer or make_trainer(steps, [*callbacks, record])
    fit_slow_fast(trainer, learner, make_datamodule(data, "episodes"), settings)
    return learner, record, trainer


@pytest.fixture(scope="module")
def trained(data):
    """One group and a step more, with validation left out; Φ learns."""
    logger = Logger()
    trainer = make_trainer(5, [record := Record()], logger=logger, log_every_n_steps=1)
    probe = replace(SETTINGS, fast=replace(SETTINGS.fast, probe_draws=1))
    learner, _, _ = fit(data, 5, probe, trainer=trainer)
    return Run(learner, record, trainer, logger.rows)


@pytest.fixture(scope="module")
def resting(data):
    """One group with learning rate 0: Φ rests, so that losses can be computed again."""
    learner, record, trainer = fit(data, 4, optimizer=still, text_dropout=0.0)
    return Run(learner, record, trainer, [])


@dataclass
class Run:
    learner: SlowLearner
    record: Record
    trainer: pl.Trainer
    rows: list


class Logger(pl.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


def numbered(data):
    return enumerate(make_datamodule(data, "episodes").train_dataloader())


def cut(data, lengths):
    """Episodes with their first pairs alone."""
    return [
        {**episode, "pairs": episode["pairs"][:n], "actions": episode["actions"][:n]}
        for n, (_, episode) in zip(lengths, numbered(data), strict=True)
    ]


def fetch(data):
    return fetch_from(make_datamodule(data, "episodes").train_dataloader())


def fetch_from(loader):
    fetcher = _PrefetchDataFetcher()
    fetcher.setup(CombinedLoader(loader, "max_size_cycle"))
    return iter(fetcher)


def test_the_replay_holds_the_memory_from_before_each_pair(data):
    """Θ_0 of an episode is fresh; Θ_1 is what learning pair 0 alone gives."""
    learner = make.make_learner(data)
    episodes = list(make_datamodule(data, "episodes").train_dataloader())
    with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
        loop = FastLoop(make_trainer(1), make_learner(learner, lora, SETTINGS), 2, None, 1)
        items = loop.run(fetch(data))
        assert [item.key for item in items] == [
            f"{e['key']}/{i}" for e in episodes[:2] for i in range(PAIRS)
        ]
        by_hand = make_learner(learner, lora, SETTINGS)
        for number, episode in enumerate(episodes[:2]):
            first, second = items[PAIRS * number : PAIRS * (number + 1)]
            memory = by_hand.fresh(f"{episode['key']}#{number + 1}")
            assert torch.equal(first.memory, memory.theta)
            assert set(lora.drift(first.memory).values()) == {0.0}
            by_hand.learn([memory], episode["pairs"][:1], episode["actions"][:1])
            assert torch.equal(second.memory, memory.theta)
            assert not torch.equal(second.memory, first.memory)
            for i, item in enumerate((first, second)):
                assert torch.equal(item.latents, episode["pairs"][i : i + 1])
                assert item.action == episode["actions"][i]


def test_a_group_learns_in_one_batch_what_its_episodes_learn_alone(data):
    """Episodes of two pairs and of one; the longer goes on when the shorter has left."""
    learner = make.make_learner(data)
    replays = []
    for at_once in (1, 2, None):
        with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
            loop = FastLoop(
                make_trainer(1), make_learner(learner, lora, SETTINGS), 3, None, at_once
            )
            replays.append(loop.run(fetch_from(DataLoader(cut(data, (2, 1, 2)), batch_size=None))))
    alone, pairwise, joint = replays
    assert len(alone) == 5
    for others in (pairwise, joint):
        assert [item.key for item in others] == [item.key for item in alone]
        for item, other in zip(alone, others, strict=True):
            assert torch.equal(item.latents, other.latents)
            torch.testing.assert_close(item.memory, other.memory, rtol=0, atol=2e-3)
    assert (alone[1].memory - alone[0].memory).abs().max() > 5e-3


def test_episodes_of_other_sizes_learn_in_batches_of_their_own(data):
    learner = make.make_learner(data)
    with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
        loop = FastLoop(make_trainer(1), make_learner(learner, lora, SETTINGS), 3, max_chunks=1)
        sizes = [{**e, "pairs": e["pairs"][..., : 6 - 2 * (i == 1)]} for i, e in numbered(data)]
        items = loop.run(fetch_from(DataLoader(sizes, batch_size=None)))
    assert sorted(tuple(item.latents.shape[-2:]) for item in items) == [(4, 4), (4, 6), (4, 6)]


def test_max_chunks_takes_the_first_pairs_of_each_episode(data):
    learner = make.make_learner(data)
    with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
        loop = FastLoop(make_trainer(1), make_learner(learner, lora, SETTINGS), 2, max_chunks=1)
        assert [item.key[-2:] for item in loop.run(fetch(data))] == ["/0", "/0"]
        loop = FastLoop(make_trainer(1), make_learner(learner, lora, SETTINGS), 2, max_chunks=9)
        assert len(loop.run(fetch(data))) == 2 * PAIRS


def test_an_episode_that_comes_again_starts_with_another_memory(data):
    """Its name counts visits, so that Φ does not get used to one random Θ an episode."""
    learner = make.make_learner(data)
    with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
        loop = FastLoop(make_trainer(1), make_learner(learner, lora, SETTINGS), 3, max_chunks=1)
        first = {item.key: item.memory for item in loop.run(fetch(data))}
        again = {item.key: item.memory for item in loop.run(fetch(data))}
    assert first.keys() == again.keys()
    assert not any(torch.equal(first[key], again[key]) for key in first)


def test_slow_weights_rest_in_the_fast_phase_and_the_memory_in_the_slow_one(trained):
    record = trained.record
    assert len(record.epoch_starts) == len(record.first_steps) == 2
    for before, after in zip(record.epoch_starts, record.first_steps, strict=True):
        assert same(before, after)
    assert not same(record.epoch_starts[0], record.epoch_starts[1])
    for batch, memory in zip(record.batches, record.memories, strict=True):
        numbers = torch.cat([part.flatten() for pair in memory for part in pair])
        assert torch.equal(batch["memory"], numbers)
    assert set(theta(trained.trainer)) == {None}, "outside of slow steps Φ is alone"


def test_a_slow_step_uses_its_own_memory(resting):
    """Every loss is computed again, with Θ_i and without."""
    learner, learned = resting.learner, 0
    steps = zip(resting.record.batches, resting.record.losses, strict=True)
    for step, (batch, loss) in enumerate(steps):
        with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
            losses = []
            for memory in (batch["memory"][None], None):
                lora.activate(memory)
                generator = rng.stream(7, "slow-noise", step, step, 0)
                torch.rand(1, generator=generator)  # the draw for text dropout
                losses.append(
                    denoising_loss(learner, batch["latents"], batch["actions"], generator)
                )
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=0)
        is_fresh = batch["keys"][0].endswith("/0")
        assert torch.equal(losses[0], losses[1]) == is_fresh
        learned += not is_fresh
    assert (step, learned) == (3, 2)


def test_max_steps_counts_slow_steps_and_stops_exactly(data, trained, resting):
    """A group has 4 chunk pairs: the limit is met behind a group, at its end, inside it."""
    _, record, trainer = fit(data, 3)
    for run, steps, groups in (
        (trained, 5, 2),
        (resting, 4, 1),
        (Run(None, record, trainer, []), 3, 1),
    ):
        assert run.trainer.global_step == steps
        assert len(run.record.losses) == steps
        assert len(run.record.epoch_starts) == groups


def test_every_pair_of_a_group_is_trained_on_once(trained):
    group = [batch["keys"][0] for batch in trained.record.batches[:PAIRS_OF_A_GROUP]]
    assert len(set(group)) == PAIRS_OF_A_GROUP


def test_the_replay_order_is_a_function_of_seed_and_phase(data):
    items = [ReplayItem(torch.zeros(1, 2, 3, 4, 5), "", torch.zeros(6), str(i)) for i in range(9)]

    def order(seed, phase):
        fetcher = ReplayFetcher(seed)
        fetcher.load(items, phase)
        return [batch["keys"][0] for batch, _, _ in fetcher]

    assert sorted(order(1, 1)) == [str(i) for i in range(9)]
    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


@pytest.mark.slow
def test_two_runs_give_identical_weights_and_the_loop_s_seed_matters(data, trained):
    first = weights_of(trained.learner)
    second, _, _ = fit(data, 5)  # held-out noise that measures the gain changes nothing
    assert same(first, weights_of(second))
    other, _, _ = fit(data, 5, replace(SETTINGS, seed=12))
    assert not same(first, weights_of(other))


def test_the_denoiser_is_as_before_afterwards(data, trained):
    assert trained.learner.state_dict().keys() == make.make_learner(data).state_dict().keys()
    assert num_hooks(trained.learner) == 0
    assert all(p.requires_grad for p in trained.learner.denoiser.parameters())


def test_the_denoiser_is_as_before_after_an_exception(data):
    class Fail(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            assert num_hooks(pl_module)
            raise RuntimeError("out of memory")

    learner = make.make_learner(data)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit_slow_fast(
            make_trainer(2, [Fail()]), learner, make_datamodule(data, "episodes"), SETTINGS
        )
    assert num_hooks(learner) == 0


@pytest.mark.parametrize("per_group", [2, 5])
def test_a_finite_stream_of_episodes_starts_over_and_drops_none(data, per_group):
    """3 episodes in groups: what is left at the end of a pass is a smaller group."""
    learner, record = make.make_learner(data), Record()
    settings = replace(SETTINGS, episodes_per_group=per_group, max_chunks=1)
    datamodule = make_datamodule(data, "episodes")
    fit_slow_fast(make_trainer(6, [record]), learner, datamodule, settings)
    keys = [batch["keys"][0] for batch in record.batches]
    assert [sorted(keys[:3]), sorted(keys[3:])] == [["train-0/0", "train-1/0", "train-2/0"]] * 2


def test_an_empty_stream_of_episodes_says_so(data):
    class Nothing(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Empty(), batch_size=None)

    class Empty(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="gave no episode to learn; use fewer ranks"):
        fit_slow_fast(make_trainer(1), make.make_learner(data), Nothing(), SETTINGS)


def test_validation_runs_without_the_memory_which_is_back_afterwards(data, resting):
    """Φ rests, so the validation loss must be the one of Φ alone, whatever Θ_i is there."""
    alone = make.make_learner(data, optimizer=still, text_dropout=0.0)
    trainer = make_trainer(1, limit_val_batches=1.0)
    expected = trainer.validate(alone, make_datamodule(data), verbose=False)[0]["val/loss"]
    record, found = Record(), Validations()
    trainer = make_trainer(4, [record, found], limit_val_batches=1.0, val_check_interval=1)
    fit(data, 4, trainer=trainer, optimizer=still, text_dropout=0.0)
    assert found.losses == [expected] * 4
    assert torch.equal(torch.stack(record.losses), torch.stack(resting.record.losses))


@pytest.mark.parametrize("sized", [False, True])
def test_validation_runs_after_each_group_by_default(data, sized):
    """Groups of 2 and, at the end of the 3 episodes, 1; a loader may know its length or not."""

    class Episodes(pl.LightningDataModule):
        def train_dataloader(self):
            stream = make_datamodule(data, "episodes").train_dataloader()
            return DataLoader(list(stream), batch_size=None) if sized else stream

        def val_dataloader(self):
            return make_datamodule(data).val_dataloader()

    found = Validations()
    trainer = make_trainer(5, [found], check_val_every_n_epoch=1, limit_val_batches=1.0)
    settings = replace(SETTINGS, max_chunks=1)
    fit_slow_fast(trainer, make.make_learner(data), Episodes(), settings)
    assert found.steps == [2, 3, 5]


def test_the_fast_loss_is_logged_against_chunk_pairs(trained):
    fast = [(step, row) for step, row in trained.rows if "fast/loss" in row]
    assert [step for step, _ in fast] == list(range(1, 7)), "two episodes, then the third"
    assert all(row["fast/loss"] > 0 and row["fast/gain"] != 0 for _, row in fast)
    assert all(row["fast/drift"] > 0 and row["fast/undone"] == 0 for _, row in fast)
    assert sum("slow/loss" in row for _, row in trained.rows) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes_per_group": 0}, "episodes_per_group=0.*allowed: episodes_per_group >= 1"),
        ({"max_chunks": 0}, "max_chunks=0.*max_chunks >= 1 or null"),
        ({"episodes_at_once": 0}, "episodes_at_once=0; allowed: 1 or more, or null"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        SlowFastSettings(**settings)


def test_private_names_of_lightning_are_where_we_use_them(data):
    """Fails first, and tells why, when a new Lightning moves what `sfv.training.loops` builds on."""
    trainer = make_trainer(1)
    assert isinstance(trainer.fit_loop, _FitLoop)
    assert issubclass(_FitLoop, _Loop)
    assert list(inspect.signature(_FitLoop.__init__).parameters) == [
        "self", "trainer", "min_epochs", "max_epochs",
    ]  # fmt: skip
    assert list(inspect.signature(_FitLoop.advance).parameters) == ["self"]
    for name in ("setup_data", "advance", "run", "done", "skip"):
        assert hasattr(_FitLoop, name), name
    for name in ("epoch_loop", "epoch_progress", "max_batches", "_data_fetcher"):
        assert hasattr(trainer.fit_loop, name), name
    assert list(inspect.signature(trainer.fit_loop.epoch_loop.run).parameters) == ["data_fetcher"]
    fetcher = _DataFetcher()
    for name in ("fetched", "done", "_start_profiler", "_stop_profiler"):
        assert hasattr(fetcher, name), name
    progress = _Progress()
    for name in ("increment_ready", "increment_completed", "reset_on_run", "current", "total"):
        assert hasattr(progress, name), name
    for name in ("val_check_batch", "val_check_interval", "progress_bar_metrics", "strategy"):
        assert hasattr(trainer, name), name
    assert "self.epoch_loop.run(self._data_fetcher)" in inspect.getsource(_FitLoop.advance)
    epoch_advance = inspect.getsource(lightning_epoch._TrainingEpochLoop.advance)
    assert "batch, _, __ = next(data_fetcher)" in epoch_advance
    assert "except StopIteration" in inspect.getsource(lightning_fit._FitLoop.run)
