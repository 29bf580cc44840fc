"""The slow-fast learning loop (Algorithm 1b) as Lightning loops.

One Lightning "epoch" is one outer iteration: a fast phase over a group of episodes fills the replay
D_s with (X_i, X_{i+1}, c_i, Θ_i); then the stock training epoch loop runs over the replay. So
`global_step`, `max_steps`, accumulation, schedulers, validation and checkpoints all count slow steps.

A checkpoint goes on bit for bit wherever it was made. Inside a fast phase it holds the place in the data
where the group began: Φ rests, so the group is learned again. Inside a slow phase it refers to the replay's
files, and goes on behind the last whole slow step (gradients that wait for others are in no checkpoint).

All private Lightning names that the project uses are imported here and nowhere else.
"""

from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import RestartStage, _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor

from sfv.fast.learner import FastReport
from sfv.training.checkpoints import told_as_damaged
from sfv.training.fast_phase import FastPhase, Learned, check_report
from sfv.training.replay import Replay, ReplayItem, SlowBatch, collate
from sfv.training.sharding import gathered
from sfv.types import EpisodeBatch

Plan = Callable[[list[ReplayItem], int], list[SlowBatch]]
"""Makes the slow batches of a group from its items and its number."""


class FastLoop(_Loop):
    """The inner loop: fast learning over one group of episodes, Φ frozen; fills the replay.

    Callbacks and the module may have the hooks `on_fast_phase_start(trainer, module, num_pairs)`,
    `on_fast_chunk_end(trainer, module, reports)`, `on_fast_phase_end(trainer, module)` and
    `on_slow_phase_start(trainer, module, num_batches)`; the module's own take no trainer and module.

    Args:
        trainer: the trainer, for its loggers, callbacks and profiler.
        phase: learns.
        episodes_per_group: episodes of one fast phase.
        meta_learning_rate: of the learned start; None starts every memory fresh.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        phase: FastPhase,
        episodes_per_group: int,
        meta_learning_rate: float | int | None = None,
    ) -> None:
        super().__init__(trainer)
        self.phase, self.episodes_per_group = phase, episodes_per_group
        self.meta_learning_rate = meta_learning_rate
        self.num_chunks = 0
        self._before: int | None = None
        self._learned: Learned | None = None

    def run(self, data_fetcher: _DataFetcher, group: int) -> int:
        """Learn one group; the number of its replay items on this rank.

        The group is smaller where a finite stream of episodes ends in it; then the stream starts over.
        """
        self._before = self.num_chunks
        self.phase.replay.begin(group)
        episodes = self._take(data_fetcher)
        if not episodes:
            iter(data_fetcher)
            episodes = self._take(data_fetcher)
        courses = self.phase.courses(episodes, (group - 1) * self.episodes_per_group)
        num_pairs = sum(len(course.lessons) for course in courses)
        self.call("on_fast_phase_start", num_pairs)
        profile = self.trainer.profiler.profile("run_fast_phase")  # type: ignore[attr-defined]
        with (
            profile,
            gathered(self.trainer.lightning_module),
        ):  # ranks take unequal numbers of fast steps
            self._learned = self.phase.learn(courses, self._report)
        self.call("on_fast_phase_end")
        return num_pairs

    def commit(self) -> None:
        """The group is learned, on all ranks: a checkpoint need not go back to its start any more."""
        self.phase.calibrate()
        learned, start = self._learned, self.phase.start
        if start is not None and learned is not None and learned.drift is not None:
            strategy, count = self.trainer.strategy, torch.tensor([float(learned.num_courses)])
            mine = torch.cat([learned.drift, count]).to(strategy.root_device)
            summed: Tensor = strategy.reduce(mine, reduce_op="sum").cpu()
            assert self.meta_learning_rate is not None
            moved = start + self.meta_learning_rate * summed[:-1] / summed[-1]
            self.phase.start_from(moved)
        self._before, self._learned = None, None

    def on_save_checkpoint(self) -> dict[str, Any]:
        chunks = self.num_chunks if self._before is None else self._before
        return {"chunks": chunks, "start": self.phase.start}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        self.num_chunks = state_dict["chunks"]
        self.phase.start_from(state_dict["start"])

    def _take(self, data_fetcher: _DataFetcher) -> list[EpisodeBatch]:
        group: list[EpisodeBatch] = []
        while len(group) < self.episodes_per_group:
            try:
                batch, _, _ = next(data_fetcher)
            except StopIteration:
                break
            group.append(batch)
        return group

    def _report(self, reports: list[FastReport]) -> None:
        for report in reports:
            self.num_chunks += 1
            check_report(report, self.num_chunks)
            names = ("loss", "gain", "drift", "undone")
            self._log({f"fast/{name}": float(getattr(report, name)) for name in names})
        self.call("on_fast_chunk_end", reports)

    def _log(self, metrics: dict[str, float]) -> None:
        """An own loop has no `self.log`: loggers (the x-axis counts chunk pairs) and the progress bar."""
        trainer = self.trainer
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.num_chunks)
        trainer.progress_bar_metrics.update(metrics)

    def call(self, name: str, *args: Any) -> None:
        """Call one of the loop's own hooks, of callbacks first."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            hook = getattr(callback, name, None)
            if hook is not None:
                hook(self.trainer, self.trainer.lightning_module, *args)
        hook = getattr(self.trainer.lightning_module, name, None)
        if hook is not None:
            hook(*args)


