"""What users of Lightning expect keeps working inside the loop."""

import inspect
from contextlib import contextmanager
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, TQDMProgressBar
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import RestartStage, _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_lightning.utilities.combined_loader import CombinedLoader

from sfv.training.loop_progress import LoopBar
from sfv.training.slow import SlowLearner
from sfv.training.slow_fast import fit_slow_fast
from tests.training import make
from tests.training.loop import SETTINGS, Logger, Record, fit, phi
from tests.training.make import make_datamodule, make_trainer, same, weights_of
from tests.training.test_slow import Validations, still

QUICK = replace(SETTINGS, max_chunks=1)
"""Groups of 2 slow steps, then of 1: three episodes with a pair each."""


class Order(pl.Callback):
    """The names of the hooks, as they come."""

    def __init__(self):
        self.names = []

    def on_train_start(self, *_):
        self.names.append("train start")

    def on_train_epoch_start(self, *_):
        self.names.append("group start")

    def on_fast_phase_start(self, trainer, pl_module, num_pairs):
        self.names.append(f"fast start {num_pairs}")

    def on_fast_chunk_end(self, trainer, pl_module, reports):
        self.names.append(f"fast chunk {len(reports)}")

    def on_fast_phase_end(self, *_):
        self.names.append("fast end")

    def on_slow_phase_start(self, trainer, pl_module, num_batches):
        self.names.append(f"slow start {num_batches}")

    def on_train_batch_start(self, *_):
        self.names.append("batch start")

    def on_train_batch_end(self, *_):
        self.names.append("batch end")

    def on_validation_end(self, *_):
        self.names.append("validation")

    def on_train_epoch_end(self, *_):
        self.names.append("group end")

    def on_train_end(self, *_):
        self.names.append("train end")


def test_callbacks_come_in_order(data):
    order = Order()
    trainer = make_trainer(3, [order], limit_val_batches=1.0, check_val_every_n_epoch=1)
    fit(data, 3, QUICK, trainer=trainer)
    step = ["batch start", "batch end"]
    assert order.names == [
        "train start",
        *["group start", "fast start 2", "fast chunk 2", "fast end", "slow start 2"],
        *[*step, *step, "validation", "group end"],
        *["group start", "fast start 1", "fast chunk 1", "fast end", "slow start 1"],
        *[*step, "validation", "group end"],
        "train end",
    ]


def test_the_module_may_have_the_hooks_too(data):
    seen = []
    learner = make.make_learner(data)
    learner.on_fast_phase_start = lambda num: seen.append(num)
    learner.on_fast_phase_end = lambda: seen.append("end")
    fit_slow_fast(make_trainer(1), learner, make_datamodule(data, "episodes"), QUICK)
    assert seen == [2, "end"]


def test_the_bar_shows_both_phases(data, capsys):
    """Lightning's own would read "Epoch 0/-2" and stand still in the fast phase."""
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, limit_val_batches=0, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    assert isinstance(trainer.progress_bar_callback, pl.callbacks.ProgressBar)
    fit(data, 2, QUICK, trainer=trainer)
    assert type(trainer.progress_bar_callback) is LoopBar
    shown = capsys.readouterr().out
    assert "Group 0, fast" in shown
    assert "Group 0, slow" in shown and "2/2" in shown and "fast/loss" in shown
    assert "/-2" not in shown


def test_a_bar_of_the_user_s_own_stays(data):
    class Own(TQDMProgressBar):
        pass

    own = Own(refresh_rate=0)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, limit_val_batches=0, callbacks=[own],
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    fit(data, 1, QUICK, trainer=trainer)
    assert trainer.progress_bar_callback is own


