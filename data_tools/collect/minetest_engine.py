"""Minetest as a camera: a world of its own, exact poses, whole pictures. Needs Debian's packages.

The game draws on a screen in memory (`xvfb`), a mod (`minetest_mod.lua`) does what is asked, and the
picture itself tells when it shows the answer. Each engine has its own display, port and world.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.collect.runner import MissingEngine
from data_tools.collect.xvfb import Screen, open_screen, running, wait_for
from sfv.files import write_bytes

PROGRAM = "/usr/games/minetest"
NEEDED = (PROGRAM, "Xvfb", "setpriv")
INSTALL = (
    "Minetest is not installed; install it with: apt-get update && apt-get install -y "
    "--no-install-recommends minetest minetest-data minetest-server xvfb xauth libgl1-mesa-dri"
)
MARGIN = 8
"""Pixels at each side of the picture that are cut off: the corners tell the command's number."""

FOV_DEGREES = 72

VIEW = 64
"""Blocks that are drawn around the player; fog hides the border."""

_ANSWER_SECONDS = 300.0
_STILL_PICTURES, _MAX_PICTURES = 6, 60
"""Equal pictures in a row after which no more of the world is expected to arrive; and when to stop
waiting for them."""

Pose = tuple[float, float, float, float, float]
"""x, height, z (blocks), yaw and pitch (degrees; yaw counter-clockwise from z, pitch down)."""


@dataclass(frozen=True)
class World:
    """What decides a world.

    Args:
        seed: of the map generator.
        mapgen: its name.
        time: of the day, 0 to 1; noon is 0.5. It stands still.
    """

    seed: int
    mapgen: str
    time: float


class Minetest:
    """One running game.

    Args:
        folder: of the world.
        screen: that it draws on.
        process: the game.
    """

    def __init__(self, folder: Path, screen: Screen, process: subprocess.Popen[bytes]) -> None:
        self._folder, self._screen, self._process = folder, screen, process
        self._number = 0
        self._picture = screen.picture()

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Give a command and wait until it is answered and shown.

        Raises:
            OSError: the game ended or does not answer.
        """
        self._number += 1
        text = json.dumps({"op": op, "n": self._number, **fields})
        command = self._folder / "command"
        command.with_suffix(".tmp").write_text(text)
        command.with_suffix(".tmp").replace(command)
        end = time.monotonic() + _ANSWER_SECONDS
        while not self._shown(self._screen.picture()):
            if self._process.poll() is not None:
                raise OSError(f"Minetest ended with code {self._process.returncode}")
            if time.monotonic() > end:
                raise OSError(f"Minetest did not answer {op!r} within {_ANSWER_SECONDS:g} s")
            time.sleep(0.002)
        # The copy that was looked at may have been made while the screen was drawn; this one is whole.
        self._picture = self._screen.picture()[MARGIN:-MARGIN, MARGIN:-MARGIN]
        answer: dict[str, Any] = json.loads((self._folder / "answer").read_text())
        return answer

    def stand(self, pose: Pose) -> NDArray[np.uint8]:
        """Look from a pose; gives the picture without its margin."""
        self.ask("stand", pose=_radians(pose))
        return self._picture

    def settle(self, poses: Sequence[Pose] = ()) -> None:
        """Visit poses, then wait until the picture no longer changes, but not for long.

        Raises:
            OSError: the game ended or does not answer.
        """
        if poses:
            self.ask("tour", poses=[_radians(pose) for pose in poses])
        still, before = 0, self._picture
        for _ in range(_MAX_PICTURES):
            self.ask("look")
            still = still + 1 if np.array_equal(before, self._picture) else 0
            if still == _STILL_PICTURES:
                return
            before = self._picture

    def put(self, place: tuple[int, int, int], node: str) -> str:
        """Set a block and give the name of what was there."""
        x, y, z = place
        before: str = self.ask("set", x=x, y=y, z=z, node=node)["before"]
        return before

    def _shown(self, picture: NDArray[np.uint8]) -> bool:
        wanted = np.array([255 * (self._number >> bit & 1) for bit in range(3)])
        corners = picture[[3, -4], [3, -4]].astype(int)
        return bool(np.abs(corners - wanted).max() < 40)


def _radians(pose: Pose) -> list[float]:
    return [*pose[:3], math.radians(pose[3]), math.radians(pose[4])]


def require_minetest() -> None:
    """Check that the programs are there.

    Raises:
        MissingEngine: names the one that is not; the message holds the install line.
    """
    for program in NEEDED:
        if shutil.which(program) is None:
            raise MissingEngine(f"{program} was not found. {INSTALL}")


@contextmanager
def open_minetest(world: World, side: int) -> Iterator[Minetest]:
    """Start a fresh world.

    Args:
        world: which.
        side: height and width of the pictures, pixels.

    Raises:
        MissingEngine: a program is not installed.
        OSError: the game did not start.
    """
    require_minetest()
    side += 2 * MARGIN
    with tempfile.TemporaryDirectory(prefix="sfv-minetest-") as home:
        folder = Path(home) / "world"
        _write_world(folder, world, side)
        command = [
            PROGRAM, "--go", "--world", str(folder), "--gameid", "minetest_game",
            "--name", "agent", "--config", str(folder / "minetest.conf"),
            "--logfile", str(folder / "debug.txt"), "--port", str(_free_port()),
        ]  # fmt: skip
        with open_screen(side, side) as screen:
            env = os.environ | {
                "DISPLAY": screen.display,
                "LIBGL_ALWAYS_SOFTWARE": "1",
                "HOME": home,
                "MINETEST_USER_PATH": home,
            }
            with running(command, env) as process:
                try:
                    wait_for("Minetest", folder / "ready", process, 60.0)
                except OSError as error:
                    raise OSError(f"{error}{_last_error(folder)}") from error
                yield Minetest(folder, screen, process)


def _last_error(folder: Path) -> str:
    """What the game's log says last of an error, to be put behind a message."""
    log = folder / "debug.txt"
    text = log.read_text(errors="replace") if log.exists() else ""
    found = [line for line in text.splitlines() if "ERROR" in line]
    return f"; its log says: {found[-1]}" if found else ""


