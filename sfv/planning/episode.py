"""One episode of a plan: a sub-goal, a chunk imagined, its steps read off, executed, looked at, learned.

The paper's way (`method: act`): the sub-goal's action conditions one chunk, and an inverse dynamics model
turns its frames into steps. With `method: imagine` a sub-goal of the way back is a place alone: of all
actions the one is taken whose imagined chunk ends most like that place looked on the way out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfv.fast.learner import FastReport
from sfv.fast.protocol import EpisodeMemory
from sfv.metrics.action_following import vote
from sfv.metrics.frame import lpips
from sfv.models.inverse_dynamics import InverseReader
from sfv.planning.environment import Environment, Position, Seen, Step, video_of
from sfv.planning.imagination import Imagination, Imagined
from sfv.planning.tasks import SubGoal, Task
from sfv.rng import seed_of

Loop = Literal["closed", "open"]
Method = Literal["act", "imagine"]
WayOut = Literal["planned", "shown"]
Match = Literal["mse", "lpips"]
MemoryOver = Literal["episode", "task"]
Read = Literal["pair", "chunk"]
Video = Float[Tensor, "t 3 height width"]


@dataclass(frozen=True)
class PlaySettings:
    """How plans are made and executed.

    Args:
        loop: `closed`: the true frames are looked at after every chunk, learned and gone on from;
            `open`: the imagined ones are.
        method: `act` (the paper's): a sub-goal's action conditions its chunk; `imagine`: on the way back
            the place alone is known, and the action is found by imagining all.
        way_out: `planned` like the way back, or `shown`: the engine performs it, and it is looked at.
        match: how `imagine` compares frames.
        read: `pair` (the paper's): every pair of imagined frames is a step of its own; `chunk`: the action
            that most pairs of a chunk show is taken for all of them.
        max_steps: most executed steps of an episode, a frame each; null: as many as its sub-goals have.
        memory_over: Θ starts fresh with every `episode`, or lasts over all episodes of one `task` group.
        repeats: episodes of every task.

    Raises:
        ValueError: a number out of range.
    """

    loop: Loop = "closed"
    method: Method = "act"
    way_out: WayOut = "planned"
    match: Match = "mse"
    read: Read = "pair"
    max_steps: int | None = None
    memory_over: MemoryOver = "episode"
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise ValueError(
                f"repeats={self.repeats}, max_steps={self.max_steps}; allowed: 1 or more"
            )

    def shows(self, goal: SubGoal) -> bool:
        """Whether a sub-goal's chunk is performed by the engine alone, not planned."""
        return goal.action is not None and not goal.back and self.way_out == "shown"


def planned_frames(goals: Sequence[SubGoal], settings: PlaySettings, chunk_frames: int) -> int:
    """Frames that an episode with these sub-goals imagines and executes: those that are not shown."""
    left = len(goals) * chunk_frames if settings.max_steps is None else settings.max_steps
    num = 0
    for goal in goals:
        frames = min(chunk_frames, left)
        left -= frames
        num += 0 if settings.shows(goal) else frames
    return num


@dataclass
class Played:
    """What an episode came to.

    Attributes:
        positions: place by place; the first after the given actions.
        reached: of each way point that a sub-goal named, the position then.
        chosen: the action of each chunk.
        right: on the way back, whether the script's action was chosen; where a script has one.
        read: share of the steps of each planned chunk that were read as the chosen action.
        steps: executed.
        limited: the time limit ended it before its last sub-goal.
        learned: reports of fast learning.
        imagined: frames of the planned chunks.
        real: what was seen when they were executed.
    """

    positions: list[Position]
    reached: dict[str, Position] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    steps: int = 0
    limited: bool = False
    learned: list[FastReport] = field(default_factory=list)
    imagined: list[Video] = field(default_factory=list)
    real: list[Video] = field(default_factory=list)


class Player:
    """Plays episodes of one row.

    Args:
        environment: where steps are executed.
        imagination: what would happen.
        reader: turns frames into steps; None lets the environment perform the chosen action itself.
        settings: how.
        choose_randomly: take any action, whatever the sub-goal says: the floor.
        seed: of the random choices.
    """

    def __init__(
        self,
        environment: Environment,
        imagination: Imagination,
        reader: InverseReader | None,
        settings: PlaySettings,
        choose_randomly: bool = False,
        seed: int = 0,
    ) -> None:
        self.environment, self.imagination, self.reader = environment, imagination, reader
        self.settings, self.choose_randomly, self.seed = settings, choose_randomly, seed

    def play(
        self,
        task: Task,
        goals: Sequence[SubGoal],
        episode: str,
        memory: EpisodeMemory | None = None,
        on_chunk: Callable[[], None] = lambda: None,
    ) -> Played:
        """Play one episode.

        Args:
            task: is laid out anew.
            goals: its sub-goals.
            episode: names the random streams.
            memory: Θ to go on with; None begins fresh.
            on_chunk: called after every chunk.
        """
        world = self.environment
        world.begin(task.setup)
        given = [seen for action in task.given for seen in world.perform(action)]
        self.imagination.begin(episode, video_of(given), memory)
        played = Played([given[-1].position])
        looks = [video_of(given[-1:])[0]]  # of every place
        for i, goal in enumerate(goals):
            left = self._steps_left(played)
            if not left:
                played.limited = True
                break
            if self.settings.shows(goal) and not self.choose_randomly:
                look = self._watch(goal, left, played)
            else:
                action, chunk = self._choose(goal, looks, played, f"{episode}/{i}")
                look = self._do(action, chunk, looks[-1], left, played)
            looks.append(look)
            if goal.waypoint:
                played.reached[goal.waypoint] = played.positions[-1]
            on_chunk()
        return played

    def _steps_left(self, played: Played) -> int:
        limit, chunk = self.settings.max_steps, self.environment.chunk_frames
        return chunk if limit is None else min(chunk, limit - played.steps)

    def _watch(
        self, goal: SubGoal, num_steps: int, played: Played
    ) -> Float[Tensor, "3 height width"]:
        """A chunk of the way out as the engine performs it, as far as time allows."""
        assert goal.action is not None
        seen = self.environment.perform(goal.action)[:num_steps]
        return self._move_on(goal.action, None, seen, played)

    def _choose(
        self, goal: SubGoal, looks: Sequence[Tensor], played: Played, key: str
    ) -> tuple[str, Imagined]:
        """The action of a chunk, and the chunk."""
        actions = self.environment.actions
        if self.choose_randomly:
            draw = np.random.default_rng(seed_of(self.seed, "plan-random", key))
            candidates = [actions[int(draw.integers(len(actions)))]]
        elif self.settings.method == "imagine" and goal.place is not None:
            candidates = list(actions)
        else:
            candidates = [self._given(goal)]
        chunks = self.imagination.imagine(candidates)
        best = 0
        if len(chunks) > 1:
            assert goal.place is not None
            ends = torch.stack([chunk.frames[-1] for chunk in chunks])
            best = int(self._unlike(ends, looks[goal.place]).argmin())
        if goal.back and goal.action is not None:
            played.right.append(candidates[best] == goal.action)
        return candidates[best], chunks[best]

    def _given(self, goal: SubGoal) -> str:
        if goal.action is None:
            raise ValueError(
                f"a sub-goal names place {goal.place} and no action; method act needs one: set play.method "
                "to imagine"
            )
        return goal.action

    def _unlike(
        self, ends: Float[Tensor, "n 3 height width"], look: Float[Tensor, "3 height width"]
    ) -> Float[Tensor, " n"]:
        wanted = look.expand(len(ends), -1, -1, -1)
        if self.settings.match == "lpips":
            return lpips(ends[:, None], wanted[:, None])[:, 0]
        return (ends - wanted).square().flatten(1).mean(dim=1)

    def _do(
        self, action: str, chunk: Imagined, look: Tensor, num_steps: int, played: Played
    ) -> Float[Tensor, "3 height width"]:
        """Execute what the imagined frames show, as far as time allows."""
        if self.reader is None:
            seen = self.environment.perform(action)[:num_steps]
        else:
            steps = self._read(torch.cat([look[None], chunk.frames]))
            played.read.append(sum(step.action == action for step in steps) / len(steps))
            seen = [self.environment.execute(step) for step in steps[:num_steps]]
        played.imagined.append(chunk.frames[: len(seen)])
        played.real.append(video_of(seen))
        return self._move_on(action, chunk, seen, played)

    def _read(self, video: Video) -> list[Step]:
        assert self.reader is not None
        logits, changes = self.reader.read(video)
        read = logits.argmax(dim=1)
        if self.settings.read == "chunk":
            read = torch.full_like(read, vote(logits.softmax(dim=1)))
        names = [self.reader.actions[int(i)] for i in read]
        return [
            Step(name, tuple(change)) for name, change in zip(names, changes.tolist(), strict=True)
        ]

    def _move_on(
        self, action: str, chunk: Imagined | None, seen: Sequence[Seen], played: Played
    ) -> Float[Tensor, "3 height width"]:
        """Note what happened; learn it, unless the time limit has cut the chunk. Gives the last look."""
        played.chosen.append(action)
        played.positions.append(seen[-1].position)
        played.steps += len(seen)
        true = video_of(seen)
        looked = self.settings.loop == "closed" or chunk is None
        if len(seen) == self.environment.chunk_frames:
            report = self.imagination.keep(action, chunk, true if looked else None)
            if report is not None:
                played.learned.append(report)
        if looked or chunk is None:
            return true[-1]
        return chunk.frames[-1]
