"""Meta-World as a world to plan in: a puck to the goal area and back, by a Sawyer arm that was homed first.

Positions are the puck's x, y, z in metres. Actions are the phases of
`data_tools.collect.metaworld --play return`, so that a model trained on its episodes knows them.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.collect.metaworld_engine import STEP_RATE, Engine, Moment, open_task
from data_tools.collect.metaworld_film import PUCK, RETURN_TASK, SPARE_FRAMES
from data_tools.collect.robot_script import CLOSED, OPEN, Leg
from data_tools.plan_worlds.versions import version_of
from sfv.planning.environment import Position, Seen, Step

Array = NDArray[np.float64]
Place = tuple[float, float, float]
SETUP = ("layout", "goal")
ACTIONS = (
    "wait",
    "reach for the puck",
    "grasp the puck",
    "lift the puck",
    "carry the puck to the goal",
    "place the puck at the goal",
    "carry the puck back",
    "place the puck back",
    "release the puck",
    "raise the hand",
    "withdraw the hand",
)
HOLDING = ("grasp the puck", "lift the puck")
"""Actions with a closed gripper, besides those that carry and place."""

_GAIN = 10.0
_METRES_A_STEP = 0.01
"""How far a command of 1 moves the hand in one control step."""

_LEAD_FRAMES = 1.85
"""Frames by which the arm comes after the point that its hand is drawn to, at a steady speed: fitted to the
commands and moves of one scripted episode, at two control steps a frame."""

_OVER = 0.02
"""Nearer than this to the point above the puck, the hand goes down."""


@dataclass(frozen=True)
class _Saved:
    """What `load` needs beside the simulator's own state."""

    physics: Array
    seen: Array
    previous: Array
    last_positions: Array
    stiffness: Array
    springs: Array
    wanted: Array | None