def test_slow_metrics_are_logged_against_slow_steps(data):
    logger = Logger()
    trainer = make_trainer(
        4, logger=logger, log_every_n_steps=1, limit_val_batches=1.0, val_check_interval=2
    )
    fit(data, 4, QUICK, trainer=trainer)
    steps = [step for step, row in logger.rows if "slow/loss" in row]
    assert steps == [0, 1, 2, 3]
    assert [step for step, row in logger.rows if "val/loss" in row] == [1, 3]
    assert [step for step, row in logger.rows if "fast/loss" in row] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("interval", "every_group", "steps"),
    [(0.5, 1, [1, 2, 3]), (1.0, 2, [3]), (2, None, [2])],
)
def test_val_check_interval_counts_slow_batches(data, interval, every_group, steps):
    """A share is of a group: groups of 2 batches and 1; a number with no epochs counts through."""
    found = Validations()
    trainer = make_trainer(
        3, [found], limit_val_batches=1.0, val_check_interval=interval,
        check_val_every_n_epoch=every_group,
    )  # fmt: skip
    fit(data, 3, QUICK, trainer=trainer)
    assert found.steps == steps


def test_an_interval_that_no_group_reaches_is_an_error(data):
    trainer = make_trainer(
        3, limit_val_batches=1.0, val_check_interval=3, check_val_every_n_epoch=1
    )
    with pytest.raises(ValueError, match="interval is 3, but a group of episodes gave 2 slow"):
        fit(data, 3, QUICK, trainer=trainer)


def test_accumulation_steps_inside_a_group_and_at_its_end(data):
    """3 batches a step: groups of 4 and 2 batches make 2 steps and 1."""
    record = Record()
    trainer = make_trainer(3, [record], accumulate_grad_batches=3)
    fit(data, 3, trainer=trainer)
    assert len(record.losses) == 6 and trainer.global_step == 3


def test_gradients_are_clipped(data):
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            found = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.stack(found).norm().item()] if found else [])

    fit(data, 2, QUICK, trainer=make_trainer(2, [Norms()], gradient_clip_val=1e-3))
    assert norms and max(norms) <= 1.001e-3


def test_mixed_precision_leaves_the_memory_in_fp32(data):
    record = Record()
    settings = replace(QUICK, precision="bf16")
    trainer = make_trainer(1, [record], precision="bf16-mixed", limit_val_batches=1.0)
    fit(data, 1, settings, trainer=trainer)
    (batch,) = record.batches
    assert batch["memory"].dtype == torch.float32 and record.losses[0].isfinite()


def test_early_stopping_stops_between_slow_steps(data):
    stop = EarlyStopping("val/loss", patience=1)
    trainer = make_trainer(9, [stop], limit_val_batches=1.0, val_check_interval=1)
    fit(data, 9, QUICK, trainer=trainer, optimizer=still)
    assert trainer.global_step == 2, "the loss of a resting Φ does not fall"


@pytest.mark.parametrize(("limit", "expected"), [(1, [1, 1, 1]), (0.5, [1, 1, 1]), (1.0, [2, 1])])
def test_limit_train_batches_limits_the_slow_batches_of_a_group(data, limit, expected):
    order = Order()
    trainer = make_trainer(3, [order], limit_train_batches=limit)
    fit(data, 3, QUICK, trainer=trainer)
    sizes = [int(name.split()[-1]) for name in order.names if name.startswith("slow start")]
    assert sizes == expected
    assert order.names.count("fast chunk 2") >= 1, "the fast phase has its whole group"


def test_fast_dev_run_makes_one_slow_step_and_validates(data):
    trainer = pl.Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False)
    fit(data, 1, QUICK, trainer=trainer)
    assert trainer.global_step == 1 and "val/loss" in trainer.callback_metrics


def test_max_epochs_counts_groups(data):
    trainer = make_trainer(-1, max_epochs=3)
    fit(data, -1, QUICK, trainer=trainer)
    assert (trainer.current_epoch, trainer.global_step) == (3, 2 + 1 + 2)


def test_the_sanity_check_learns_and_leaves_no_trace(data):
    found = []
    for steps in (0, 2):
        trainer = pl.Trainer(
            max_steps=2, accelerator="cpu", logger=False, limit_val_batches=1.0,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
            num_sanity_val_steps=steps,
        )  # fmt: skip
        learner, _, _ = fit(data, 2, QUICK, trainer=trainer)
        found.append(weights_of(learner))
    assert same(*found)


def test_the_profiler_shows_the_fast_phase(data):
    profiler = SimpleProfiler()
    fit(data, 3, QUICK, trainer=make_trainer(3, profiler=profiler))
    assert len(profiler.recorded_durations["run_fast_phase"]) == 2
    assert len(profiler.recorded_durations["run_training_batch"]) == 3


