"""What would stop a run of plans, or make its numbers mean nothing, found before anything is imagined."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from sfv.files import write_json
from sfv.metrics.suite import too_few_clips, videos_hash
from sfv.metrics.weights import I3D_KINETICS, LPIPS_ALEX, find
from sfv.models.inverse_dynamics import InverseReader
from sfv.planning.environment import Environment, video_of
from sfv.planning.episode import PlaySettings, planned_frames
from sfv.planning.rows import PlanRow
from sfv.planning.score import CLIP_FRAMES
from sfv.planning.tasks import SubGoal, Task, TaskSet


def check(
    rows: Sequence[PlanRow],
    tasks: Sequence[Task],
    environment: Environment,
    reader: InverseReader | None,
    play: PlaySettings,
) -> None:
    """Find what would stop a row, or make its number mean nothing, before anything is imagined.

    Raises:
        ValueError: a model or the inverse model does not fit the environment; or no row could differ.
        WeightsMissing: a network that compares frames is not installed.
    """
    imagining = [row for row in rows if row.world is not None]
    for row in imagining:
        assert row.world is not None
        row.world.text(list(environment.actions))
        if row.world.num_generated != environment.chunk_frames:
            raise ValueError(
                f"the model of row {row.name} generates {row.world.num_generated} frames an action, the "
                f"environment's actions last {environment.chunk_frames}; they have to agree"
            )
    if reader is not None:
        reader.model.index_of(list(environment.actions))
        extra = sorted(set(reader.actions) - set(environment.actions))
        if extra:
            raise ValueError(
                f"the inverse model may read {extra}, which {environment.name} cannot do; it can "
                f"{list(environment.actions)}"
            )
    if reader is None and imagining and play.method == "act":
        raise ValueError(
            "without an inverse dynamics model and with method act the sub-goals' own actions are "
            "performed, whatever a world model imagines: give --inverse, or set play.method to imagine"
        )
    if play.match == "lpips":
        find(LPIPS_ALEX)
    backward = any(goal.back for task in tasks for goal in task.script)
    if play.way_out == "shown" and not backward:
        raise ValueError("play.way_out is shown, but the tasks name no way back; set it to planned")


def check_method(goals: Mapping[str, Sequence[SubGoal]], play: PlaySettings) -> None:
    """Places alone are found by imagining.

    Raises:
        ValueError: names the task.
    """
    for task, found in goals.items():
        if play.method == "act" and any(goal.action is None for goal in found):
            raise ValueError(
                f"task {task} has sub-goals with a place and no action; method act needs actions: set "
                "play.method to imagine"
            )


def check_engine(
    out: Path, environment: Environment, found: TaskSet, tasks: Sequence[Task]
) -> None:
    """Perform every script once: the engine has to reach the way points, and film the same frames.

    Raises:
        ValueError: another engine version than the tasks were made with.
    """
    done = out / "engine.json"
    if done.is_file():
        return
    for task in tqdm(tasks, desc="check the engine", unit="task"):
        first = environment.begin(task.setup)
        seen = [one for action in task.given for one in environment.perform(action)]
        for goal in task.script:
            if goal.action is not None:
                seen += environment.perform(goal.action)
            where = seen[-1].position
            for point in task.waypoints:
                gap = environment.distance(where, point.position)
                if point.name == goal.waypoint and gap > found.tolerance:
                    raise ValueError(
                        f"task {task.id}: its script misses way point {point.name} by {gap:.3g} "
                        f"{environment.unit} in {environment.name}; the tasks were made with {found.engine}"
                    )
        same_size = tuple(first.frame.shape[1:]) == (found.size, found.size)
        if task.frames_sha256 and same_size:
            digest = videos_hash([video_of(seen)])
            if digest != task.frames_sha256:
                raise ValueError(
                    f"task {task.id}: the way is right, but {environment.name} films other pictures than "
                    f"{found.engine}, with which the tasks were made; install that, or write new tasks"
                )
    write_json(done, {"checked": [task.id for task in tasks], "engine": environment.name})


def check_goals(
    goals: Mapping[str, Sequence[SubGoal]],
    play: PlaySettings,
    chunk_frames: int,
    min_clips: int,
    fvd: bool | None,
) -> tuple[bool, list[str]]:
    """Check sub-goals, and find whether what they come to makes enough clips for FVD; print where not.

    Args:
        goals: of every task.
        play: how many episodes, and which chunks are planned.
        chunk_frames: frames of a chunk.
        min_clips: least number of clips.
        fvd: True: FVD is needed; None: where there are enough clips; False: not wanted.

    Returns:
        whether FVD is measured, and what was printed.

    Raises:
        ValueError: as `check_method`; or `fvd` is True, and there are too few clips.
        WeightsMissing: a network that measures is not installed.
    """
    check_method(goals, play)
    if fvd is False:
        return False, []
    lengths = [planned_frames(found, play, chunk_frames) for found in goals.values()]
    fault = too_few_clips(lengths * play.repeats, min_clips, CLIP_FRAMES)
    if not fault:
        find(I3D_KINETICS)
        find(LPIPS_ALEX)
        return True, []
    left_out = f"FVD of imagined against executed frames is left out: {fault} (--min_clips)."
    if fvd:
        raise ValueError(
            f"{left_out} It was asked for: set a smaller --min_clips, give --fvd null (FVD where there are "
            "enough) or false; or take more tasks, --play.repeats or --play.max_steps, in another --out"
        )
    print(left_out)
    return False, [left_out]
