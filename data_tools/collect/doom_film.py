"""From a planned Doom walk to an episode on disk: filmed, checked, put into words, written."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.collect.doom_engine import Engine, OffCourse
from data_tools.collect.doom_level import Array, Level
from data_tools.collect.doom_maze import WORDS
from data_tools.collect.doom_walks import (
    CHUNK_FRAMES,
    TURN_DEGREES,
    NoRoomBeside,
    NoWay,
    Pose,
    Walk,
    revisits,
)
from data_tools.collect.pictures import revisit_psnr, shrink
from data_tools.collect.runner import Skipped
from data_tools.files import VIDEO_CODEC, encode_mp4, write_episode
from data_tools.language import Language, in_words
from sfv.data.schema import Action, Encoding, EpisodeMeta, Provenance, Split

FPS = 8.0
MIN_RETURN_PSNR = 30.0
MIN_BRIGHTNESS = 24.0

LANDMARK_DISTANCE = 700.0
"""Things further away than this, map units, are too small to name."""

_LANDMARK_ANGLE = 12.0
_TURNS = ("turn left", "turn right")


@dataclass(frozen=True)
class Stage:
    """A level to walk in: what films it, its geometry and where one can stand."""

    engine: Engine
    level: Level
    places: Array


@dataclass(frozen=True)
class Take:
    """What of an episode does not depend on the walk.

    Args:
        episode: its id.
        split: of the data set.
        scene: the place.
        source: where the frames come from.
        provenance: what made it.
        size: height and width of the frames, pixels.
        same_again: drop walks that look different where they come back.
        language: how the actions are told.
        words: draws the words.
        exact: drop walks that do not stand where planned, to the map unit; else one unit off passes.
    """

    episode: str
    split: Split
    scene: str
    source: str
    provenance: Provenance
    size: int
    same_again: bool
    language: Language
    words: np.random.Generator
    exact: bool = False


@contextmanager
def skipping_bad_walks() -> Iterator[None]:
    """Turn what can go wrong with a walk into `Skipped`."""
    try:
        yield
    except NoRoomBeside as error:
        raise Skipped("no room beside the way out") from error
    except NoWay as error:
        raise Skipped("no way") from error
    except OffCourse as error:
        raise Skipped("off course (lift, conveyor or a thing in the way)") from error


def film_walk(take: Take, walk: Walk, stage: Stage, folder: Path) -> Mapping[str, Any]:
    """Film a walk in the loaded level and write the episode.

    Returns:
        its measures.

    Raises:
        OffCourse: the engine put the player elsewhere than asked.
        Skipped: the pictures are no good.
    """
    pictures, poses = stage.engine.film(walk.poses)
    if take.exact:
        _require_exact(walk.poses, poses)
    frames = shrink(pictures, take.size)
    pairs = revisits(walk.poses)
    psnr = revisit_psnr(frames, pairs)
    if frames.mean() < MIN_BRIGHTNESS:
        raise Skipped("too dark")
    if take.same_again and psnr and psnr[0] < MIN_RETURN_PSNR:
        raise Skipped("revisit looks different (flicker, animation)")
    notes = walk.notes or (None,) * len(walk.actions)
    actions = [
        Action(text, i * CHUNK_FRAMES, (i + 1) * CHUNK_FRAMES, note)
        for i, (text, note) in enumerate(zip(walk.actions, notes, strict=True))
    ]
    meta = EpisodeMeta(
        id=take.episode,
        split=take.split,
        scene=take.scene,
        domain="navigation",
        source=take.source,
        licence="BSD-3-Clause",
        fps=FPS,
        num_frames=len(poses),
        height=take.size,
        width=take.size,
        actions=in_words(actions, take.language, take.words, facts(walk, stage.level)),
        poses=tuple(poses),
        revisits=tuple(pairs),
        provenance=take.provenance,
        encoding=Encoding("video", VIDEO_CODEC, "uint8"),
    )
    write_episode(folder, meta, encode_mp4(frames, FPS))
    return {"return_psnr": psnr}


def _require_exact(planned: Sequence[Pose], told: Sequence[tuple[float, ...]]) -> None:
    """Check positions to the map unit, which is as fine as the engine places; yaws are checked there."""
    for pose, (x, y, _, _) in zip(planned, told, strict=True):
        if (x, y) != (round(pose.x), round(pose.y)):
            raise OffCourse(f"asked for {pose}, got x={x} y={y}")


def facts(walk: Walk, level: Level) -> list[dict[str, Any]]:
    """What can be told of each chunk: degrees or steps, and the landmark that ends up ahead."""
    found = []
    for i, action in enumerate(walk.actions):
        end = walk.poses[(i + 1) * CHUNK_FRAMES - 1]
        turned = action in _TURNS
        known: dict[str, Any] = (
            {"degrees": CHUNK_FRAMES * TURN_DEGREES} if turned else {"steps": CHUNK_FRAMES}
        )
        thing = landmark(end, level)
        found.append(known | ({"landmark": thing} if thing else {}))
    return found


def landmark(pose: Pose, level: Level) -> str | None:
    """Words for the nearest thing that is seen straight ahead, if it has any."""
    here = np.array([pose.x, pose.y])
    ahead: list[tuple[float, str]] = []
    for place, kind in zip(level.things, level.kinds, strict=False):
        distance = float(np.linalg.norm(place - here))
        bearing = float(np.degrees(np.arctan2(*(place - here)[::-1])))
        aside = abs((bearing - pose.yaw + 180) % 360 - 180)
        near = distance <= LANDMARK_DISTANCE and aside <= _LANDMARK_ANGLE
        if kind in WORDS and near and level.view(here, bearing) > distance:
            ahead.append((distance, WORDS[kind]))
    return min(ahead)[1] if ahead else None
