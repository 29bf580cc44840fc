"""The episode schema: what stands in the JSON beside each video, and what is refused.

Torch-free, so that collectors and converters start fast. The page `docs/schema.md` says the same
for people who write a converter.

Example:
    >>> actions = (Action("walk forward", 0, 8), Action("turn left", 8, 16))
    >>> meta = EpisodeMeta(
    ...     id="yard-00000", split="train", scene="yard", domain="navigation", source="my camera",
    ...     licence="CC0-1.0", fps=8.0, num_frames=16, height=64, width=64, actions=actions,
    ...     poses=None, revisits=(), provenance=Provenance("my_tool", "1", "0f3a"),
    ...     encoding=Encoding("video", "h264", "uint8"),
    ... )
    >>> from_json(to_json(meta)) == meta
    True
    >>> reverse_action("turn left")
    'turn right'
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_args

from sfv.data.objects import Camera, SceneObject, fault_in, is_camera, is_number

SCHEMA = "sfv.episode/1"
SCHEMA_WITH_OBJECTS = "sfv.episode/2"
"""The same with `objects` and `camera`, which version 1 does not know. An episode that has neither is
written as version 1, so readers of that version go on reading it."""

Split = Literal["train", "val", "test"]
Domain = Literal["navigation", "game", "human", "robot", "driving"]
Kind = Literal["video", "frames", "latents"]
SPLITS: tuple[str, ...] = get_args(Split)
DOMAINS: tuple[str, ...] = get_args(Domain)
KINDS: tuple[str, ...] = get_args(Kind)
DTYPES = {"video": ("uint8",), "frames": ("uint8",), "latents": ("float16",)}
RAW_DEPTH = 32
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*"

REVERSE = {
    "walk forward": "walk backward",
    "turn left": "turn right",
    "step left": "step right",
}
REVERSE |= {back: out for out, back in REVERSE.items()}


class SchemaError(ValueError):
    """An episode's metadata breaks the schema; the message names the episode and the field."""


@dataclass(frozen=True)
class Action:
    """One language action and the frames made under it.

    Args:
        text: what is done, in words; it conditions the model.
        start: first frame of the action.
        stop: one past its last frame.
        raw: what the source recorded (keys, motor values), any JSON value whose lists and objects are
            nested at most `RAW_DEPTH` deep; None when nothing.
    """

    text: str
    start: int
    stop: int
    raw: Any = None


@dataclass(frozen=True)
class Provenance:
    """Which tool made the episode, and a hash of the settings that decide its content."""

    tool: str
    version: str
    settings_hash: str


@dataclass(frozen=True)
class Encoding:
    """How the frames are stored.

    Args:
        kind: `video` (an mp4), `frames` (a uint8 array `t height width 3`) or `latents` (a float16
            array `c t h w`).
        codec: the video codec's name, `raw` for frames, or the fingerprint of the frame codec that
            made the latents.
        dtype: what decoding gives: `uint8` for video and frames, `float16` for latents.
    """

    kind: Kind
    codec: str
    dtype: str


@dataclass(frozen=True)
class EpisodeMeta:
    """Everything about one episode but its frames.

    Args:
        id: unique in the data set; letters, digits, `_` and `-`.
        split: `train`, `val` or `test`; a scene stands in one split only.
        scene: the place; there are no test scenes in training.
        domain: kind of world.
        source: where the frames come from.
        licence: SPDX name where there is one.
        fps: frames per second of the episode's own time.
        num_frames: frames in the episode, first to last action.
        height: pixels (of the video, also when latents are stored).
        width: pixels.
        actions: consecutive, covering every frame.
        poses: one (x, y, z, yaw in degrees, counter-clockwise) a frame in the world's units;
            None where the source has none.
        revisits: pairs (first frame, later frame) that stand at the same pose.
        provenance: what made it.
        encoding: how the frames are stored.
        objects: things whose places are known, frame by frame.
        camera: projection matrix of a camera that stands still, from the world's units to pixels;
            None where it moves or is not known.
    """

    id: str
    split: Split
    scene: str
    domain: Domain
    source: str
    licence: str
    fps: float
    num_frames: int
    height: int
    width: int
    actions: tuple[Action, ...]
    poses: tuple[tuple[float, float, float, float], ...] | None
    revisits: tuple[tuple[int, int], ...]
    provenance: Provenance
    encoding: Encoding
    objects: tuple[SceneObject, ...] = ()
    camera: Camera | None = None


def reverse_action(text: str) -> str:
    """Give the action that undoes `text`.

    Raises:
        SchemaError: no reverse is known for this text.
    """
    if text not in REVERSE:
        raise SchemaError(f"action {text!r} has no known reverse; known: {sorted(REVERSE)}")
    return REVERSE[text]


