"""Plays the episodes of a row; each is kept once it is finished, so a stopped run goes on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from sfv.fast.memory_file import SUFFIX, load_memory, save_memory
from sfv.fast.protocol import EpisodeMemory, MemoryLearner
from sfv.files import write_bytes
from sfv.generation.kept import Kept
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.generation.videos import write_video
from sfv.models.inverse_dynamics import InverseReader
from sfv.models.world_model import WorldModel
from sfv.planning.environment import Environment
from sfv.planning.episode import Played, Player, PlaySettings
from sfv.planning.imagination import TrueImagination, WorldImagination
from sfv.planning.score import Plan, plan_of
from sfv.planning.tasks import SubGoal, Task
from sfv.report.video import encode_mp4, side_by_side, to_frames

ENGINE_ROWS = ("oracle", "random")
"""Rows that need no world model."""


@dataclass(frozen=True)
class PlanRow:
    """A row to play.

    Args:
        name: of the row.
        world: Φ; None for `oracle` and `random`.
        learns: Θ learns throughout.
    """

    name: str
    world: WorldModel | None = None
    learns: bool = False


@dataclass(frozen=True)
class Stage:
    """What all rows share."""

    environment: Environment
    reader: InverseReader | None
    play: PlaySettings
    generation: GenerationSettings


class RowPlayer:
    """Plays the episodes of rows into a folder, `ROW/EPISODE.json` and videos.

    Args:
        out: folder of the rows.
        stage: what rows share.
        settings: what decides an episode, besides row, task and sub-goals.
        on_chunk: called after every chunk.
    """

    def __init__(
        self,
        out: Path,
        stage: Stage,
        settings: Mapping[str, Any],
        on_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        self.out, self.stage, self.settings, self.on_chunk = out, stage, dict(settings), on_chunk

    def play_row(
        self, row: PlanRow, tasks: Sequence[Task], goals: Mapping[str, Sequence[SubGoal]]
    ) -> list[Plan]:
        """Play what is missing; a row's memories last as long as the settings say."""
        plans = []
        with self._player(row) as (player, learner):
            for group in dict.fromkeys(task.group for task in tasks):
                memory: EpisodeMemory | None = None
                for task in [task for task in tasks if task.group == group]:
                    for repeat in range(self.stage.play.repeats):
                        plan, after = self._episode(
                            row, player, learner, task, goals[task.id], repeat, memory
                        )
                        memory = after if self.stage.play.memory_over == "task" else None
                        plans.append(plan)
        return plans

    @contextmanager
    def _player(self, row: PlanRow) -> Iterator[tuple[Player, MemoryLearner | None]]:
        stage = self.stage
        if row.world is None:
            imagination = TrueImagination(stage.environment)
            randomly = row.name == "random"
            yield self._of(imagination, randomly), None
            return
        with rollout_of(row.world, "fast" if row.learns else "none", stage.generation) as made:
            dreams = WorldImagination(
                row.world,
                stage.generation.sampler,
                made.learner,
                stage.generation.seed,
                stage.generation.precision,
            )
            yield self._of(dreams, False), made.learner

    def _of(self, imagination: TrueImagination | WorldImagination, randomly: bool) -> Player:
        stage = self.stage
        return Player(
            stage.environment,
            imagination,
            stage.reader,
            stage.play,
            randomly,
            stage.generation.seed,
        )

    def _episode(
        self,
        row: PlanRow,
        player: Player,
        learner: MemoryLearner | None,
        task: Task,
        goals: Sequence[SubGoal],
        repeat: int,
        memory: EpisodeMemory | None,
    ) -> tuple[Plan, EpisodeMemory | None]:
        """One episode, played or read back, and the memory after it."""
        name = task.id if self.stage.play.repeats == 1 else f"{task.id}-{repeat}"
        kept = Kept(
            self.out / row.name,
            name,
            {
                **self.settings,
                "model": None if row.world is None else row.world.fingerprint(),
                "sub_goals": [asdict(goal) for goal in goals],
            },
        )
        known = kept.read()
        if known is not None:
            for _ in known["chosen"]:
                self.on_chunk()
            return Plan(**known), self._stored(kept.folder / f"{name}{SUFFIX}", row, learner)
        began = time.perf_counter()
        played = player.play(task, goals, name, memory, self.on_chunk)
        plan = plan_of(name, task, repeat, played, time.perf_counter() - began)
        after = player.imagination.memory
        if learner is not None and after is not None and row.world is not None:
            save_memory(kept.folder / f"{name}{SUFFIX}", learner.store(after))
        write_videos(kept.folder, name, played, self.stage.environment.fps)
        kept.write(asdict(plan))
        return plan, after

    def _stored(
        self, path: Path, row: PlanRow, learner: MemoryLearner | None
    ) -> EpisodeMemory | None:
        """The memory after a finished episode, where the next one goes on with it."""
        if learner is None or row.world is None or self.stage.play.memory_over == "episode":
            return None
        memory: EpisodeMemory = learner.restore(load_memory(path, row.world.fingerprint()))
        return memory


def video_paths(folder: Path, episode: str) -> tuple[Path, Path]:
    """Where an episode's executed and imagined frames lie, both lossless."""
    return folder / f"{episode}.real.mp4", folder / f"{episode}.imagined.mp4"


def write_videos(folder: Path, episode: str, played: Played, fps: float) -> None:
    """Write what was planned: executed and imagined frames, and both side by side for eyes."""
    if not played.imagined:
        return
    parts = [torch.cat(chunks) for chunks in (played.real, played.imagined)]
    for path, part in zip(video_paths(folder, episode), parts, strict=True):
        write_video(path, _bytes(part), fps)
    frames = side_by_side([to_frames(part) for part in reversed(parts)], ["imagined", "real"])
    write_bytes(folder / f"{episode}.mp4", encode_mp4(frames, fps))


def _bytes(video: Tensor) -> UInt8[Tensor, "t 3 height width"]:
    return (video.clamp(0, 1) * 255).round().byte()
