"""`sfv plan`: long-horizon plans, executed in a real engine, row by row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from sfv.files import WAIT, locked, read_json, write_json
from sfv.generation.kept import kept_scores
from sfv.generation.settings import GenerationSettings
from sfv.generation.videos import read_video
from sfv.metrics.protocol import MetricValue, Passport, Row, paired_differences, report_json
from sfv.metrics.suite_common import videos_hash
from sfv.models.device import AUTO, find_device
from sfv.models.inverse_dynamics import InverseDynamics, InverseReader
from sfv.models.world_model import WorldModel
from sfv.planning.checks import check, check_engine, check_goals
from sfv.planning.environment import Environment
from sfv.planning.episode import PlaySettings
from sfv.planning.report import write_outputs
from sfv.planning.rows import ENGINE_ROWS, PlanRow, RowPlayer, Stage, video_paths
from sfv.planning.score import Plan, by_repeat, clip_scores, episode_scores, row_scores
from sfv.planning.sub_goals import Script, SubGoalPlanner
from sfv.planning.tasks import SubGoal, Task, TaskSet, check_sub_goals, load_tasks, sub_goal_from
from sfv.report.table import format_table
from sfv.run_folder import open_run_folder
from sfv.texts import printable

BASE, FAST = "none", "fast"
ROWS = (BASE, FAST, *ENGINE_ROWS)
SUB_GOALS = "sub_goals.json"
ENDED_EARLY = (
    "FVD of row {row} is left out: the environment ended actions early, so there are fewer than min_clips "
    "clips."
)


def plan(
    environment: Environment,
    tasks: str,
    out: Path,
    model: Path | None = None,
    inverse: Path | None = None,
    rows: list[str] | str = list(ROWS),  # noqa: B006 (read only)
    also: list[str] | str | None = None,
    sub_goals: SubGoalPlanner | None = None,
    num_tasks: int | None = None,
    tolerance: float | None = None,
    fvd: bool | None = None,
    min_clips: int = 16,
    play: PlaySettings = PlaySettings(),  # noqa: B008 (frozen)
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    device: str = AUTO,
) -> None:
    """Plan long tasks with a world model and execute the plans in the engine.

    Sub-goal by sub-goal: a chunk is imagined, an inverse dynamics model reads the steps off its frames,
    the engine executes them, and (rows with memory) Θ learns what was seen. The folder --out gets
    rows/ROW/TASK.json and videos (imagined and real side by side), report.json, report.html and
    TensorBoard logs; the same call again goes on where it was stopped.

    Args:
        environment: where plans are executed: class_path of an `sfv.planning.environment.Environment`.
        tasks: name of a shipped file of tasks (doom-retrace, metaworld-return), or the path of one.
        out: run folder.
        model: folder of a world model or of its run, or `reference`; oracle and random need none.
        inverse: folder of an inverse dynamics model; null lets the engine perform the chosen actions.
        rows: of none, fast, oracle (the engine is the world model), random (any action).
        also: NAME=FOLDER of further world models, each a row of its own with fast learning.
        sub_goals: who splits tasks: class_path of a `SubGoalPlanner`; null takes the tasks' scripts.
        num_tasks: the first so many; null takes all.
        tolerance: distance within which a way point counts as reached; null takes the tasks' own.
        fvd: also compare imagined with executed frames, which takes long (not of row random); null: where
            there are min_clips clips; true: where there are not, that is an error.
        min_clips: least number of clips of 16 frames for that.
        play: closed or open loop, how actions are found, time limit, how long memories last.
        generation: sampler, fast learning and precision.
        device: `auto` takes the GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
    """
    found = load_tasks(tasks)
    chosen = _chosen(found, num_tasks, tolerance, min_clips, environment)
    limit = found.tolerance if tolerance is None else tolerance
    wanted = _rows([rows] if isinstance(rows, str) else rows, model, also, device)
    reader = _reader(inverse, device)
    check(wanted, chosen, environment, reader, play)
    planner = sub_goals or Script()
    settings = _settings(found, chosen, environment, wanted, reader, planner, play, generation)
    open_run_folder(out, OmegaConf.to_yaml(OmegaConf.create(settings)))
    with locked(out, WAIT):
        try:
            goals = _goals(out, planner, chosen, environment)
            compared, left_out = check_goals(goals, play, environment.chunk_frames, min_clips, fvd)
            check_engine(out, environment, found, chosen)
            stage = Stage(environment, reader, play, generation)
            plans = _play(out, stage, wanted, chosen, goals, settings)
        except ImportError as error:  # the engine is not installed; the message says how
            raise ValueError(str(error)) from error
        finally:
            environment.close()
        known = {task.id: task for task in chosen}
        passport = _passport(settings, found, limit, reader, generation.seed)
        scores = {
            name: row_scores(played, known, environment, limit, passport)
            for name, played in plans.items()
        }
        if compared:
            left_out = _add_clips(scores, out / "rows", plans, passport, min_clips)
        content = report(plans, scores, known, environment, limit, settings)
        content["left_out"] = left_out
        write_outputs(out, plans, content, environment.fps)
    print(format_table(content))
    print(f"report: {out / 'report.html'}\nlogs:   tensorboard --logdir {out}")


def _reader(inverse: Path | None, device: str) -> InverseReader | None:
    if inverse is None:
        return None
    return InverseReader(InverseDynamics.load(inverse), find_device(device))


def _chosen(
    found: TaskSet,
    num_tasks: int | None,
    tolerance: float | int | None,
    min_clips: int,
    environment: Environment,
) -> tuple[Task, ...]:
    """The tasks to play, if the numbers allow it."""
    chosen = found.tasks[: max(0, num_tasks)] if num_tasks is not None else found.tasks
    if not chosen or (tolerance is not None and tolerance <= 0) or min_clips < 2:
        raise ValueError(
            f"num_tasks={num_tasks}, tolerance={tolerance}, min_clips={min_clips}; allowed: >= 1, > 0, >= 2"
        )
    if found.chunk_frames != environment.chunk_frames:
        raise ValueError(
            f"{found.label} has chunks of {found.chunk_frames} frames, the environment makes "
            f"{environment.chunk_frames}; give the environment that the tasks were made for"
        )
    return chosen


def _rows(
    names: Sequence[str], model: Path | None, also: list[str] | str | None, device: str
) -> list[PlanRow]:
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"rows are {list(names)}; allowed, each once: {', '.join(ROWS)}")
    needing = [name for name in names if name not in ENGINE_ROWS]
    if needing and model is None:
        raise ValueError(
            f"row {needing[0]!r} imagines with a world model: give --model, or the rows "
            f"{' and '.join(ENGINE_ROWS)} alone"
        )
    world = WorldModel.load(model, device) if needing and model is not None else None
    found = [
        PlanRow(name) if name in ENGINE_ROWS else PlanRow(name, world, name == "fast")
        for name in names
    ]
    for given in [also] if isinstance(also, str) else also or []:
        name, equals, folder = given.partition("=")
        taken = {row.name for row in found} | set(ROWS)
        if not equals or not name or name in taken or Path(name).name != name:
            raise ValueError(
                f"--also {given}: allowed is NAME=FOLDER with a name that no other row has, e.g. "
                "fast_loop=runs/loop/model"
            )
        found.append(PlanRow(name, WorldModel.load(folder, device), learns=True))
    return found


def _goals(
    out: Path, planner: SubGoalPlanner, tasks: Sequence[Task], environment: Environment
) -> dict[str, list[SubGoal]]:
    """Sub-goals of every task, asked for once and kept: all rows and later calls follow the same."""
    path = out / SUB_GOALS
    kept = read_json(path) if path.is_file() else {}
    for task in tasks:
        if task.id not in kept:
            goals = planner.plan(task, environment.actions)
            check_sub_goals(goals, task, environment.actions)
            kept[task.id] = [asdict(goal) for goal in goals]
            write_json(path, kept)
    return {task.id: [sub_goal_from(goal) for goal in kept[task.id]] for task in tasks}


def _play(
    out: Path,
    stage: Stage,
    rows: Sequence[PlanRow],
    tasks: Sequence[Task],
    goals: Mapping[str, Sequence[SubGoal]],
    settings: Mapping[str, Any],
) -> dict[str, list[Plan]]:
    shared = {name: value for name, value in settings.items() if name not in ("rows", "models")}
    total = len(rows) * stage.play.repeats * sum(len(goals[task.id]) for task in tasks)
    plans: dict[str, list[Plan]] = {}
    with tqdm(total=total, desc="plan", unit="chunk") as bar:

        def advance() -> None:
            bar.update(1)

        player = RowPlayer(out / "rows", stage, shared, advance)
        for row in rows:
            bar.set_postfix_str(printable(row.name))
            plans[row.name] = player.play_row(row, tasks, goals)
    return plans


def _add_clips(
    scores: dict[str, dict[str, MetricValue]],
    folder: Path,
    plans: Mapping[str, Sequence[Plan]],
    passport: Passport,
    min_clips: int,
) -> list[str]:
    """Add FVD and the like to all rows but random; a sentence on each that has too few clips after all."""
    left_out = []
    for name in [name for name in plans if name != "random"]:
        clips = _clips(folder / name, plans[name], passport, min_clips)
        scores[name] |= clips
        if not clips:
            left_out.append(ENDED_EARLY.format(row=name))
    return left_out


def _clips(
    folder: Path, plans: Sequence[Plan], passport: Passport, min_clips: int
) -> dict[str, MetricValue]:
    paths = [video_paths(folder, plan.episode) for plan in plans]
    paths = [pair for pair in paths if pair[0].is_file()]
    real, imagined = ([read_video(pair[i]) for pair in paths] for i in (0, 1))
    settings = {
        "real": videos_hash(real),
        "imagined": videos_hash(imagined),
        "passport": passport.to_dict(),
        "min_clips": min_clips,
    }
    measure = partial(clip_scores, real, imagined, passport, min_clips)
    return kept_scores(folder, "clips", settings, measure)


def _passport(
    settings: Mapping[str, Any],
    found: TaskSet,
    tolerance: float | int,
    reader: InverseReader | None,
    seed: int,
) -> Passport:
    play = settings["play"]
    told = ", ".join(f"{name} {value}" for name, value in play.items())
    return Passport(
        "",
        "plan",
        0,
        seed=seed,
        context=f"{play['loop']} loop, way out {play['way_out']}",
        network="" if reader is None else reader.name,
        network_sha256="" if reader is None else reader.sha256,
        resize="none" if reader is None else reader.resize,
        settings=f"tasks {found.label}, {settings['environment']}; distances in {found.unit}, tolerance "
        f"{tolerance:g}; sub-goals {settings['sub_goals']}; {told}",
    )


def report(
    plans: Mapping[str, Sequence[Plan]],
    scores: Mapping[str, Mapping[str, MetricValue]],
    tasks: Mapping[str, Task],
    environment: Environment,
    tolerance: float | int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `report.json`."""
    rows = {row: Row(len(plans[row]), found) for row, found in scores.items()}
    content = report_json(rows, settings)
    pairs = [(row, BASE) for row in scores if row != BASE and BASE in scores]
    pairs += [(row, FAST) for row in scores if row not in ROWS and FAST in scores]
    content["differences"] = paired_differences(scores, pairs)
    content["episodes"] = {
        row: [_episode(p, tasks[p.task], environment, tolerance) for p in each]
        for row, each in plans.items()
    }
    content["repeats"] = {
        row: by_repeat(each, tasks, environment, tolerance) for row, each in plans.items()
    }
    return content


def _episode(
    plan: Plan, task: Task, environment: Environment, tolerance: float | int
) -> dict[str, Any]:
    scores = episode_scores(plan, task, environment, tolerance)
    return {
        "episode": plan.episode,
        "dist": scores["dist"],
        "success": bool(scores["success"]),
        "limited": plan.limited,
        "undone": plan.undone,
        "seconds": plan.seconds,
    }


def _settings(
    found: TaskSet,
    tasks: Sequence[Task],
    environment: Environment,
    rows: Sequence[PlanRow],
    reader: InverseReader | None,
    planner: SubGoalPlanner,
    play: PlaySettings,
    generation: GenerationSettings,
) -> dict[str, Any]:
    """What decides a run, in plain types; no object of the user's is written out, nor any key."""
    content = {
        "tasks": found.label,
        "num_tasks": len(tasks),
        "environment": environment.name,
        "actions": list(environment.actions),
        "unit": environment.unit,
        "rows": [row.name for row in rows],
        "models": {row.name: row.world.fingerprint() for row in rows if row.world is not None},
        "inverse": None if reader is None else reader.sha256,
        "sub_goals": type(planner).__name__,
        "play": asdict(play),
        "generation": asdict(replace(generation, videos_at_once=1)),
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain
