"""Meta-World as a stage: lay out a task, move the hand, take pictures. No display is needed.

The environment's own `render` is left alone: its shadows and its antialiasing cost most of the time
when there is no GPU.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.mujoco_gl import INSTALL_GL, choose_gl
from data_tools.collect.runner import MissingEngine

Array = NDArray[np.float64]

INSTALL = (
    "Meta-World is not installed; install it with: pip install 'sfv[metaworld]' "
    "(or: pip install metaworld)"
)
STEP_RATE = 80.0
"""Control steps a second of the robot's own time."""

OVERSAMPLE = 2
"""Pictures are drawn this many times larger and averaged down: it smooths edges."""

_LOOK_AT = (0.0, 0.67, 0.13)
_DISTANCE, _AZIMUTH, _ELEVATION = 1.05, 135.0, -33.0
_MAX_STEPS = 100_000
_ARM_JOINTS = 7
_ELBOW_SPRING = 400.0
"""Newton metres a radian; 30 leaves the revisited frames at 20 to 30 dB, 400 gives 32 to 36 dB."""


@dataclass(frozen=True)
class Moment:
    """The state after one control step; positions in metres.

    Args:
        hand: of the gripper.
        thing: what is handled.
        second: a second thing (a nail, a thermos), zeros when there is none.
        opening: of the gripper, 0 to 1.
        success: as the task judges it.
    """

    hand: Array
    thing: Array
    second: Array
    opening: float
    success: bool


