"""Scores of plans: how far from each way point, how often near enough, how like the imagined frames are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from sfv.metrics.protocol import MetricValue, Passport, mean_value
from sfv.metrics.suite import score_next_chunk, too_few_clips
from sfv.planning.environment import Environment, Position
from sfv.planning.episode import Played
from sfv.planning.tasks import Task

CLIP_FRAMES = 16
_CLIPS = ("fvd", "fvd_floor", "fvd_unpaired", "kvd", "psnr", "lpips")
Video = UInt8[Tensor, "t 3 height width"]


@dataclass(frozen=True)
class Plan:
    """What is kept of one episode, in plain types.

    Args:
        episode: its name.
        task: id of its task.
        repeat: which episode of the task, from 0.
        positions: place by place.
        reached: of way points, the position when a sub-goal named them.
        chosen: the action of each chunk.
        right: share of the way back's chunks whose action is the script's; None where none is told.
        read: share of planned steps that were read as the chosen action; None where none was read.
        steps: executed.
        limited: the time limit ended it.
        gains: `fast/gain` of each chunk, None where unmeasured.
        undone: chunks whose learning the guard took back.
        seconds: wall-clock time.
    """

    episode: str
    task: str
    repeat: int
    positions: list[list[float]]
    reached: dict[str, list[float]]
    chosen: list[str]
    right: float | None
    read: float | None
    steps: int
    limited: bool
    gains: list[float | None] = field(default_factory=list)
    undone: int = 0
    seconds: float = 0.0


def plan_of(episode: str, task: Task, repeat: int, played: Played, seconds: float) -> Plan:
    """Keep an episode."""
    return Plan(
        episode=episode,
        task=task.id,
        repeat=repeat,
        positions=[list(position) for position in played.positions],
        reached={name: list(position) for name, position in played.reached.items()},
        chosen=played.chosen,
        right=_mean(played.right),
        read=_mean(played.read),
        steps=played.steps,
        limited=played.limited,
        gains=[r.gain if math.isfinite(r.gain) else None for r in played.learned],
        undone=sum(report.undone for report in played.learned),
        seconds=round(seconds, 2),
    )


def distances(plan: Plan, task: Task, environment: Environment) -> dict[str, float]:
    """Distance from every way point.

    A way point that no sub-goal named in time is measured where the episode ended.
    """
    end: Position = tuple(plan.positions[-1])
    return {
        point.name: environment.distance(tuple(plan.reached.get(point.name, end)), point.position)
        for point in task.waypoints
    }


def episode_scores(
    plan: Plan, task: Task, environment: Environment, tolerance: float | int
) -> dict[str, float]:
    """The numbers of one episode."""
    apart = distances(plan, task, environment)
    earlier = [apart[point.name] for point in task.waypoints if point.earlier]
    shown = [apart[point.name] for point in task.waypoints if point.shown]
    return {
        "dist": sum(earlier) / len(earlier),
        **{f"dist_{p.name}": apart[p.name] for p in task.waypoints if p.shown},
        "success": float(all(gap <= tolerance for gap in shown)),
        "reached": sum(gap <= tolerance for gap in apart.values()) / len(apart),
        "right_choice": math.nan if plan.right is None else plan.right,
        "step_read": math.nan if plan.read is None else plan.read,
        "plan_steps": float(plan.steps),
    }


def row_scores(
    plans: Sequence[Plan],
    tasks: Mapping[str, Task],
    environment: Environment,
    tolerance: float | int,
    passport: Passport,
) -> dict[str, MetricValue]:
    """The metrics of a row that are means over episodes; what no episode has is left out."""
    each = [episode_scores(plan, tasks[plan.task], environment, tolerance) for plan in plans]
    names = dict.fromkeys(name for scores in each for name in scores)
    values = {
        name: mean_value(
            [scores.get(name, math.nan) for scores in each], replace(passport, metric=name)
        )
        for name in names
    }
    return {name: value for name, value in values.items() if value.passport.count}


def clip_scores(
    real: Sequence[Video], imagined: Sequence[Video], passport: Passport, min_clips: int
) -> dict[str, MetricValue]:
    """FVD and the like of imagined against executed frames; empty with fewer clips than asked for.

    `checks.check_goals` knows it before frames are made, unless an environment ends actions early.

    Args:
        real: what was seen, an episode each; too short ones make no clip.
        imagined: what the plan was made from.
        passport: of the row.
        min_clips: least number.
    """
    pairs = [(a, b) for a, b in zip(real, imagined, strict=True) if len(a) >= CLIP_FRAMES]
    if too_few_clips([len(a) for a, _ in pairs], min_clips, CLIP_FRAMES):
        return {}
    scores = score_next_chunk(
        [a for a, _ in pairs],
        [b for _, b in pairs],
        clip_frames=CLIP_FRAMES,
        seed=passport.seed,
    )
    return {name: _stamped(scores[name], passport) for name in _CLIPS if name in scores}


def _stamped(value: MetricValue, passport: Passport) -> MetricValue:
    """The passport says that the frames are those of plans; each row executed other true ones."""
    told = "; ".join(filter(None, (value.passport.settings, passport.settings)))
    ours = replace(
        value.passport,
        protocol=passport.protocol,
        context=passport.context,
        settings=told,
        reference_sha256="",
    )
    return replace(value, passport=ours)


def by_repeat(
    plans: Sequence[Plan],
    tasks: Mapping[str, Task],
    environment: Environment,
    tolerance: float | int,
) -> list[dict[str, Any]]:
    """`dist` and `success` of the first, second, ... episodes of all tasks: does a skill stay?"""
    found = []
    for repeat in sorted({plan.repeat for plan in plans}):
        each = [
            episode_scores(plan, tasks[plan.task], environment, tolerance)
            for plan in plans
            if plan.repeat == repeat
        ]
        means = {n: sum(scores[n] for scores in each) / len(each) for n in ("dist", "success")}
        found.append({"repeat": repeat, "n": len(each), **means})
    return found


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None
