"""The fast phase of the loop: Θ learns a group of episodes, and the replay is filled. No Lightning here."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from sfv.fast.addressed_learner import AddressedLearner
from sfv.fast.learner import FastLearner
from sfv.fast.memory import Memory
from sfv.fast.modes import frozen
from sfv.fast.protocol import EpisodeMemory, FastReport, MemoryLearner
from sfv.generation.rollout import Request, Rollout
from sfv.training.loop_settings import MemoryScope
from sfv.training.replay import Replay
from sfv.types import EpisodeBatch


@dataclass(frozen=True)
class Lesson:
    """One chunk pair to learn.

    Args:
        pair: X_i then X_{i+1}.
        action: c_i.
        key: episode and chunk.
        poses: recorded ones of X_i's last frame and of X_{i+1}; None where the episode has none.
    """

    pair: Float[Tensor, "1 c t h w"] = field(repr=False)
    action: str
    key: str
    poses: Float64[Tensor, "g 4"] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Course:
    """The pairs that one Θ learns, in order: those of an episode, or of several of one scene.

    Args:
        name: names its random streams; another one at each visit of an episode.
        lessons: at least one.
    """

    name: str
    lessons: tuple[Lesson, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of its pairs; only alike ones share a batch."""
        return tuple(self.lessons[0].pair.shape)


@dataclass(frozen=True)
class Learned:
    """What a fast phase leaves beside the replay.

    Args:
        drift: sum of Θ_end - Θ_0 over the courses; None with fresh starts.
        num_courses: how many.
    """

    drift: Float[Tensor, " p"] | None
    num_courses: int


