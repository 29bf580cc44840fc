import dataclasses
import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sfv.data import schema
from sfv.data.objects import SceneObject
from sfv.data.schema import Action, SchemaError, from_json, reverse_action, to_json, validate
from tests.data.make import make_meta


def full_meta() -> schema.EpisodeMeta:
    poses = tuple((float(i), -2.5, 41.0, 5.625 * i) for i in range(6))
    actions = (Action("walk forward", 0, 2, raw={"keys": ["w"]}), Action("turn left", 2, 6))
    return make_meta(
        num_chunks=2, num_frames=6, actions=actions, poses=poses, revisits=((1, 5), (0, 4))
    )


def broken(**changes: object) -> bytes:
    return json.dumps(json.loads(to_json(full_meta())) | changes).encode()


def test_json_and_back_keeps_every_field() -> None:
    meta = full_meta()
    assert from_json(to_json(meta)) == meta


def test_raw_may_be_left_out() -> None:
    given = json.loads(to_json(full_meta()))
    for action in given["actions"]:
        del action["raw"]
    assert from_json(json.dumps(given)).actions[0] == Action("walk forward", 0, 2)


def test_docstring_example_runs() -> None:
    assert doctest.testmod(schema).failed == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "sfv.episode/3"}, r"schema 'sfv.episode/3' is not known.*'sfv.episode/2'"),
        ({"objects": []}, "unknown field 'objects' in 'sfv.episode/1'"),
        ({"schema": None}, "schema None is not known"),
        ({"split": "dev"}, r"'split': got 'dev', allowed is one of \('train', 'val', 'test'\)"),
        ({"domain": "moon"}, "'domain': got 'moon'"),
        ({"id": "a/b"}, "'id': got 'a/b'"),
        ({"id": "a\n"}, "'id'"),
        ({"licence": " "}, "'licence': got ' ', allowed is a text"),
        ({"fps": 0}, "'fps': got 0, allowed is a number > 0"),
        ({"height": True}, "'height': got True"),
        ({"colour": 1}, "unknown field 'colour'; known: .*'actions'"),
        ({"poses": [[0, 0, 0, 0]]}, "'poses': got '1 poses', allowed is one a frame .6."),
        ({"poses": [[0, 0, 0]] * 6}, r"'poses\[0\]'.*four finite numbers"),
        ({"revisits": [[0, 6]]}, r"'revisits\[0\]': got \[0, 6\].*num_frames 6"),
        ({"revisits": [[3, 3]]}, r"'revisits\[0\]': got \[3, 3\]"),
        ({"revisits": 3}, "revisits: got 3, a list is needed"),
        ({"actions": []}, "'actions'.*at least one action"),
        ({"num_frames": 7, "poses": None}, "an end at frame 6.*an end at num_frames 7"),
        ({"provenance": {"tool": "x"}}, "provenance: field 'version' is missing"),
        (
            {"encoding": {"kind": "gif", "codec": "x", "dtype": "uint8"}},
            "'encoding.kind': got 'gif'",
        ),
        (
            {"encoding": {"kind": "latents", "codec": "x", "dtype": "float32"}},
            r"'encoding.dtype': got 'float32', allowed is one of \('float16',\)",
        ),
    ],
)
def test_faults_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message) as error:
        from_json(broken(**changes), "shard 7: a-000")
    assert str(error.value).startswith("shard 7: a-000")


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (1, 6, r"actions\[1\] 'turn left' starts at frame 1 and overlaps .* start at 2"),
        (3, 6, r"actions\[1\] 'turn left' starts at frame 3 and leaves a gap.* start at 2"),
        (2, 2, r"'actions\[1\]': got \[2, 2\], allowed is start < stop"),
    ],
)
def test_actions_cover_every_frame_once(start: int, stop: int, message: str) -> None:
    actions = (Action("walk forward", 0, 2), Action("turn left", start, stop))
    with pytest.raises(SchemaError, match=message):
        validate(dataclasses.replace(full_meta(), actions=actions))


def test_nan_is_refused() -> None:
    with pytest.raises(SchemaError, match="'fps': got nan"):
        to_json(make_meta(fps=float("nan")))


def test_not_json_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"x\.json: not JSON"):
        from_json(b"\xff{", "x.json")
    with pytest.raises(SchemaError, match="got list, a JSON object is needed"):
        from_json("[]")


PUCK = SceneObject(
    "puck", (255, 200, 0), ((1, 2, 3, 4), None) * 3, (None, (0.0, 0.5, -0.25)) * 3, ((4, 0),)
)
CAMERA = ((1.0, 0.0, 0.0, 3.0), (0.0, 1.0, 0.0, 2.0), (0.0, 0.0, 0.0, 1.0))


def test_objects_come_back_and_take_a_version_of_their_own() -> None:
    meta = dataclasses.replace(full_meta(), objects=(PUCK,), camera=CAMERA)
    text = to_json(meta)
    assert from_json(text) == meta and json.loads(text)["schema"] == "sfv.episode/2"
    plain = json.loads(to_json(full_meta()))
    assert plain["schema"] == "sfv.episode/1" and "objects" not in plain and "camera" not in plain
    only = dataclasses.replace(full_meta(), camera=CAMERA)
    assert from_json(to_json(only)) == only


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, r"'objects\[0\].name': got '', allowed is a text"),
        ({"colour": [0, 0, 256]}, r"'objects\[0\].colour': got \(0, 0, 256\), allowed is three"),
        ({"boxes": [None]}, r"'objects\[0\].boxes': got '1 entries', allowed is one a frame \(6\)"),
        ({"boxes": [[0, 0, 25, 4]] * 6}, r"boxes\[0\]'.* inside 24x16 pixels, not empty, or null"),
        ({"boxes": [[3, 0, 3, 4]] * 6}, r"boxes\[0\]'.*not empty"),
        ({"places": [[0, 0]] * 6}, r"places\[0\]'.*three finite numbers x, y, z, or null"),
        ({"without": [[0, 6]]}, r"without\[0\]'.*each from 0 to 5"),
        ({"color": 1}, r"objects\[0\]: unknown field 'color'"),
    ],
)
def test_faults_of_objects_are_named(changes: dict[str, object], message: str) -> None:
    given = json.loads(to_json(dataclasses.replace(full_meta(), objects=(PUCK,))))
    given["objects"][0] |= changes
    with pytest.raises(SchemaError, match=message):
        from_json(json.dumps(given))
    given = json.loads(to_json(dataclasses.replace(full_meta(), camera=CAMERA)))
    given["camera"] = given["camera"][:2]
    with pytest.raises(SchemaError, match=r"'camera'.*three rows of four finite numbers"):
        from_json(json.dumps(given))


def test_reverse_actions_are_pairs() -> None:
    assert reverse_action("walk backward") == "walk forward"
    for text in schema.REVERSE:
        assert reverse_action(reverse_action(text)) == text != reverse_action(text)
    with pytest.raises(SchemaError, match=r"'jump' has no known reverse; known: .*'step left'"):
        reverse_action("jump")


def test_schema_loads_no_torch() -> None:
    code = "import sys, sfv.data.schema, data_tools.collect.doom; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_of_the_docs_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    example = page.split("```json\n")[1].split("```")[0]
    assert from_json(example).actions[1].text == "turn left"