def test_shards_are_gathered_once_a_fast_phase(data, monkeypatch):
    """Of the whole learner: a learned text encoder is called too."""
    seen = []

    @contextmanager
    def gathered(module):
        assert isinstance(module, SlowLearner)
        seen.append("whole")
        yield
        seen.append("sharded")

    class Chunks(pl.Callback):
        def on_fast_chunk_end(self, *_):
            seen.append("chunk")

    monkeypatch.setattr("sfv.training.loops.gathered", gathered)
    fit(data, 3, QUICK, [Chunks()])
    assert seen == ["whole", "chunk", "sharded"] * 2


def test_theta_on_disk_trains_exactly_as_theta_in_memory(data, tmp_path):
    ends = []
    for store in ("float32", "disk"):
        trainer = make_trainer(5, default_root_dir=tmp_path / store)
        learner, _, _ = fit(data, 5, replace(SETTINGS, theta_store=store), trainer=trainer)
        ends.append(phi(learner))
    assert same(*ends)
    assert (tmp_path / "disk" / "replay").exists() and not (
        tmp_path / "float32" / "replay"
    ).exists()


def test_private_names_of_lightning_are_where_we_use_them(data):
    """Fails first, and tells why, when a new Lightning moves what `sfv.training.loops` builds on."""
    trainer = make_trainer(1)
    fit_loop = trainer.fit_loop
    assert isinstance(fit_loop, _FitLoop) and issubclass(_FitLoop, _Loop)
    assert type(fit_loop.epoch_loop) is _TrainingEpochLoop
    for function, names in (
        (_FitLoop.__init__, ["self", "trainer", "min_epochs", "max_epochs"]),
        (_TrainingEpochLoop.__init__, ["self", "trainer", "min_steps", "max_steps"]),
        (_FitLoop.advance, ["self"]),
        (_FitLoop.setup_data, ["self"]),
        (_FitLoop.reset, ["self"]),
        (_FitLoop._load_combined_loader_states, ["self"]),
        (_TrainingEpochLoop.advance, ["self", "data_fetcher"]),
        (_TrainingEpochLoop.reset, ["self"]),
        (_Loop.on_load_checkpoint, ["self", "state_dict"]),
    ):
        assert list(inspect.signature(function).parameters) == names, function
    for name in (
        "epoch_progress", "max_batches", "_data_fetcher", "_combined_loader", "_restart_stage",
        "_combined_loader_states_to_load", "_restarting", "min_steps", "max_steps",
    ):  # fmt: skip
        assert hasattr(fit_loop, name), name
    for name in (
        "batch_progress", "scheduler_progress", "automatic_optimization", "_skip_next_val",
        "_batches_that_stepped", "restarting", "done", "val_loop",
    ):  # fmt: skip
        assert hasattr(fit_loop.epoch_loop, name) or name in vars(fit_loop.epoch_loop), name
    assert hasattr(RestartStage, "RESTARTED_MID_EPOCH")
    for counts in (fit_loop.epoch_progress, fit_loop.epoch_loop.batch_progress):
        assert vars(counts.current).keys() == {"ready", "started", "processed", "completed"}
    for name in ("fetched", "done", "_start_profiler", "_stop_profiler"):
        assert hasattr(_DataFetcher(), name), name
    for name in ("_state_dicts", "_load_state_dicts", "limits"):
        assert hasattr(CombinedLoader([]), name), name
    for name in ("val_check_batch", "val_check_interval", "progress_bar_metrics", "strategy"):
        assert hasattr(trainer, name), name
    advance = inspect.getsource(_TrainingEpochLoop.advance)
    assert "batch, _, __ = next(data_fetcher)" in advance and "data_fetcher.done" in advance
    assert "_skip_next_val" in inspect.getsource(_TrainingEpochLoop.on_advance_end)
    assert "self.epoch_loop.run(self._data_fetcher)" in inspect.getsource(_FitLoop.advance)
    assert "except StopIteration" in inspect.getsource(_FitLoop.run)
    assert "self.restarted_mid_epoch" in inspect.getsource(_FitLoop.on_advance_start)
