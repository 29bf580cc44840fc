"""Which videos are rated: one system a folder, one file an episode."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfv.files import confined
from sfv.names import is_hidden, part_of_a_name
from sfv.texts import find_file, read_lines, same_form

ROLLOUT = "rollout.json"
"""What `sfv rollout` writes beside EPISODE-ROW.mp4; its rows are systems."""


@dataclass(frozen=True)
class Video:
    """One video of one system.

    Attributes:
        system: who made it; raters never see it.
        episode: what it shows; systems are compared on the same episodes.
        path: the mp4, without links.
        sha256: of the file.
        actions: what was asked for, one a chunk; empty where unknown.
    """

    system: str
    episode: str
    path: Path
    sha256: str
    actions: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        return self.episode, self.system


def find_videos(folders: Sequence[Path]) -> list[Video]:
    """Find the videos of all systems, sorted; every system must have the same episodes.

    A folder of `sfv rollout` holds one system a row; any other folder is one system of that name, with
    EPISODE.mp4 and, if the rater should see the actions, EPISODE.txt with one a line.

    Raises:
        ValueError: no video, one name for two systems, an episode that a system lacks, or a file that
            leads out of its folder.
        FileNotFoundError: a folder is missing.
    """
    found: list[Video] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder; give one with videos (EPISODE.mp4) for each system"
            )
        known = {video.system for video in found}
        made = _of_rollout(folder) if (folder / ROLLOUT).is_file() else _of_folder(folder)
        if not made:
            raise ValueError(f"{folder} holds no video (*.mp4); give the folder of one system")
        twice = known & {video.system for video in made}
        if twice:
            raise ValueError(
                f"two folders stand for the system {sorted(twice)[0]!r}; rename one, a folder's name "
                "is that of its system"
            )
        found += made
    _check_episodes(found)
    return sorted(found, key=lambda video: video.key)


def _of_folder(folder: Path) -> list[Video]:
    made = []
    for path in sorted(p for p in folder.glob("*.mp4") if not is_hidden(p, folder)):
        real, script = confined(path, folder), path.with_suffix(".txt")
        lines = read_lines(confined(script, folder)) if script.exists() else []
        actions = [line.strip() for line in lines if line.strip()]
        made.append(Video(folder.resolve().name, same_form(path.stem), real, _hash(real), actions))
    return made


def _of_rollout(folder: Path) -> list[Video]:
    """Rows are systems; a folder's name comes in front, so that rollouts of two models can be rated."""
    content: dict[str, Any] = json.loads((folder / ROLLOUT).read_text())["settings"]
    made = []
    for row in content["rows"]:
        for name, _, _, actions in content["tasks"]:
            file = part_of_a_name(f"{name}-{row}.mp4", f"{folder / ROLLOUT}: video")
            path = find_file(folder, file)
            if path.exists():
                system, real = f"{folder.resolve().name}/{row}", confined(path, folder)
                made.append(Video(system, same_form(name), real, _hash(real), list(actions)))
    return made


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_episodes(videos: Sequence[Video]) -> None:
    episodes = {video.episode for video in videos}
    for system in sorted({video.system for video in videos}):
        absent = episodes - {video.episode for video in videos if video.system == system}
        if absent:
            raise ValueError(
                f"system {system!r} has no video of {', '.join(sorted(absent)[:5])}; systems are compared "
                "on the same episodes: add them, or take them from the other folders"
            )
