"""Who splits a task into sub-goals: the task's own script, a file, or a chat model (`chat.py`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from sfv.files import read_json
from sfv.planning.tasks import SubGoal, Task, sub_goal_from


@runtime_checkable
class SubGoalPlanner(Protocol):
    """Splits tasks into sub-goals; one chunk is generated for each."""

    def plan(self, task: Task, actions: Sequence[str]) -> list[SubGoal]:
        """Sub-goals of a task.

        Args:
            task: its text, script and way points.
            actions: what a chunk can be asked for.

        Raises:
            ValueError: no usable sub-goals were found.
        """
        ...


class Script:
    """The sub-goals that the task file holds."""

    def plan(self, task: Task, actions: Sequence[str]) -> list[SubGoal]:
        del actions
        return list(task.script)


class FromFile:
    """Sub-goals from a JSON file: {TASK ID: [{"action": ..., "place": ..., "waypoint": ...}, ...]}.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def plan(self, task: Task, actions: Sequence[str]) -> list[SubGoal]:
        del actions
        try:
            content = read_json(self.path)
            found = content.get(task.id)
            if found is None:
                raise ValueError(f"task {task.id} is not in it")
            return [sub_goal_from(goal) for goal in found]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path}: holds no sub-goals of task {task.id} ({error}); it needs "
                '{"TASK ID": [{"action": "...", "waypoint": "..."}, ...]}'
            ) from error
