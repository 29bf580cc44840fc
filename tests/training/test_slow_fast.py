from dataclasses import dataclass, replace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from sfv import rng
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.training.fast_phase import Lesson
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast, validate_slow_fast
from tests.training import make
from tests.training.loop import (
    PAIRS,
    SETTINGS,
    Episodes,
    Logger,
    Record,
    fit,
    num_hooks,
    phase_of,
)
from tests.training.make import make_datamodule, make_trainer, same, weights_of
from tests.training.test_slow import Validations, denoising_loss, still

PAIRS_OF_A_GROUP = 2 * PAIRS


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


def test_slow_weights_rest_in_the_fast_phase_and_the_memory_in_the_slow_one(trained):
    record = trained.record
    assert len(record.epoch_starts) == len(record.first_steps) == 2
    for before, after in zip(record.epoch_starts, record.first_steps, strict=True):
        assert same(before, after)
    assert not same(record.epoch_starts[0], record.epoch_starts[1])
    for batch, memory in zip(record.batches, record.memories, strict=True):
        numbers = torch.cat([part.flatten() for pair in memory for part in pair])
        assert torch.equal(batch["memory"][0], numbers)
    assert set(record.outside) == {None}, "outside of slow steps Φ is alone"


@pytest.mark.parametrize("size", [1, 3])
def test_a_slow_step_uses_its_own_memory(data, resting, size):
    """Every loss is computed again, with Θ_i and without; a batch of several gives each sample its own."""
    run = resting
    if size > 1:
        settings = replace(SETTINGS, slow_batch_size=size)
        learner, record, _ = fit(data, 2, settings, optimizer=still, text_dropout=0.0)
        run = Run(learner, record, None, [])
    learner, told = run.learner, []
    steps = zip(run.record.batches, run.record.losses, strict=True)
    for step, (batch, loss) in enumerate(steps):
        with TemporalLoRA(learner.denoiser, 2, 2.0) as lora:
            losses = []
            for memory in (batch["memory"], None):
                lora.activate(memory)
                generator = rng.stream(7, "slow-noise", step, step, 0)
                torch.rand(len(batch["keys"]), generator=generator)  # the draw for text dropout
                losses.append(
                    denoising_loss(learner, batch["latents"], batch["actions"], generator)
                )
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=0)
        is_fresh = all(key.endswith("/0") for key in batch["keys"])
        assert torch.equal(losses[0], losses[1]) == is_fresh
        told += batch["keys"]
    assert len(told) == len(set(told)) == PAIRS_OF_A_GROUP


def test_plain_batches_train_phi_alone_on_the_same_pairs(data):
    settings = replace(SETTINGS, plain_share=1.0)
    learner, record, _ = fit(data, 4, settings, optimizer=still, text_dropout=0.0)
    assert [batch["memory"] for batch in record.batches] == [None] * 4
    assert len({batch["keys"][0] for batch in record.batches}) == PAIRS_OF_A_GROUP
    for step, (batch, loss) in enumerate(zip(record.batches, record.losses, strict=True)):
        generator = rng.stream(7, "slow-noise", step, step, 0)
        torch.rand(1, generator=generator)
        alone = denoising_loss(learner, batch["latents"], batch["actions"], generator)
        torch.testing.assert_close(loss, alone, rtol=1e-5, atol=0)


def test_the_learned_start_moves_by_the_mean_of_what_was_learned(data):
    """Reptile; every memory of the next group begins there."""
    settings = replace(
        SETTINGS, start="learned", meta_learning_rate=0.5, max_chunks=1, episodes_at_once=1
    )
    ends, starts = [], []

    class Ends(pl.Callback):
        def on_fast_phase_start(self, trainer, *_):
            self.phase = trainer.fit_loop.fast_loop.phase
            learn = self.phase.learner.learn

            def noted(memories, *args, **poses):
                reports = learn(memories, *args, **poses)
                ends.extend(memory.theta.clone() for memory in memories)
                return reports

            if not ends:
                self.phase.learner.learn = noted

        def on_fast_phase_end(self, *_):
            starts.append(self.phase.replay.items[0].theta())

    fit(data, 3, settings, [Ends()])
    assert len(ends) == 3 and len(starts) == 2
    expected = starts[0] + 0.5 * sum(end - starts[0] for end in ends[:2]) / 2
    torch.testing.assert_close(starts[1], expected, rtol=0, atol=1e-7)


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


def scored_by_hand(data, settings=SETTINGS):
    """`val/loss` of the one validation episode: Θ_i scores pair i, then learns it."""
    (episode,) = make_datamodule(data, "episodes").val_dataloader()
    with phase_of(data, settings, optimizer=still) as phase:
        learner, generator = phase.slow, rng.stream(7, "val-noise", 0, 0)
        memory, losses = phase.learner.fresh(f"val/{episode['key']}"), []
        for i, action in enumerate(episode["actions"]):
            pair = episode["pairs"][i : i + 1]
            with phase.learner.weights.use(memory.theta[None]):
                losses.append(denoising_loss(learner, pair, [action], generator))
            phase.learn_pairs([memory], [Lesson(pair, action, "")])
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("inference_mode", [True, False])
def test_validation_learns_the_episode_chunk_by_chunk(data, resting, inference_mode):
    """Φ rests, so every validation scores alike, whatever Θ_i stood in the denoiser before it."""
    record, found = Record(), Validations()
    trainer = make_trainer(
        4,
        [record, found],
        limit_val_batches=1.0,
        val_check_interval=1,
        inference_mode=inference_mode,
    )
    learner, _, _ = fit(data, 4, trainer=trainer, optimizer=still, text_dropout=0.0)
    assert found.losses == [pytest.approx(scored_by_hand(data), rel=1e-5)] * 4
    assert len(set(found.losses)) == 1
    assert torch.equal(torch.stack(record.losses), torch.stack(resting.record.losses))
    assert not any(p.grad is not None and p.grad.isnan().any() for p in learner.parameters())


@pytest.mark.parametrize("inference_mode", [True, False])
def test_validating_alone_scores_as_the_loop_does(data, inference_mode):
    trainer = make_trainer(1, limit_val_batches=1.0, inference_mode=inference_mode)
    learner = make.make_learner(data)
    loss = validate_slow_fast(trainer, learner, make_datamodule(data, "episodes"), SETTINGS)
    assert loss == pytest.approx(scored_by_hand(data), rel=1e-5)
    trainer = make_trainer(1, limit_val_batches=1.0)
    windows = trainer.validate(learner, make_datamodule(data, batch_size=1), verbose=False)
    assert windows[0]["val/loss"] != loss, "without Θ"
    assert num_hooks(learner) == 0


@pytest.mark.parametrize("sized", [False, True])
def test_validation_runs_after_each_group_by_default(data, sized):
    """Groups of 2 and, at the end of the 3 episodes, 1; a loader may know its length or not."""

    stream = make_datamodule(data, "episodes").train_dataloader()
    datamodule = Episodes(data, list(stream)) if sized else make_datamodule(data, "episodes")
    found = Validations()
    trainer = make_trainer(5, [found], check_val_every_n_epoch=1, limit_val_batches=1.0)
    settings = replace(SETTINGS, max_chunks=1)
    fit_slow_fast(trainer, make.make_learner(data), datamodule, settings)
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
        (
            {"slow_batch_size": 0},
            "slow_batch_size=0, keep_replays=2; allowed: slow_batch_size >= 1",
        ),
        ({"keep_replays": 1}, "keep_replays=1; allowed: .*keep_replays >= 2"),
        ({"plain_share": 1.5}, "plain_share=1.5.*0 <= plain_share <= 1"),
        ({"meta_learning_rate": 0}, "meta_learning_rate=0; allowed: .*0 < meta_learning_rate <= 1"),
        ({"episodes_at_once": 0}, "episodes_at_once=0; allowed: 1 or more, or null"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        SlowFastSettings(**settings)
