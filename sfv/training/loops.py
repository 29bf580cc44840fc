"""The slow-fast learning loop (Algorithm 1b) as Lightning loops.

One Lightning "epoch" is one outer iteration: a fast phase over a group of episodes fills the replay
D_s with (X_i, X_{i+1}, c_i, Θ_i); then the stock training epoch loop runs over the replay. So
`global_step`, `max_steps`, accumulation, schedulers, validation and checkpoints all count slow steps.

All private Lightning names that the project uses are imported here and nowhere else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.progress import _Progress
from torch import Tensor

from sfv import rng
from sfv.fast.learner import FastLearner
from sfv.fast.memory import Memory
from sfv.types import EpisodeBatch


@dataclass(frozen=True)
class ReplayItem:
    """(X_i, X_{i+1}, c_i, Θ_i): a pair, its action, and the memory *before* it learned the pair."""

    latents: Float[Tensor, "1 c t h w"]
    action: str
    memory: Float[Tensor, " p"] = field(repr=False)
    key: str = ""


class FastLoop(_Loop):
    """The inner loop: fast learning over one group of episodes, Φ frozen; fills `replay`.

    The episodes of a group learn in one batch, chunk by chunk; those that end early leave it.

    Args:
        trainer: the trainer, for its loggers and progress.
        learner: trains Θ.
        episodes_per_group: episodes of one fast phase.
        max_chunks: chunk pairs learned of each episode, from its start; None takes all.
        episodes_at_once: at most so many learn in one batch; None: the whole group.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        learner: FastLearner,
        episodes_per_group: int,
        max_chunks: int | None,
        episodes_at_once: int | None = None,
    ) -> None:
        super().__init__(trainer)
        self.learner = learner
        self.episodes_per_group, self.max_chunks = episodes_per_group, max_chunks
        self.episodes_at_once = episodes_at_once or episodes_per_group
        self.episode_progress = _Progress()
        self.chunk_progress = _Progress()
        self.replay: list[ReplayItem] = []

    @property
    def done(self) -> bool:
        return self.episode_progress.current.completed >= self.episodes_per_group

    def run(self, data_fetcher: _DataFetcher) -> list[ReplayItem]:
        """Learn one group and return its replay items, episode by episode.

        The group is smaller where a finite stream of episodes ends in it, and empty behind the end.
        """
        self.reset()
        group: list[tuple[str, EpisodeBatch]] = []
        while not self.done:
            try:
                batch, _, _ = next(data_fetcher)
            except StopIteration:
                break
            self.episode_progress.increment_ready()
            group.append((f"{batch['key']}#{self.episode_progress.total.ready}", batch))
            self.episode_progress.increment_completed()
        for alike in _batches(group, self.episodes_at_once):
            self.advance(alike)
        return self.replay

    def reset(self) -> None:
        self.replay = []
        self.episode_progress.reset_on_run()
        self.chunk_progress.reset_on_run()

    def advance(self, group: list[tuple[str, EpisodeBatch]]) -> None:
        """Learn some episodes from their true chunks, keeping Θ_i before each pair."""
        device = self.trainer.strategy.root_device
        memories = [self.learner.fresh(name) for name, _ in group]
        items: list[list[ReplayItem]] = [[] for _ in group]
        lengths = [len(batch["actions"][: self.max_chunks]) for _, batch in group]
        for i in range(max(lengths)):
            going = [n for n, length in enumerate(lengths) if i < length]
            pairs = [group[n][1]["pairs"][i : i + 1].to(device) for n in going]
            actions = [group[n][1]["actions"][i] for n in going]
            for n, pair, action in zip(going, pairs, actions, strict=True):
                key = f"{group[n][1]['key']}/{i}"
                memory = memories[n].theta.to("cpu", copy=True)
                items[n].append(ReplayItem(pair, action, memory, key))
                self.chunk_progress.increment_ready()
            self._learn([memories[n] for n in going], torch.cat(pairs), actions)
        self.replay += [item for of_episode in items for item in of_episode]

    def _learn(self, memories: list[Memory], pairs: Tensor, actions: list[str]) -> None:
        for report in self.learner.learn(memories, pairs, actions):
            self.chunk_progress.increment_completed()
            metrics = {"fast/loss": report.loss, "fast/gain": report.gain}
            measured = {"fast/drift": report.drift, "fast/undone": float(report.undone)}
            self._log({**metrics, **measured})

    def _log(self, metrics: dict[str, float]) -> None:
        """`self.log` is not to be had in an own loop: write to the loggers and the progress bar.

        The x-axis counts chunk pairs learned.
        """
        trainer = self.trainer
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.chunk_progress.total.completed)
        trainer.progress_bar_metrics.update(metrics)