@dataclass
class Engine:
    """One task, ready to be laid out, with its script and a camera.

    Args:
        env: a Meta-World environment that shows its goal.
        script: the task's scripted policy.
        camera: draws the scene.
        seen: the environment's last observation.
    """

    env: Any
    script: Any
    camera: "Camera"
    seen: Array

    def lay_out(self, layout: int) -> Moment:
        """Start the task afresh; equal layouts put everything at equal places."""
        self.pull_elbow(None)
        self.env._freeze_rand_vec = False
        self.env.seeded_rand_vec = True
        self.env.seed(layout % 2**32)
        self.seen, _ = self.env.reset()
        self.env._freeze_rand_vec = True
        return self._moment(success=False)

    def mark_goal(self, place: Array) -> None:
        """Move the goal's marker; it stays there until the task is laid out again."""
        self.env.unwrapped._target_pos = place
        self.env.model.site("goal").pos = place

    def paint(self, body: str, rgba: tuple[float, float, float, float]) -> None:
        """Give a body another colour, until the task is opened again."""
        model = self.env.unwrapped.model
        of_body = model.geom_bodyid == model.body(body).id
        model.geom_matid[of_body] = -1
        model.geom_rgba[of_body] = rgba

    def elbow(self) -> Array:
        """The angles of the arm's seven joints, radians."""
        return np.array(self.env.unwrapped.data.qpos[:_ARM_JOINTS])

    def pull_elbow(self, angles: Array | None) -> None:
        """Pull the arm's joints to `angles` by springs; None lets them go.

        The hand alone does not say where the elbow is: seven joints, six numbers. Without the
        springs an arm that was away looks different after it came back.
        """
        model = self.env.unwrapped.model
        model.jnt_stiffness[:_ARM_JOINTS] = 0 if angles is None else _ELBOW_SPRING
        if angles is not None:
            model.qpos_spring[:_ARM_JOINTS] = angles

    def decide(self) -> Array:
        """What the scripted policy would do now: x, y, z and closing of the gripper, -1 to 1."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of each value that is clipped here
            control = self.script.get_action(self.seen.copy())
        return np.clip(np.asarray(control, dtype=np.float64), -1, 1)

    def step(self, control: Array) -> Moment:
        """Move the hand by one control step."""
        self.seen, _, _, _, info = self.env.step(control)
        return self._moment(success=bool(info["success"]))

    def picture(self) -> NDArray[np.uint8]:
        """Draw the scene as it stands."""
        return self.camera.picture(self.env.unwrapped.data)

    def _moment(self, success: bool) -> Moment:
        seen = self.seen
        return Moment(
            seen[:3].copy(), seen[4:7].copy(), seen[11:14].copy(), float(seen[3]), success
        )


@dataclass
class Camera:
    """A free camera that looks at the table from the robot's front left.

    Args:
        renderer: a `mujoco.Renderer` without shadows and antialiasing.
        view: a `mujoco.MjvCamera`.
        option: a `mujoco.MjvOption`, says whether goal markers are drawn.
    """

    renderer: Any
    view: Any
    option: Any

    def picture(self, data: Any) -> NDArray[np.uint8]:
        self.renderer.update_scene(data, self.view, self.option)
        large = self.renderer.render()
        return np.asarray(np.round(_averaged(large)), dtype=np.uint8)

    def share_of(self, body: str, env: Any) -> Array:
        """How much of each pixel shows a body, 0 to 1, `height width`."""
        import mujoco

        model = env.unwrapped.model
        self.renderer.enable_segmentation_rendering()
        self.renderer.update_scene(env.unwrapped.data, self.view, self.option)
        numbers, kinds = np.moveaxis(self.renderer.render(), 2, 0)
        self.renderer.disable_segmentation_rendering()
        of_body = np.flatnonzero(model.geom_bodyid == model.body(body).id)
        shown = np.isin(numbers, of_body) & (kinds == mujoco.mjtObj.mjOBJ_GEOM)
        return np.asarray(_averaged(shown[:, :, None])[:, :, 0], dtype=np.float64)

    def projection(self, model: Any, size: int) -> Array:
        """From metres to pixels, `3 4`; see `sfv.data.objects.Camera`."""
        turn, tilt = np.radians(self.view.azimuth), np.radians(self.view.elevation)
        ahead = np.array([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)])
        right = np.array([np.sin(turn), -np.cos(turn), 0.0])
        down = np.cross(ahead, right)
        eye = self.view.lookat - self.view.distance * ahead
        focal = size / 2 / np.tan(np.radians(model.vis.global_.fovy) / 2)
        turned = np.stack(
            [focal * right + size / 2 * ahead, focal * down + size / 2 * ahead, ahead]
        )
        return np.column_stack([turned, -turned @ eye])


def _averaged(large: NDArray[Any]) -> NDArray[np.float32]:
    """From the picture that is drawn to the one that is kept."""
    side = large.shape[0] // OVERSAMPLE
    blocks = large.reshape(side, OVERSAMPLE, side, OVERSAMPLE, -1).astype(np.float32)
    return np.asarray(blocks.mean(axis=(1, 3)))


def require_metaworld() -> None:
    """Fail early when Meta-World or OpenGL is missing.

    Raises:
        MissingEngine: with the install line.
    """
    choose_gl()
    try:
        import metaworld  # noqa: F401
        import mujoco  # noqa: F401
    except ImportError as error:
        raise MissingEngine(f"{INSTALL} ({error})") from error
    except (AttributeError, RuntimeError) as error:  # what MuJoCo's loader of OpenGL lets through
        raise MissingEngine(f"{INSTALL_GL} ({error})") from error


@contextmanager
def open_task(task: str, size: int, markers: bool = True) -> Iterator[Engine]:
    """Load a task; one OpenGL context stands until it is left.

    Args:
        task: its name without the version, e.g. `drawer-open`.
        size: height and width of the pictures, pixels.
        markers: draw the task's goal markers.
    """
    require_metaworld()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    from metaworld.policies import ENV_POLICY_MAP

    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"](seed=0)
    env.max_path_length = _MAX_STEPS
    camera = _camera(env.model, size, markers)
    try:
        yield Engine(env, ENV_POLICY_MAP[f"{task}-v3"](), camera, np.zeros(39))
    finally:
        camera.renderer.close()
        env.close()


def _camera(model: Any, size: int, markers: bool) -> Camera:
    import mujoco

    model.vis.quality.offsamples = 0  # before the renderer is made: afterwards it has no effect
    model.vis.global_.offheight = model.vis.global_.offwidth = max(640, OVERSAMPLE * size)
    try:
        renderer = mujoco.Renderer(model, OVERSAMPLE * size, OVERSAMPLE * size)
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        raise MissingEngine(f"{INSTALL_GL} ({error})") from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = _LOOK_AT
    view.distance, view.azimuth, view.elevation = _DISTANCE, _AZIMUTH, _ELEVATION
    option = mujoco.MjvOption()
    if not markers:
        option.sitegroup[:] = 0
    return Camera(renderer, view, option)