class FastPhase:
    """Learns groups of episodes with Φ frozen.

    Args:
        learner: teaches the memories.
        replay: gets (X_i, X_{i+1}, c_i, Θ_i) of every pair.
        max_chunks: pairs learned of each episode, from its start; None takes all.
        at_once: courses that learn in one batch; None: all of a group.
        scope: what shares a Θ.
        rollout: generates the chunks that Θ learns from; None learns from the true ones.
    """

    def __init__(
        self,
        learner: MemoryLearner,
        replay: Replay,
        max_chunks: int | None = None,
        at_once: int | None = None,
        scope: MemoryScope = "episode",
        rollout: Rollout | None = None,
    ) -> None:
        self.learner, self.replay = learner, replay
        self.max_chunks, self.at_once, self.scope = max_chunks, at_once, scope
        self.rollout = rollout

    @property
    def denoiser(self) -> nn.Module:
        """ε_Φ, bare: outside of what DDP wraps around it, so that ranks may learn unequal numbers."""
        module: nn.Module = self.learner.denoiser
        return module

    @property
    def start(self) -> Float[Tensor, " p"] | None:
        """A learned Θ_0; None without one."""
        return self.learner.start if isinstance(self.learner, FastLearner) else None

    def start_from(self, start: Float[Tensor, " p"] | None) -> None:
        """Begin the episodes to come with this Θ_0, where the memory has one."""
        if isinstance(self.learner, FastLearner):
            self.learner.start_from(start)

    def courses(self, episodes: Sequence[EpisodeBatch], first_visit: int) -> list[Course]:
        """Group episodes to courses.

        Args:
            episodes: a group.
            first_visit: episodes of earlier groups; a visit's number is part of the course's name, so
                that Φ does not get used to one random Θ an episode.
        """
        lessons: dict[str, list[Lesson]] = {}
        names: dict[tuple[str, torch.Size], str] = {}
        for visit, episode in enumerate(episodes, start=first_visit + 1):
            name = f"{episode['key']}#{visit}"
            if self.scope == "scene":
                place = (_scene(episode), episode["pairs"].shape[1:])
                name = names.setdefault(place, f"{place[0]}#{visit}")
            lessons.setdefault(name, []).extend(self.lessons(episode))
        return [Course(name, tuple(found)) for name, found in lessons.items()]

    def lessons(self, episode: EpisodeBatch) -> list[Lesson]:
        """The pairs of an episode that are learned."""
        actions = episode["actions"][: self.max_chunks]
        pairs, poses = torch.split(episode["pairs"], 1), episode.get("poses")
        return [
            Lesson(pairs[i], a, f"{episode['key']}/{i}", None if poses is None else poses[i])
            for i, a in enumerate(actions)
        ]

    def learn(
        self, courses: Sequence[Course], on_chunk: Callable[[list[FastReport]], None]
    ) -> Learned:
        """Learn all courses and fill the replay, course by course.

        Args:
            courses: of a group.
            on_chunk: told what each batch of chunks did.
        """
        start = self.start
        drift = None if start is None else torch.zeros_like(start)
        for alike in _batches(courses, self.at_once or len(courses)):
            for memory in self._learn_batch(alike, on_chunk):
                if drift is not None and start is not None:
                    assert isinstance(memory, Memory)
                    drift += memory.theta.detach().cpu() - start
        return Learned(drift, len(courses))

    def begin(self, name: str, lesson: Lesson) -> EpisodeMemory:
        """The fresh memory of an episode that begins with this pair."""
        memory: EpisodeMemory = self.learner.fresh(
            name, lesson.pair[:, :, : self.learner.num_context]
        )
        return memory

    def learn_pairs(
        self, memories: Sequence[EpisodeMemory], lessons: Sequence[Lesson]
    ) -> list[FastReport]:
        """Learn one pair of each memory, true or with a generated second half."""
        actions = [lesson.action for lesson in lessons]
        device = next(self.denoiser.parameters()).device
        pairs = torch.cat([lesson.pair for lesson in lessons]).to(device)
        poses = [lesson.poses for lesson in lessons]
        if self.rollout is None:
            return self.learner.learn(memories, pairs, actions, poses=poses)
        contexts = torch.split(pairs[:, :, : self.rollout.model.num_context], 1)
        requests = [
            Request(memory.episode, context, [action], memory=memory, poses=recorded)
            for memory, context, action, recorded in zip(
                memories, contexts, actions, poses, strict=True
            )
        ]
        with frozen(self.denoiser):
            made = self.rollout.run_many(requests)
        for memory in memories:
            memory.context = None  # the next chunk follows the true one
        return [report for (chunk,) in made if (report := chunk.learned) is not None]

    def calibrate(self) -> None:
        """Tell the denoiser how far to trust what addressed memories say, by the group just learned.

        Where the group's latents differ in size, by those of the first size.
        """
        if not isinstance(self.learner, AddressedLearner) or self.learner.is_calibrated:
            return  # before the readings of a group are put together, which `disk` reads from files
        if items := self.replay.items:
            items = [item for item in items if item.latents.shape == items[0].latents.shape]
            self.learner.calibrate(
                [item.theta() for item in items], [item.latents for item in items]
            )

    def _learn_batch(
        self, courses: Sequence[Course], on_chunk: Callable[[list[FastReport]], None]
    ) -> list[EpisodeMemory]:
        """The replay is filled course by course while learning goes chunk by chunk."""
        memories = [self.begin(course.name, course.lessons[0]) for course in courses]
        ends = accumulate((len(course.lessons) for course in courses), initial=len(self.replay))
        places = list(ends)
        for i in range(max(len(course.lessons) for course in courses)):
            going = [n for n, course in enumerate(courses) if i < len(course.lessons)]
            lessons = [courses[n].lessons[i] for n in going]
            for n, lesson in zip(going, lessons, strict=True):
                row = self.learner.before(memories[n], lesson.pair, lesson.action, lesson.poses)
                self.replay.put(places[n] + i, lesson.pair, lesson.action, lesson.key, row)
            on_chunk(self.learn_pairs([memories[n] for n in going], lessons))
        return memories


def _batches(courses: Sequence[Course], size: int) -> Iterator[list[Course]]:
    """Split a group into batches of at most `size` courses whose latents are equally large."""
    alike: dict[tuple[int, ...], list[Course]] = {}
    for course in courses:
        alike.setdefault(course.size, []).append(course)
    for found in alike.values():
        for first in range(0, len(found), size):
            yield found[first : first + size]


def _scene(episode: EpisodeBatch) -> str:
    if "scene" not in episode:
        raise ValueError(
            f"memory_scope is 'scene', but episode {episode['key']!r} of the training data names none; "
            "give batches a 'scene' (EpisodeDataModule does), or set slow_fast.memory_scope to episode"
        )
    return episode["scene"]


def check_report(report: FastReport, number: int) -> None:
    """Check that what Θ has learned is finite, or was taken back.

    Args:
        report: of a chunk pair; its loss is NaN without a fast step.
        number: of the pair in the run.

    Raises:
        ValueError: fast learning has diverged.
    """
    is_wrong = math.isinf(report.loss) or not math.isfinite(report.drift)
    if is_wrong and not report.undone:
        raise ValueError(
            f"chunk pair {number}: fast/loss is {report.loss}, fast/drift {report.drift}, so fast learning "
            "has diverged: lower slow_fast.fast.learning_rate, or let slow_fast.fast.guard take it back"
        )
