"""Tasks with way points and sub-goals, as fixed files: `sfv/planning/specs/NAME.json`, or your own.

A task begins with a few given actions, which fill the model's context; then it has places: place 0 is
where it stands after them, place k after k more chunks. The way out leads to new way points, the way back
to earlier places.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sfv.files import read_json, write_json
from sfv.names import part_of_a_name

SPECS = Path(__file__).parent / "specs"
FORMAT = "sfv.tasks/1"


@dataclass(frozen=True)
class SubGoal:
    """What one chunk is for.

    Args:
        action: conditions the chunk; None: the planner finds it by `place`.
        place: an earlier place to come to; None on the way out.
        waypoint: name of the way point that stands at its end; "" where there is none.
        back: belongs to the way back.
    """

    action: str | None
    place: int | None = None
    waypoint: str = ""
    back: bool = False


@dataclass(frozen=True)
class Waypoint:
    """Where something has to be after the sub-goal that names it.

    Args:
        name: of the way point.
        position: required, as the environment tells positions.
        earlier: it is an earlier place, met again on the way back: `dist` is the mean over these.
        shown: it has a number of its own in the report.
    """

    name: str
    position: tuple[float, ...]
    earlier: bool
    shown: bool = False


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        id: names its files and random streams.
        group: tasks of one group share a memory where memories last over a task.
        text: the task in words, for whoever makes sub-goals.
        setup: what the environment lays out.
        given: actions that are performed first and only shown.
        script: sub-goals of the scripted planner.
        waypoints: in order.
        frames_sha256: of the frames when the script is performed; "" where pictures differ by machine.
    """

    id: str
    group: str
    text: str
    setup: dict[str, Any]
    given: tuple[str, ...]
    script: tuple[SubGoal, ...]
    waypoints: tuple[Waypoint, ...]
    frames_sha256: str = ""


@dataclass(frozen=True)
class TaskSet:
    """The content of a file of tasks.

    Args:
        name: of the set.
        version: another one is another set.
        engine: what its positions and pictures were made with.
        unit: of distances.
        tolerance: distance within which a way point counts as reached, in `unit`.
        chunk_frames: frames of an action.
        size: of the frames, pixels; `frames_sha256` holds for it alone.
        tasks: at least one.
        sha256: short hash of all this.
    """

    name: str
    version: int
    engine: str
    unit: str
    tolerance: float | int
    chunk_frames: int
    size: int
    tasks: tuple[Task, ...]
    sha256: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """Name, version and hash, for passports."""
        return f"{self.name} {self.version} ({self.sha256})"


def shipped() -> list[str]:
    """Names of the task files that come with the package."""
    return sorted(path.stem for path in SPECS.glob("*.json"))


def load_tasks(which: str) -> TaskSet:
    """Read a shipped file of tasks by name, or one of your own by path.

    Raises:
        ValueError: there is none, it is damaged, or a task contradicts itself.
    """
    path = Path(which) if which.endswith(".json") else SPECS / f"{which}.json"
    if not path.is_file():
        raise ValueError(
            f"no tasks {which!r}; allowed: {', '.join(shipped())}, or the path of a .json file"
        )
    try:
        given = read_json(path)
        if given.pop("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        stated = given.pop("sha256")
        tasks = tuple(_task(content) for content in given.pop("tasks"))
        found = TaskSet(**given, tasks=tasks, sha256=stated)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        needed = ", ".join(f.name for f in fields(TaskSet))
        raise ValueError(
            f"{path}: is no file of tasks ({type(error).__name__}: {error}); it needs format, {needed}"
        ) from error
    if stated != content_hash(found):
        raise ValueError(
            f"{path}: its sha256 is {stated}, its content has {content_hash(found)}; it was edited: make "
            "it again with python -m data_tools.plan_worlds.write_tasks, under another name or version"
        )
    _check(found, path)
    return found


def save_tasks(tasks: TaskSet, path: Path) -> None:
    """Write a file of tasks, with its hash."""
    write_json(path, {"format": FORMAT, **_plain(tasks), "sha256": content_hash(tasks)})


def content_hash(tasks: TaskSet) -> str:
    """Short hash of everything in a set of tasks."""
    text = json.dumps(_plain(tasks), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sub_goal_from(content: Any) -> SubGoal:
    """Read one sub-goal.

    Raises:
        ValueError: unknown fields, or one of the wrong kind.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"a sub-goal is {content!r}; an object with action or place is needed")
    known = [f.name for f in fields(SubGoal)]
    unknown = [name for name in content if name not in known]
    if unknown:
        raise ValueError(f"a sub-goal has a field {unknown[0]!r}; known: {', '.join(known)}")
    action, place = content.get("action"), content.get("place")
    waypoint, back = content.get("waypoint", "") or "", content.get("back", False)
    whole = place is None or (isinstance(place, int) and not isinstance(place, bool) and place >= 0)
    if not whole:
        raise ValueError(f"place is {place!r}; allowed: a whole number from 0 on, or null")
    if not (action is None or isinstance(action, str)):
        raise ValueError(f"action is {action!r}; allowed: a text, or null")
    if not isinstance(waypoint, str) or not isinstance(back, bool):
        raise ValueError(
            f"waypoint is {waypoint!r}, back is {back!r}; allowed: a text; true or false"
        )
    if action is None and place is None:
        raise ValueError("neither action nor place; give one of them")
    return SubGoal(action, place, waypoint, back)


def check_sub_goals(goals: Sequence[SubGoal], task: Task, actions: Sequence[str]) -> None:
    """Refuse sub-goals that cannot be followed.

    Raises:
        ValueError: there is none; an unknown action or way point; a place that lies ahead.
    """
    if not goals:
        raise ValueError(f"task {task.id} has no sub-goals; at least one is needed")
    names = {waypoint.name for waypoint in task.waypoints}
    for i, goal in enumerate(goals):
        fault = ""
        if goal.action is not None and goal.action not in actions:
            fault = f"action {goal.action!r} is unknown; allowed: {list(actions)}"
        elif goal.place is not None and goal.place > i:
            fault = f"place {goal.place} lies ahead; allowed: 0 to {i}"
        elif goal.waypoint and goal.waypoint not in names:
            fault = f"waypoint {goal.waypoint!r} is unknown; allowed: {sorted(names)}"
        if fault:
            raise ValueError(f"task {task.id}, sub-goal {i}: {fault}")


def _plain(tasks: TaskSet) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(tasks)))
    del content["sha256"]
    return content


def _task(content: Mapping[str, Any]) -> Task:
    parts = dict(content)
    script = tuple(sub_goal_from(goal) for goal in parts.pop("script"))
    waypoints = tuple(
        Waypoint(**{**point, "position": tuple(point["position"])})
        for point in parts.pop("waypoints")
    )
    return Task(**{**parts, "given": tuple(parts["given"])}, script=script, waypoints=waypoints)


def _check(tasks: TaskSet, path: Path) -> None:
    ids = [task.id for task in tasks.tasks]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(
            f"{path}: has {len(ids)} tasks, {len(set(ids))} of them by name; all differ"
        )
    for task in tasks.tasks:
        part_of_a_name(task.id, f"{path}: task")
        if not task.given or not task.waypoints:
            raise ValueError(f"{path}: task {task.id!r} needs given actions and way points")
        actions = {goal.action for goal in task.script if goal.action is not None}
        check_sub_goals(task.script, task, sorted(actions))