class MetaWorld:
    """The task pick-place, with a goal area on the table.

    Args:
        size: height and width of the frames, pixels.
        every: control steps a frame; the robot makes 80 a second.
        chunk_frames: frames of an action.
    """

    unit = "m"
    actions = ACTIONS

    def __init__(self, size: int = 64, every: int = 2, chunk_frames: int = 8) -> None:
        if size < 16 or every < 1 or chunk_frames < 1:
            raise ValueError(
                f"size={size}, every={every}, chunk_frames={chunk_frames}; allowed: >= 16, >= 1, >= 1"
            )
        self.size, self.every, self.chunk_frames = size, every, chunk_frames
        self.fps = STEP_RATE / every
        self.name = f"Meta-World {version_of('metaworld')}, MuJoCo {version_of('mujoco')}"
        self._stack = ExitStack()
        self._opened: Engine | None = None
        self._goal = self._first = self._home = np.zeros(3)
        self._elbow: Array = np.zeros(7)
        self._wanted: Array | None = None

    @property
    def engine(self) -> Engine:
        """The simulator, started when it is first needed."""
        if self._opened is None:
            self._opened = self._stack.enter_context(open_task(RETURN_TASK, self.size))
        return self._opened

    def begin(self, setup: Mapping[str, Any]) -> Seen:
        if sorted(setup) != sorted(SETUP):
            raise ValueError(f"a Meta-World task is set up by {list(SETUP)}, got {sorted(setup)}")
        engine = self.engine
        start = engine.lay_out(int(setup["layout"]))
        x, y = (float(number) for number in setup["goal"])
        self._home, self._first = start.hand, start.thing
        self._goal = np.array([x, y, start.thing[2]])
        engine.mark_goal(self._goal)
        moment = start
        for _ in range(SPARE_FRAMES * self.every):  # home the arm, so that its elbow comes back too
            moment = engine.step(self._toward(start.hand, OPEN))
        self._elbow = engine.elbow()
        self._wanted = None
        return self._seen(moment)

    def execute(self, step: Step) -> Seen:
        """Move the hand by the change (metres); the action tells whether the gripper is closed.

        A command moves the point that draws the hand, and the arm comes after it. So that point is put
        ahead of where the steps lead: else the hand is late in every chunk, and runs on after it.
        """
        self._springs(step.action)
        change = np.array(step.change[:3])
        self._wanted = (self._drawn() if self._wanted is None else self._wanted) + change
        ahead = self._wanted + self._lead * change
        left = iter(range(self.every, 0, -1))

        def control() -> Array:
            way = (ahead - self._drawn()) / (next(left) * _METRES_A_STEP)
            return np.array([*np.clip(way, -1, 1), self._gripper(step.action)])

        return self._run(control)

    def perform(self, action: str) -> list[Seen]:
        if action not in ACTIONS:
            raise ValueError(f"no action {action!r} here; allowed: {list(ACTIONS)}")
        self._springs(action)
        self._wanted = None
        still = self._hand()
        return [self._run(lambda: self._control(action, still)) for _ in range(self.chunk_frames)]

    def save(self) -> Any:
        import mujoco

        env = self.engine.env.unwrapped
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, physics, kind)
        return _Saved(
            physics,
            self.engine.seen.copy(),
            np.array(env._prev_obs),
            np.array(env._last_stable_obs),
            env.model.jnt_stiffness.copy(),
            env.model.qpos_spring.copy(),
            None if self._wanted is None else self._wanted.copy(),
        )

    def load(self, state: Any) -> None:
        import mujoco

        env = self.engine.env.unwrapped
        env.model.jnt_stiffness[:] = state.stiffness
        env.model.qpos_spring[:] = state.springs
        mujoco.mj_setState(env.model, env.data, state.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)
        mujoco.mj_setState(env.model, env.data, state.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        env._prev_obs, env._last_stable_obs = state.previous.copy(), state.last_positions.copy()
        self.engine.seen = state.seen.copy()
        self._wanted = None if state.wanted is None else state.wanted.copy()

    def distance(self, a: Position, b: Position) -> float:
        """Straight, in space."""
        return float(np.linalg.norm(np.array(a) - np.array(b)))

    def close(self) -> None:
        self._stack.close()
        self._opened = None

    def arrived(self, action: str) -> bool:
        """Whether a chunk more of the action would change nothing: for whoever writes scripts."""
        hand = self._hand()
        target, _ = self._target(action, hand)
        return bool(np.linalg.norm(target - hand) < 2 * PUCK.exact)

    @property
    def _lead(self) -> float:
        """`_LEAD_FRAMES`, in frames of this world."""
        return _LEAD_FRAMES * 2 / self.every

    def _hand(self) -> Array:
        return np.array(self.engine.seen[:3])

    def _drawn(self) -> Array:
        """The point that draws the hand."""
        return np.array(self.engine.env.unwrapped.data.mocap_pos[0])

    def _run(self, control: Any) -> Seen:
        """One frame."""
        for _ in range(self.every):
            moment = self.engine.step(control())
        return self._seen(moment)

    def _seen(self, moment: Moment) -> Seen:
        frame = torch.from_numpy(self.engine.picture()).permute(2, 0, 1).contiguous()
        x, y, z = (float(number) for number in moment.thing.round(5))
        return Seen(frame, (x, y, z))

    def _control(self, action: str, still: Array) -> Array:
        return self._toward(self._target(action, still)[0], self._gripper(action))

    def _toward(self, target: Array, gripper: float) -> Array:
        x, y, z = target.tolist()
        leg = Leg("", (x, y, z), gripper, 1)
        return np.array([*leg.move(self._hand(), _GAIN), gripper])

    def _target(self, action: str, still: Array) -> tuple[Array, float]:
        """Where the hand goes under an action, and whether the gripper is closed."""
        puck = np.array(self.engine.seen[4:7])
        places: dict[str, Place] = {
            "wait": _place(self._home),
            "reach for the puck": self._down(puck),
            "lift the puck": PUCK.over(_under(still)),
            "carry the puck to the goal": PUCK.over(self._goal),
            "place the puck at the goal": PUCK.at(self._goal),
            "carry the puck back": PUCK.over(self._first),
            "place the puck back": PUCK.at(self._first),
            "raise the hand": PUCK.over(_under(still)),
            "withdraw the hand": _place(self._home),
        }
        return np.array(places.get(action, _place(still))), self._gripper(action)

    def _down(self, puck: Array) -> Place:
        """Above the puck first, then down to it."""
        over = np.array(PUCK.over(puck))
        aside = float(np.linalg.norm(over[:2] - self._hand()[:2]))
        return PUCK.at(puck) if aside < _OVER else PUCK.over(puck)

    def _gripper(self, action: str) -> float:
        holds = action in HOLDING or action.startswith(("carry", "place"))
        return CLOSED if holds else OPEN

    def _springs(self, action: str) -> None:
        """On the way home the elbow goes home as well."""
        self.engine.pull_elbow(self._elbow if action == "withdraw the hand" else None)


def _place(point: Array) -> Place:
    x, y, z = (float(number) for number in point)
    return x, y, z


def _under(hand: Array) -> Array:
    """Where a thing would be that is held there."""
    return np.asarray(hand - np.array(PUCK.offset))