class ReplayFetcher(_DataFetcher):
    """Feeds the batches of a replay to the slow phase."""

    def __init__(self, num_context: int) -> None:
        super().__init__()
        self.num_context = num_context
        self.items: list[ReplayItem] = []
        self.batches: list[SlowBatch] = []
        self.num, self.position = 0, 0

    def load(
        self, items: list[ReplayItem], batches: list[SlowBatch], num: int, position: int = 0
    ) -> None:
        """Take up a group.

        Args:
            items: of this rank.
            batches: of this rank; repeated from their start where other ranks have more.
            num: batches to give, equally many on every rank.
            position: batches that were trained on already.
        """
        self.items, self.batches, self.num, self.position = items, batches, num, position
        self.fetched, self.done = position, position >= num

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> "ReplayFetcher":
        return self

    def __next__(self) -> Any:
        if self.position >= self.num:
            raise StopIteration
        self._start_profiler()
        chosen = self.batches[self.position % len(self.batches)]
        batch = collate(self.items, chosen, self.num_context)
        self._stop_profiler()
        self.position += 1
        self.fetched, self.done = self.position, self.position >= self.num
        return batch, self.position - 1, 0

    def reset(self) -> None:
        """Keep the items: `load` owns them, Lightning calls this at places of its own."""


class SlowEpochLoop(_TrainingEpochLoop):
    """The stock loop over the batches of an epoch, which goes on exactly where a checkpoint was made.

    The stock loop skips a validation that is due right behind the saved batch, and begins new gradients
    in the middle of an accumulation.
    """

    _is_behind_batch = False
    _is_restored = False

    def restore(self, num_batches: int | None) -> int:
        """Set the counters behind the last whole slow step; the place in the group.

        Args:
            num_batches: of the group that the checkpoint was made in; None: between two groups.
        """
        counts: Any = self.batch_progress
        ready, done = counts.current.ready, counts.current.processed
        validated = counts.current.completed == done
        every = self.trainer.accumulate_grad_batches
        stepped = num_batches in (None, done) or done % every == 0
        place: int = done if stepped else done - done % every
        total = counts.total.processed - (done - place)
        _set_all(counts.current, place)
        _set_all(counts.total, total)
        counts.is_last_batch = place == num_batches
        self.scheduler_progress.reset_on_restart()
        self.automatic_optimization.optim_progress.reset_on_restart()
        # Of the batch that was saved behind, all that `on_advance_end` does is still to come.
        self._is_behind_batch = num_batches is not None and stepped and ready == done and place > 0
        self._skip_next_val = self._is_behind_batch and validated
        self._batches_that_stepped = self.global_step - self._is_behind_batch
        self.restarting = False
        self._is_restored = num_batches is not None
        return place

    def reset(self) -> None:
        if self._is_restored:
            self._is_restored = False
        else:
            super().reset()

    @property
    def done(self) -> bool:
        return not self._is_behind_batch and super().done

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self._is_behind_batch:
            self._is_behind_batch = False
        else:
            super().advance(data_fetcher)