def _batches(
    group: list[tuple[str, EpisodeBatch]], size: int
) -> Iterator[list[tuple[str, EpisodeBatch]]]:
    """Split a group into batches of at most `size` episodes whose latents are equally large."""
    alike: dict[torch.Size, list[tuple[str, EpisodeBatch]]] = {}
    for name, batch in group:
        alike.setdefault(batch["pairs"].shape[1:], []).append((name, batch))
    for episodes in alike.values():
        for first in range(0, len(episodes), size):
            yield episodes[first : first + size]


class ReplayFetcher(_DataFetcher):
    """Feeds replay items to the slow phase, one a batch, in a seeded shuffled order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.phase, self.position = seed, 0, 0
        self.items: list[ReplayItem] = []

    def load(self, items: list[ReplayItem], phase: int) -> None:
        generator = rng.stream(self.seed, "replay-order", phase)
        order = torch.randperm(len(items), generator=generator).tolist()
        self.items, self.phase, self.position = [items[i] for i in order], phase, 0
        self.fetched, self.done = 0, not items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> "ReplayFetcher":
        return self

    def __next__(self) -> Any:
        if self.position >= len(self.items):
            raise StopIteration
        item = self.items[self.position]
        self.position += 1
        self.fetched += 1
        self.done = self.position >= len(self.items)
        batch = {
            "latents": item.latents,
            "actions": [item.action],
            "keys": [item.key],
            "memory": item.memory,
        }
        return batch, self.position - 1, 0

    def reset(self) -> None:
        """Keep the items: `load` owns them, Lightning calls this at places of its own."""


class SlowFastFitLoop(_FitLoop):
    """Nests the fast loop in slow training: fast phase, then slow steps on its replay, and again."""

    def __init__(
        self,
        trainer: pl.Trainer,
        min_epochs: int | None,
        max_epochs: int | None,
        fast_loop: FastLoop,
        replay: ReplayFetcher,
    ) -> None:
        super().__init__(trainer, min_epochs, max_epochs)
        self.fast_loop, self.replay = fast_loop, replay

    def setup_data(self) -> None:
        super().setup_data()  # counts episodes; the slow phase counts replay items
        if self.max_batches != 0:
            self._count_replay()

    def advance(self) -> None:
        fetcher = self._data_fetcher
        assert fetcher is not None
        items = self.fast_loop.run(fetcher)
        if not items:
            iter(fetcher)  # a finite stream of episodes starts over
            items = self.fast_loop.run(fetcher)
        if not items:
            raise ValueError(
                "the training data gave no episode to learn; use fewer ranks and loader workers, or "
                "more episodes"
            )
        self.replay.load(items, self.epoch_progress.current.ready)
        self._count_replay()
        with self.trainer.profiler.profile("run_training_epoch"):  # type: ignore[attr-defined]
            self.epoch_loop.run(self.replay)

    def _count_replay(self) -> None:
        self.max_batches = len(self.replay) or float("inf")
        interval = self.trainer.val_check_interval
        if isinstance(interval, float) and interval == 1.0 and len(self.replay):
            self.trainer.val_check_batch = len(self.replay)


def use_slow_fast_loop(trainer: pl.Trainer, fast_loop: FastLoop, seed: int) -> None:
    """Replace the trainer's fit loop; call it before `trainer.fit`."""
    stock = trainer.fit_loop
    loop = SlowFastFitLoop(
        trainer, stock.min_epochs, stock.max_epochs, fast_loop, ReplayFetcher(seed)
    )
    loop.epoch_loop = stock.epoch_loop
    trainer.fit_loop = loop