def to_json(meta: EpisodeMeta) -> str:
    """Validate and write as one JSON object, keys sorted."""
    validate(meta)
    known = bool(meta.objects) or meta.camera is not None
    fields = {"schema": SCHEMA_WITH_OBJECTS if known else SCHEMA, **dataclasses.asdict(meta)}
    if not known:
        del fields["objects"], fields["camera"]
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str | bytes, where: str = "episode") -> EpisodeMeta:
    """Read and validate one episode's JSON.

    Args:
        text: the JSON object.
        where: named in errors: a file or a shard's key.

    Raises:
        SchemaError: not JSON, another schema version, a missing, unknown or wrong field.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{where}: not JSON ({error}); write it with to_json") from error
    if not isinstance(given, dict):
        raise SchemaError(f"{where}: got {type(given).__name__}, a JSON object is needed")
    version = given.pop("schema", None)
    if version not in (SCHEMA, SCHEMA_WITH_OBJECTS):
        raise SchemaError(
            f"{where}: schema {_shown(version)} is not known; this version reads {SCHEMA!r} and "
            f"{SCHEMA_WITH_OBJECTS!r}: convert the episode or use the version of sfv that wrote it"
        )
    newer = sorted({"objects", "camera"} & set(given)) if version == SCHEMA else []
    if newer:
        raise SchemaError(f"{where}: unknown field {newer[0]!r} in {SCHEMA!r}")
    plain = _plain(given, where)
    _check(plain, where)
    fields = dict(vars(plain))
    fields["fps"] = float(plain.fps)
    fields["actions"] = tuple(Action(**vars(action)) for action in plain.actions)
    if plain.poses is not None:
        fields["poses"] = tuple(tuple(float(number) for number in pose) for pose in plain.poses)
    fields["provenance"] = Provenance(**vars(plain.provenance))
    fields["encoding"] = Encoding(**vars(plain.encoding))
    fields["objects"] = tuple(SceneObject(**vars(thing)) for thing in plain.objects)
    return EpisodeMeta(**fields)


def validate(meta: EpisodeMeta) -> None:
    """Check every rule of the schema.

    Raises:
        SchemaError: names the episode, the field, what was given and what is allowed.
    """
    _check(meta, f"episode {meta.id!r}")


def _plain(given: object, where: str) -> SimpleNamespace:
    """Give JSON the outer form of an `EpisodeMeta`: the right keys, tuples for lists."""
    meta = SimpleNamespace(**_fields(EpisodeMeta, given, where))
    meta.actions = tuple(
        SimpleNamespace(**{"raw": None, **_fields(Action, item, f"{where}: actions[{i}]")})
        for i, item in enumerate(_list(meta.actions, f"{where}: actions"))
    )
    if meta.poses is not None:
        meta.poses = _tuples(meta.poses, f"{where}: poses")
    meta.revisits = _tuples(meta.revisits, f"{where}: revisits")
    for name, part in (("provenance", Provenance), ("encoding", Encoding)):
        fields = _fields(part, getattr(meta, name), f"{where}: {name}")
        setattr(meta, name, SimpleNamespace(**fields))
    meta.objects = tuple(
        _plain_object(thing, f"{where}: objects[{i}]")
        for i, thing in enumerate(_list(getattr(meta, "objects", []), f"{where}: objects"))
    )
    camera = getattr(meta, "camera", None)
    meta.camera = None if camera is None else _tuples(camera, f"{where}: camera")
    return meta


def _plain_object(given: object, where: str) -> SimpleNamespace:
    thing = SimpleNamespace(**{"without": [], **_fields(SceneObject, given, where)})
    if thing.colour is not None:
        thing.colour = tuple(_list(thing.colour, f"{where}: colour"))
    for name in ("boxes", "places"):
        entries = _list(getattr(thing, name), f"{where}: {name}")
        held = [e if e is None else tuple(_list(e, f"{where}: {name}")) for e in entries]
        setattr(thing, name, tuple(held))
    thing.without = _tuples(thing.without, f"{where}: without")
    return thing


def _check(meta: Any, where: str) -> None:
    """Check an `EpisodeMeta`, or what is going to be one."""
    for name in ("id", "scene", "source", "licence"):
        _require(_is_text(getattr(meta, name)), where, name, getattr(meta, name), "a text")
    good_id = re.fullmatch(ID_PATTERN, meta.id) is not None
    _require(good_id, where, "id", meta.id, "letters, digits, '_' and '-' (it names files)")
    _require(meta.split in SPLITS, where, "split", meta.split, f"one of {SPLITS}")
    _require(meta.domain in DOMAINS, where, "domain", meta.domain, f"one of {DOMAINS}")
    _require(is_number(meta.fps) and meta.fps > 0, where, "fps", meta.fps, "a number > 0")
    for name in ("num_frames", "height", "width"):
        size = getattr(meta, name)
        _require(_is_int(size) and size > 0, where, name, size, "a whole number > 0")
    _check_actions(meta, where)
    _check_poses(meta, where)
    _check_revisits(meta, where)
    _check_objects(meta, where)
    for name in ("tool", "version", "settings_hash"):
        text = getattr(meta.provenance, name)
        _require(_is_text(text), where, f"provenance.{name}", text, "a text")
    kind, codec, dtype = meta.encoding.kind, meta.encoding.codec, meta.encoding.dtype
    _require(kind in KINDS, where, "encoding.kind", kind, f"one of {KINDS}")
    _require(_is_text(codec), where, "encoding.codec", codec, "a text")
    _require(dtype in DTYPES[kind], where, "encoding.dtype", dtype, f"one of {DTYPES[kind]}")


def _check_actions(meta: Any, where: str) -> None:
    _require(len(meta.actions) > 0, where, "actions", [], "at least one action")
    expected = 0
    for index, action in enumerate(meta.actions):
        name = f"actions[{index}]"
        _require(_is_text(action.text), where, f"{name}.text", action.text, "a text")
        span = [action.start, action.stop]
        _require(all(map(_is_int, span)), where, name, span, "whole frame numbers start, stop")
        _require(_depth_fits(action.raw, RAW_DEPTH), where, f"{name}.raw", "lists in lists",
                 f"a nesting of at most {RAW_DEPTH}")  # fmt: skip
        if action.start != expected:
            fault = "overlaps the action before it" if action.start < expected else "leaves a gap"
            raise SchemaError(
                f"{where}: {name} {_shown(action.text)} starts at frame {action.start} and {fault}; "
                f"actions cover every frame once, so it has to start at {expected}"
            )
        _require(action.stop > action.start, where, name, span, "start < stop")
        expected = action.stop
    _require(
        expected == meta.num_frames,
        where, "actions", f"an end at frame {expected}", f"an end at num_frames {meta.num_frames}",
    )  # fmt: skip


def _check_poses(meta: Any, where: str) -> None:
    if meta.poses is None:
        return
    _require(
        len(meta.poses) == meta.num_frames,
        where, "poses", f"{len(meta.poses)} poses", f"one a frame ({meta.num_frames}), or null",
    )  # fmt: skip
    numbers = [number for pose in meta.poses for number in pose]
    if (
        set(map(len, meta.poses)) == {4}
        and set(map(type, numbers)) <= {int, float}
        and _all_finite(numbers)
    ):
        return  # the whole episode at once: this runs for every episode that training reads
    for frame, pose in enumerate(meta.poses):
        _require(
            len(pose) == 4 and all(map(is_number, pose)),
            where, f"poses[{frame}]", pose, "four finite numbers x, y, z, yaw",
        )  # fmt: skip


def _check_revisits(meta: Any, where: str) -> None:
    for index, pair in enumerate(meta.revisits):
        good = len(pair) == 2 and all(map(_is_int, pair)) and 0 <= pair[0] < pair[1]
        _require(
            good and pair[1] < meta.num_frames,
            where, f"revisits[{index}]", list(pair),
            f"[first frame, later frame], first < later < num_frames {meta.num_frames}",
        )  # fmt: skip


def _check_objects(meta: Any, where: str) -> None:
    for index, thing in enumerate(meta.objects):
        fault = fault_in(thing, meta.num_frames, meta.height, meta.width)
        if fault is not None:
            field, given, allowed = fault
            _require(False, where, f"objects[{index}].{field}", given, allowed)
    good = meta.camera is None or is_camera(meta.camera)
    _require(good, where, "camera", meta.camera, "three rows of four finite numbers, or null")


def _require(holds: bool, where: str, field: str, given: object, allowed: str) -> None:
    if not holds:
        raise SchemaError(f"{where}: field {field!r}: got {_shown(given)}, allowed is {allowed}")


def _fields(kind: type, given: object, where: str) -> dict[str, Any]:
    """Check a JSON object's keys against a dataclass; fields with a default may be left out."""
    if not isinstance(given, dict):
        raise SchemaError(f"{where}: got {_shown(given)}, an object is needed")
    known = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SchemaError(f"{where}: unknown field {_shown(unknown[0])}; known: {sorted(known)}")
    needed = [name for name, f in known.items() if f.default is dataclasses.MISSING]
    missing = [name for name in needed if name not in given]
    if missing:
        raise SchemaError(f"{where}: field {missing[0]!r} is missing; needed: {needed}")
    return dict(given)


def _list(given: object, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise SchemaError(f"{where}: got {_shown(given)}, a list is needed")
    return given


def _tuples(given: object, where: str) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(_list(item, f"{where}[{i}]")) for i, item in enumerate(_list(given, where)))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _depth_fits(value: object, levels: int) -> bool:
    if not isinstance(value, list | tuple | dict):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_depth_fits(item, levels - 1) for item in inner)


def _all_finite(numbers: list[Any]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:  # a whole number beyond every float
        return False


def _shown(value: object) -> str:
    """A value as an error shows it: one from a file may be of any size, or nested without end."""
    try:
        text = repr(value)
    except RecursionError:
        return "lists in lists"
    return text if len(text) <= 200 else f"{text[:200]}..."