def _write_world(folder: Path, world: World, side: int) -> None:
    mod = folder / "worldmods" / "sfv"
    mod.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("minetest_mod.lua"), mod / "init.lua")
    write_bytes(mod / "mod.conf", b"name = sfv\ndepends = default\n")
    backends = {f"{name}backend": "sqlite3" for name in ("", "player_", "auth_", "mod_storage_")}
    _write_settings(folder / "world.mt", {"gameid": "minetest_game", **backends})
    _write_settings(folder / "minetest.conf", _settings(world, side))


def _write_settings(path: Path, settings: dict[str, Any]) -> None:
    lines = [f"{name} = {str(value).lower()}\n" for name, value in settings.items()]
    write_bytes(path, "".join(lines).encode())


def _settings(world: World, side: int) -> dict[str, Any]:
    """No network but loopback, nothing that moves by itself, nothing drawn but the world."""
    off = (
        "show_statusline_on_connect vsync enable_shaders enable_clouds menu_clouds enable_sound "
        "enable_minimap show_debug enable_particles enable_dynamic_shadows fullscreen animation "
        "pause_on_lost_focus enable_damage mobs_spawn autojump"
    )
    rare = "abm_interval nodetimer_interval liquid_update server_map_save_interval"
    return {
        **dict.fromkeys(off.split(), False),
        **dict.fromkeys(rare.split(), 1_000_000),
        "bind_address": "127.0.0.1",
        "recent_chat_messages": 1,
        "screen_w": side,
        "screen_h": side,
        "fps_max": 200,
        "fps_max_unfocused": 200,
        "fov": FOV_DEGREES,
        "viewing_range": VIEW,
        "enable_fog": True,
        "smooth_lighting": True,
        "view_bobbing_amount": 0,
        "fall_bobbing_amount": 0,
        "node_highlighting": "none",
        "leaves_style": "simple",
        "mg_name": world.mapgen,
        "fixed_map_seed": world.seed,
        "static_spawnpoint": "0,2000,0",
        "world_start_time": round(24000 * world.time),
        "time_speed": 0,
        "disable_anticheat": True,  # it would answer a late report of the client with the old view
        "creative_mode": True,
        "free_move": True,
        "noclip": True,
        "num_emerge_threads": 1,
        "active_block_range": 1,
        "max_block_send_distance": 5,
        "max_block_generate_distance": 0,
        "max_simultaneous_block_sends_per_client": 100,
        "full_block_send_enable_min_time_from_building": 0,
        "client_unload_unused_data_timeout": 100_000,
        "dedicated_server_step": 0.01,
    }


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
