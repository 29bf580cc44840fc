"""SuperTuxKart as a stage: the game's own driver drives, pictures come from a virtual screen.

The game draws nothing to memory without a GPU, so it draws to Xvfb and the screen is read. One game
can be started in a process, and one race runs at a time.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.pictures import area_weights
from data_tools.collect.runner import MissingEngine
from data_tools.collect.supertuxkart_words import Moment, pose_of
from data_tools.collect.xvfb import Screen, open_screen

ASSETS = Path("/usr/share/games/supertuxkart/data")
STEP_SECONDS = 0.1
INSTALL = (
    "SuperTuxKart is not there; it needs Debian's assets (630 MB) and an environment of its own: "
    "apt-get install --no-install-recommends supertuxkart-data xvfb libegl1 libegl-mesa0 "
    "libgl1-mesa-dri libgl1 && python3 -m venv .venv-kart && "
    ".venv-kart/bin/pip install -r requirements/supertuxkart.txt, then run this with "
    ".venv-kart/bin/python"
)

_WINDOW = 200
_CROP = 128
"""The middle of the window: lap counter and nitro gauge stand in its corners."""

_COUNTDOWN_STEPS = 120
_SETTLE_STEPS = 12
"""Steps after a kart was set down somewhere: it drops a little and the camera follows."""

_START_SPEED = 10.0


@dataclass
class Game:
    """A started game.

    Args:
        stk: the module `pystk2`.
        screen: what it draws to.
        size: height and width of the pictures, pixels.
    """

    stk: Any
    screen: Screen
    size: int

    @contextmanager
    def race(
        self, track: str, kart: str, seed: int, laps: int, node: float | None
    ) -> Iterator["Race"]:
        """Start a race and wait out its countdown.

        Args:
            track: its name.
            kart: its name.
            seed: of the game.
            laps: after which the race is over.
            node: where on the track the kart is set down, 0 to 1; None: behind the start line.
        """
        config = self.stk.RaceConfig(
            num_kart=1, track=track, laps=laps, seed=seed, step_size=STEP_SECONDS
        )
        config.players[0].controller = self.stk.PlayerConfig.Controller.AI_CONTROL
        config.players[0].kart = kart
        running = self.stk.Race(config)
        try:
            running.start()
            race = Race(running, self.stk.WorldState(), self.screen, self.size)
            race.wait_for_start(self.stk.WorldState.Phase)
            if node is not None:
                track_plan = self.stk.Track()
                track_plan.update()
                race.set_down(np.array(track_plan.path_nodes), node)
            yield race
        finally:
            running.stop()
            del running


@dataclass
class Race:
    """A running race.

    Args:
        race: a `pystk2.Race`.
        state: a `pystk2.WorldState`.
        screen: what it draws to.
        size: height and width of the pictures, pixels.
    """

    race: Any
    state: Any
    screen: Screen
    size: int

    @property
    def laps(self) -> int:
        """Laps that are finished."""
        return int(self.state.karts[0].finished_laps)

    def step(self) -> tuple[NDArray[np.uint8], Moment]:
        """Drive on by STEP_SECONDS: the picture and the state after it."""
        self._drive()
        kart, control = self.state.karts[0], self.race.get_kart_action(0)
        moment = Moment(
            pose_of(kart.location, kart.front),
            float(kart.speed),
            (float(control.steer), float(control.acceleration), float(control.brake)),
        )
        return crop(self.screen.picture(), self.size), moment

    def wait_for_start(self, phase: Any) -> None:
        """Drive through the countdown."""
        for _ in range(_COUNTDOWN_STEPS):
            self._drive()
            if self.state.phase in (phase.GO_PHASE, phase.MUSIC_PHASE, phase.RACE_PHASE):
                return
        raise OSError("the race did not start; is the track broken?")

    def set_down(self, nodes: NDArray[np.float64], place: float) -> None:
        """Put the kart on the track, facing along it."""
        start, end = nodes[int(place * len(nodes)) % len(nodes)]
        half = np.arctan2(end[0] - start[0], end[2] - start[2]) / 2
        self.state.set_kart_location(
            0,
            (start + np.array([0.0, 0.5, 0.0])).tolist(),
            [0.0, float(np.sin(half)), 0.0, float(np.cos(half))],
            _START_SPEED,
        )
        for _ in range(_SETTLE_STEPS):
            self._drive()

    def _drive(self) -> None:
        self.race.step()
        self.state.update()


def crop(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Take the middle, where no gauge is, and average it down to `size size 3`."""
    edge = (_WINDOW - _CROP) // 2
    middle = picture[edge : edge + _CROP, edge : edge + _CROP].astype(np.float32)
    weights = area_weights(_CROP, size)
    small = np.einsum("ij,jkc,lk->ilc", weights, middle, weights)
    return np.asarray(np.round(small), dtype=np.uint8)


def require_supertuxkart(assets: Path) -> None:
    """Fail early when the game, its assets or Xvfb are missing.

    Raises:
        MissingEngine: with the install line.
    """
    missing = [] if find_spec("pystk2") else ["the Python package pystk2"]
    missing += [] if (assets / "tracks").is_dir() else [f"assets in {assets}"]
    missing += [] if shutil.which("Xvfb") else ["the program Xvfb"]
    if missing:
        raise MissingEngine(f"missing: {', '.join(missing)}. {INSTALL}")


@contextmanager
def open_game(assets: Path, size: int) -> Iterator[Game]:
    """Start the game once; a second start in the same process fails.

    Args:
        assets: Debian's data folder.
        size: height and width of the pictures, pixels.
    """
    require_supertuxkart(assets)
    with tempfile.TemporaryDirectory() as folder, open_screen(_WINDOW, _WINDOW) as screen:
        cache = Path(folder) / "PySuperTuxKart2" / "1.4"
        cache.mkdir(parents=True)
        (cache / "data").symlink_to(assets.resolve())
        (cache / "__downloaded__.txt").touch()  # else the package fetches assets when imported
        os.environ.update(
            DISPLAY=screen.display, LIBGL_ALWAYS_SOFTWARE="1", XDG_CACHE_HOME=folder,
            XDG_RUNTIME_DIR=folder,
        )  # fmt: skip
        import pystk2

        config = pystk2.GraphicsConfig.ld()
        config.screen_width = config.screen_height = _WINDOW
        config.animated_characters = False
        pystk2.init(config)
        try:
            yield Game(pystk2, screen, size)
        finally:
            pystk2.clean()
