"""LIBERO as a stage: load a task, set one of its recorded starts, move the hand, take pictures.

It lives in an environment of its own (requirements/libero.txt): it brings another MuJoCo than
Meta-World. Its stock pictures are not used: shadows and reflections cost most of the time without a
GPU.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.mujoco_gl import choose_gl
from data_tools.collect.runner import MissingEngine

Array = NDArray[np.float64]

INSTALL = (
    "LIBERO is not installed; it needs an environment of its own (2 GB): python3 -m venv "
    ".venv-libero && .venv-libero/bin/pip install -r requirements/libero.txt, then run this with "
    ".venv-libero/bin/python"
)
STEP_RATE = 20.0
"""Control steps a second of the robot's own time."""

CAMERA = "agentview"
_HORIZON = 5000


@dataclass(frozen=True)
class Goal:
    """What a task asks for: a thing on or in a target.

    Args:
        relation: `in` or `on`.
        thing: the engine's name of what is moved, e.g. `alphabet_soup_1`.
        target: the engine's name of the body it goes to, e.g. `basket_1`.
    """

    relation: str
    thing: str
    target: str


@dataclass
class Engine:
    """One task of a suite.

    Args:
        env: a LIBERO environment without image observations.
        starts: the task's recorded starts.
        sentence: the task in words.
        goal: the same for the script; None when it asks for more than one thing to be moved.
        size: height and width of the pictures, pixels.
        seen: the last observation.
    """

    env: Any
    starts: Any
    sentence: str
    goal: Goal | None
    size: int
    seen: dict[str, Any]

    @property
    def hand(self) -> Array:
        return np.array(self.seen["robot0_eef_pos"], dtype=np.float64)

    def place_of(self, name: str) -> Array:
        """Position of a thing or of a fixture, metres."""
        if f"{name}_pos" in self.seen:
            return np.array(self.seen[f"{name}_pos"], dtype=np.float64)
        return np.array(self.env.env.sim.data.get_body_xpos(f"{name}_main"), dtype=np.float64)

    def lay_out(self, number: int) -> None:
        """Start from one of the recorded starts."""
        self.env.seed(0)
        self.env.reset()
        _plain_light(self.env)
        self.seen = self.env.set_init_state(self.starts[number])

    def step(self, control: Array) -> bool:
        """Move by one control step (x, y, z, three turns, gripper; -1 to 1); True on success."""
        self.seen, *_ = self.env.step(control)
        return bool(self.env.check_success())

    def picture(self) -> NDArray[np.uint8]:
        sim = self.env.env.sim
        picture = sim.render(camera_name=CAMERA, width=self.size, height=self.size)
        return np.ascontiguousarray(picture[::-1])


def require_libero() -> None:
    """Fail early when LIBERO or OpenGL is missing.

    Raises:
        MissingEngine: with the install line.
    """
    if find_spec("libero") is None or find_spec("robosuite") is None:
        raise MissingEngine(INSTALL)
    choose_gl()


@contextmanager
def open_task(suite: str, number: int, size: int) -> Iterator[Engine]:
    """Load a task; one OpenGL context stands until it is left.

    Args:
        suite: e.g. `libero_object`.
        number: of the task in its suite, from 0.
        size: height and width of the pictures, pixels.
    """
    require_libero()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("LIBERO_CONFIG_PATH", str(Path(folder)))
        from libero.libero import benchmark
        from libero.libero.envs import OffScreenRenderEnv

        tasks = benchmark.get_benchmark_dict()[suite]()
        env = OffScreenRenderEnv(
            bddl_file_name=tasks.get_task_bddl_file_path(number),
            camera_heights=size,
            camera_widths=size,
            camera_names=[CAMERA],
            horizon=_HORIZON,
            ignore_done=True,
        )
        try:
            starts = tasks.get_task_init_states(number)
            sentence = tasks.get_task(number).language
            goal = goal_of(env.env.parsed_problem["goal_state"])
            yield Engine(env, starts, sentence, goal, size, {})
        finally:
            env.close()


def goal_of(state: list[list[str]]) -> Goal | None:
    """Read a task's goal, e.g. `[["in", "soup_1", "basket_1_contain_region"]]`."""
    if len(state) != 1 or len(state[0]) != 3 or state[0][0].lower() not in ("in", "on"):
        return None
    relation, thing, place = state[0]
    words = place.split("_")
    numbers = [i for i, word in enumerate(words) if word.isdigit()]
    target = "_".join(words[: numbers[0] + 1]) if numbers else place
    return Goal(relation.lower(), thing, target)


def _plain_light(env: Any) -> None:
    """No shadows, reflections, antialiasing or stock pictures."""
    import mujoco

    sim = env.env.sim
    sim.model._model.vis.quality.offsamples = 0
    flags = sim._render_context_offscreen.scn.flags
    flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    for name, observable in env.env._observables.items():
        if "image" in name:
            observable.set_enabled(False)
