"""ViZDoom as a camera: load a level, stand at a pose, take a picture. No display is needed."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.doom_level import Level, Line, Sector, level_from
from data_tools.collect.doom_walks import Pose
from data_tools.collect.runner import MissingEngine

WIDTH, HEIGHT = 160, 120
_VISIBILITY = 32
"""How far light reaches; the engine's 8 leaves most rooms black."""
INSTALL = (
    "ViZDoom is not installed; install it with: pip install 'sfv[doom]' (or: pip install vizdoom)"
)
_QUIET = ("hud", "weapon", "crosshair", "decals", "particles", "messages", "corpses")
_TICS = 2
"""Tics a frame; one tic after a warp the eye is still on the floor."""

_WARM_UP_TICS = 20
"""A new level takes no turns in its first tics."""


class OffCourse(Exception):
    """The engine put the player elsewhere than asked: a conveyor, a lift or a thing in the way."""


@dataclass
class Engine:
    """One running game.

    Args:
        game: a started `vizdoom.DoomGame`.
        variables: what the game tells of the player: x, y, z, yaw.
    """

    game: Any
    variables: tuple[Any, ...]

    def load(self, map_name: str, seed: int, still: bool = False) -> None:
        """Start a level afresh; the same seed gives the same flicker and the same frames.

        Args:
            map_name: of Freedoom or of the WAD given to `open_engine`.
            seed: of the engine.
            still: stop all things: flames and lamps no longer flicker.
        """
        self.game.set_doom_map(map_name)
        self.game.set_seed(seed % 2**31)
        self.game.new_episode()
        self.game.send_game_command("god")
        if still:
            self.game.send_game_command("freeze")
        self._wait(_WARM_UP_TICS)

    def level(self) -> Level:
        """Read the loaded level's geometry."""
        state = self.game.get_state()
        sectors = [
            Sector(
                s.floor_height,
                s.ceiling_height,
                tuple(Line((e.x1, e.y1, e.x2, e.y2), e.is_blocking) for e in s.lines),
            )
            for s in state.sectors
        ]
        things = [thing for thing in state.objects if "Player" not in thing.name]
        places = [(thing.position_x, thing.position_y) for thing in things]
        return level_from(sectors, places, [thing.name for thing in things])

    def film(
        self, poses: Sequence[Pose]
    ) -> tuple[NDArray[np.uint8], list[tuple[float, float, float, float]]]:
        """Take one picture at each pose.

        Returns:
            frames `t 120 160 3` and the poses x, y, z, yaw that the engine reports.

        Raises:
            OffCourse: a reported pose is more than a unit away from the one asked for.
        """
        frames = np.empty((len(poses), HEIGHT, WIDTH, 3), dtype=np.uint8)
        told = []
        self._stand(poses[0])
        for index, pose in enumerate(poses):
            self._stand(pose)
            frames[index] = self.game.get_state().screen_buffer
            told.append(self._told(pose))
        return frames, told

    def _told(self, pose: Pose) -> tuple[float, float, float, float]:
        x, y, z, yaw = self.position()
        turn = (yaw - pose.yaw + 180) % 360 - 180
        if max(abs(x - pose.x), abs(y - pose.y)) > 1 or abs(turn) > 0.01:
            raise OffCourse(f"asked for {pose}, got x={x} y={y} yaw={yaw}")
        return round(x, 3), round(y, 3), round(z, 3), round(yaw % 360, 3) % 360

    def _stand(self, pose: Pose) -> None:
        """Put the player at a pose, also where only the heading is new: a warp settles the eye."""
        left = (pose.yaw - self.position()[3] + 180) % 360 - 180
        self.game.send_game_command(f"warp {round(pose.x)} {round(pose.y)}")
        self.game.set_action([-left])
        self.game.advance_action(1, False)  # no picture of the first tic: half of the time
        self._wait(_TICS - 1)

    def position(self) -> list[float]:
        """Where the player is: x, y, z, yaw."""
        return [float(self.game.get_game_variable(v)) for v in self.variables]

    def _wait(self, tics: int) -> None:
        self.game.make_action([0.0], tics)


def require_vizdoom() -> ModuleType:
    """Import ViZDoom.

    Raises:
        MissingEngine: it is not installed; the message holds the install line.
    """
    try:
        import vizdoom
    except ImportError as error:
        raise MissingEngine(INSTALL) from error
    module: ModuleType = vizdoom
    return module


@contextmanager
def open_engine(survey: bool = False, wad: bytes | None = None) -> Iterator[Engine]:
    """Start ViZDoom on Freedoom: no monsters, no hands, no status bar, 160x120 RGB.

    Args:
        survey: tell the level's geometry (`Engine.level`), which makes each picture slow.
        wad: more levels, beside Freedoom's own.

    Raises:
        MissingEngine: the package is not installed.
    """
    vizdoom = require_vizdoom()
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(Path(vizdoom.__path__[0]) / "freedoom2.wad"))
    game.set_doom_scenario_path("")
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_sectors_info_enabled(survey)
    game.set_objects_info_enabled(survey)
    for part in _QUIET:
        getattr(game, f"set_render_{part}")(False)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    told = vizdoom.GameVariable
    variables = (told.POSITION_X, told.POSITION_Y, told.POSITION_Z, told.ANGLE)
    game.set_available_game_variables(list(variables))
    game.add_game_args(f"-nomonsters +sv_cheats 1 +r_visibility {_VISIBILITY}")
    game.set_doom_skill(1)
    game.set_episode_timeout(0)
    with tempfile.TemporaryDirectory() as folder:
        game.set_doom_config_path(str(Path(folder) / "vizdoom.ini"))
        if wad is not None:
            levels = Path(folder) / "levels.wad"
            levels.write_bytes(wad)
            game.set_doom_scenario_path(str(levels))
        with chdir(folder):  # where the engine leaves its files
            game.init()
        try:
            yield Engine(game, variables)
        finally:
            game.close()