class SlowFastFitLoop(_FitLoop):
    """Nests the fast loop in slow training: fast phase, then slow steps on its replay, and again.

    Args:
        stock: the trainer's own loop, whose limits are taken over.
        fast_loop: the inner loop.
        replay: what it fills.
        plan: makes slow batches of it.
        num_context: f_p.
    """

    def __init__(
        self, stock: Any, fast_loop: FastLoop, replay: Replay, plan: Plan, num_context: int
    ) -> None:
        super().__init__(stock.trainer, stock.min_epochs, stock.max_epochs)
        self.epoch_loop = SlowEpochLoop(stock.trainer, stock.min_steps, stock.max_steps)
        self.fast_loop, self.replay, self.plan = fast_loop, replay, plan
        self.fetcher = ReplayFetcher(num_context)
        self.group = 0
        self._place: Literal["between", "fast", "slow"] = "between"
        self._group_start: list[dict[str, Any]] = []
        self._saved: dict[str, Any] | None = None

    def setup_data(self) -> None:
        super().setup_data()  # counts episodes; the slow phase counts batches of the replay
        loader, limit = self._combined_loader, self.trainer.limit_train_batches
        if loader is not None and loader.limits and (isinstance(limit, int) or limit < 1.0):
            loader.limits = None  # it limits slow batches, and these are episodes
            assert self._data_fetcher is not None
            iter(self._data_fetcher)
        if self.max_batches != 0:
            self._count_batches()

    def reset(self) -> None:
        self.replay.rank = self.trainer.global_rank
        if self._saved is None:
            super().reset()
        else:
            torch.set_grad_enabled(True)
            self._restore(self._saved)
            self._saved = None

    def advance(self) -> None:
        if self._place != "slow":
            self._learn_fast()
        self._count_batches()
        self.fast_loop.call("on_slow_phase_start", len(self.fetcher))
        with self.trainer.profiler.profile("run_training_epoch"):  # type: ignore[attr-defined]
            self.epoch_loop.run(self.fetcher)
        stopped = self.trainer.should_stop or self.epoch_loop.global_step == self.max_steps
        if self.fetcher.done or not stopped:
            self._place = "between"

    def on_save_checkpoint(self) -> dict[str, Any]:
        state = super().on_save_checkpoint()
        if self._place == "fast" and "combined_loader" in state:
            state["combined_loader"] = self._group_start
        if self._place == "slow":
            self.replay.save()
            self.trainer.strategy.barrier("the replay of every rank is in its files")
        place = {"place": self._place, "group": self.group, "batches": self.fetcher.num}
        return {**state, "slow_fast": {**place, "ranks": self.trainer.world_size}}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        if "slow_fast" not in state_dict:
            raise ValueError(
                "the checkpoint was made without the slow-fast loop, which cannot go on with it; begin "
                "the loop from the saved model (model.init_from)"
            )
        self._saved = state_dict["slow_fast"]

    def _load_combined_loader_states(self) -> None:
        """Also behind a whole epoch, which the stock loop takes for a whole pass through the data."""
        if self._combined_loader_states_to_load and self._combined_loader is not None:
            self._combined_loader._load_state_dicts(self._combined_loader_states_to_load)
            self._combined_loader_states_to_load = []

    def _learn_fast(self) -> None:
        trainer, fetcher = self.trainer, self._data_fetcher
        assert fetcher is not None and self._combined_loader is not None
        self._group_start = self._combined_loader._state_dicts()
        self._place = "fast"
        self.fast_loop.run(fetcher, self.group + 1)
        batches = self.plan(self.replay.items, self.group + 1)
        num = self._agree(len(batches))
        self.fast_loop.commit()
        self.group += 1
        limit = trainer.limit_train_batches
        num = min(num, limit) if isinstance(limit, int) else max(1, int(num * limit))
        self.fetcher.load(self.replay.items, batches, num)
        self._place = "slow"

    def _agree(self, num: int) -> int:
        """The one collective of an outer iteration: from here on all ranks take equally many steps."""
        trainer = self.trainer
        mine = torch.zeros(
            trainer.world_size, dtype=torch.int64, device=trainer.strategy.root_device
        )
        mine[trainer.global_rank] = num
        counts: Tensor = trainer.strategy.reduce(mine, reduce_op="sum")
        most = int(counts.max())
        if int(counts.min()) == 0:
            raise ValueError(
                "the training data gave no episode to learn; use fewer ranks and loader workers, or "
                "more episodes"
            )
        repeated = float((most - counts).sum())
        if trainer.world_size > 1:
            for logger in trainer.loggers:
                logger.log_metrics({"slow/repeated": repeated}, step=trainer.global_step)
        return most

    def _restore(self, saved: dict[str, Any]) -> None:
        """Set all counters as they were, and the replay if the checkpoint was made on it."""
        self._place, self.group = saved["place"], saved["group"]
        is_slow = self._place == "slow"
        if is_slow and saved["ranks"] != self.trainer.world_size:
            raise ValueError(
                f"the checkpoint was made in the middle of a group of episodes on {saved['ranks']} ranks, "
                f"but there are {self.trainer.world_size}; use as many as then, or begin from the saved "
                "model (model.init_from)"
            )
        place = self.epoch_loop.restore(saved["batches"] if is_slow else None)
        counts: Any
        for counts in (self.epoch_progress.current, self.epoch_progress.total):
            whole = counts.started - 1 if is_slow else counts.processed
            _set_all(counts, whole)
            if self._place != "between":
                counts.ready = counts.started = whole + 1
        if self._place != "between":  # its start was announced to the callbacks
            self._restart_stage = RestartStage.RESTARTED_MID_EPOCH
        self._restarting = False
        if is_slow:
            with told_as_damaged(str(self.trainer.ckpt_path)):
                self.replay.load(self.group)
            batches = self.plan(self.replay.items, self.group)
            self.fetcher.load(self.replay.items, batches, saved["batches"], place)
            self._count_batches()

    def _count_batches(self) -> None:
        self.max_batches = len(self.fetcher) or float("inf")
        interval = self.trainer.val_check_interval
        if isinstance(interval, float) and len(self.fetcher):
            self.trainer.val_check_batch = max(1, int(len(self.fetcher) * interval))
        elif self.group == 1 and self.trainer.check_val_every_n_epoch is not None:
            self._check_interval(interval)

    def _check_interval(self, interval: int | float) -> None:
        if interval > self.max_batches and self.trainer.enable_validation:
            raise ValueError(
                f"val_check_interval is {interval}, but a group of episodes gave {self.max_batches} slow "
                "batches, so validation would never run: set check_val_every_n_epoch to null to count "
                "slow batches through all groups, or give a smaller val_check_interval"
            )


def _set_all(counts: Any, value: int) -> None:
    counts.ready = counts.started = counts.processed = counts.completed = value
