import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.collect import overcooked, overcooked_export
from data_tools.collect.overcooked_draw import TILE, Sprites
from data_tools.collect.overcooked_export import TableReader, games, read_table
from data_tools.collect.overcooked_words import Segment, event, segments
from data_tools.collect.runner import collect, recipe_hash
from data_tools.files import find_episodes
from data_tools.language import phrases
from sfv.data.schema import SchemaError
from sfv.data.stages import decode_mp4

TERRAIN = ["XPXX", "O  S", "X  X", "XDXX"]
UP, DOWN, LEFT, RIGHT = (0, -1), (0, 1), (-1, 0), (1, 0)


def state(at: tuple, facing: tuple, holds: str | None = None, things: tuple = ()) -> dict:
    held = None if holds is None else {"name": holds, "at": list(at)}
    if holds == "soup":
        held = {"name": "soup", "at": list(at), "soup": ["onion", 3, 20]}
    cook = {"at": list(at), "facing": list(facing), "holds": held}
    other = {"at": [2, 2], "facing": [0, 1], "holds": None}
    return {"players": [cook, other], "things": list(things)}


def turn(before: str | None, after: str | None, at: tuple, facing: tuple) -> str | None:
    return event(state(at, facing, before), state(at, facing, after), TERRAIN, 0)


@pytest.mark.parametrize(
    ("before", "after", "at", "facing", "text"),
    [
        (None, "onion", (1, 1), LEFT, "pick up an onion"),
        (None, "dish", (1, 2), DOWN, "pick up a plate"),
        (None, "onion", (1, 2), LEFT, "pick up the onion from the counter"),
        (None, "soup", (1, 2), LEFT, "pick up the soup from the counter"),
        ("onion", None, (1, 1), UP, "add the onion to the pot"),
        ("onion", None, (1, 2), LEFT, "place the onion on the counter"),
        ("dish", None, (1, 2), LEFT, "place the plate on the counter"),
        ("dish", "soup", (1, 1), UP, "pick up the soup from the pot"),
        ("soup", None, (2, 1), RIGHT, "serve the soup"),
        ("onion", "onion", (1, 1), UP, None),
        (None, None, (1, 1), UP, None),
    ],
)
def test_what_the_hands_do_has_a_word(
    before: str | None, after: str | None, at: tuple, facing: tuple, text: str | None
) -> None:
    assert turn(before, after, at, facing) == text
    assert text is None or len(phrases(text)) > 1


def played() -> list[dict]:
    """Stand 10, walk 3, take an onion, walk 2, cook it, and wander off."""
    rest = [state((2, 1), LEFT)] * 11
    walk = [state((1, 1), LEFT), state((1, 2), LEFT), state((1, 1), LEFT)]
    cook = [state((1, 1), LEFT, "onion"), state((2, 1), RIGHT, "onion")]
    cook += [state((1, 1), UP, "onion"), state((1, 1), UP)]
    return [*rest, *walk, *cook, state((2, 1), RIGHT), state((1, 1), LEFT)]


def test_a_segment_leads_to_its_event_and_pauses_are_waits() -> None:
    assert segments(played(), TERRAIN, 0) == [
        Segment("wait", 0, 10),
        Segment("pick up an onion", 10, 14),
        Segment("add the onion to the pot", 14, 17),
    ]


def test_the_other_cook_has_done_nothing() -> None:
    assert segments(played(), TERRAIN, 1) == []


def test_a_short_pause_belongs_to_what_comes_next() -> None:
    assert segments(played()[4:], TERRAIN, 0)[0] == Segment("pick up an onion", 0, 10)


def test_a_segment_of_one_frame_joins_the_next() -> None:
    states = [state((1, 1), LEFT), state((1, 1), LEFT, "onion"), state((1, 1), UP, "onion")]
    states.append(state((1, 1), UP))
    assert segments(states, TERRAIN, 0) == [Segment("add the onion to the pot", 0, 3)]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch was-run",)


def test_a_pickle_that_asks_for_more_than_a_table_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r"asks for posix\.system, which no table"):
        read_table(pickle.dumps(Evil()))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "pandas.read_pickle", "os.popen"])
def test_no_other_name_is_known(name: str) -> None:
    module, attribute = name.rsplit(".", 1)
    hostile = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(pickle.UnpicklingError, match=name):
        read_table(hostile)


def test_the_reader_gives_plain_arrays(tmp_path: Path) -> None:
    array = np.array([[1.5, 2.0]])
    data = pickle.dumps(array, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    file = tmp_path / "array"
    file.write_bytes(data)
    with file.open("rb") as opened:
        assert np.array_equal(TableReader(opened).load(), array)


def test_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "overcooked_ai-1.1.0.tar.gz"
    file.write_bytes(b"something else")
    assert overcooked_export.main([str(file), "--out", str(tmp_path / "games")]) == 2
    assert "sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "games").exists()


def rows(texts: list[str]) -> np.ndarray:
    return np.array(texts, dtype=object)


def test_games_are_told_apart_and_lose_the_players_numbers() -> None:
    first = "{'players': [{'position': [1, 2], 'orientation': [0, -1]}], 'objects': {}}"
    then = (
        "{'players': [{'position': [1, 1], 'orientation': [0, -1], 'held_object': {'name': 'soup', "
        "'position': [1, 1], 'state': ['onion', 3, 32]}}], 'objects': {'0,1': {'name': 'onion', "
        "'position': [0, 1]}}}"
    )
    columns = {
        "workerid_num": np.array([77, 77, 78]),
        "layout_name": rows(["ring"] * 3),
        "run": rows(["run-1"] * 3),
        "round_num": np.array([1.0, 1.0, 1.0]),
        "state": rows([first, then, first]),
        "next_state": rows([then, first, then]),
        "layout": rows(["['X1', '2P']"] * 3),
        "joint_action": rows(["[[0, -1], 'INTERACT']"] * 3),
        "score": np.array([0.0, 5.0, 0.0]),
    }
    two, one = games(columns, "train")
    assert [two["game"], one["game"]] == ["ring-train-00", "ring-train-01"]
    assert two["terrain"] == ["X ", " P"] and two["score"] == [0, 5]
    assert len(two["states"]) == 3 and len(one["states"]) == 2
    assert two["states"][1]["players"][0]["holds"]["soup"] == ["onion", 3, 32]
    assert two["states"][1]["things"] == [{"name": "onion", "at": [0, 1]}]
    assert two["actions"][0] == [[0, -1], "INTERACT"]
    assert "77" not in json.dumps(two)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Games as the export writes them, with sprites of one colour each."""
    folder = tmp_path / "games"
    (folder / "sprites").mkdir(parents=True)
    names = {
        "terrain": ["floor", "counter", "onions", "pot", "dishes", "serve"],
        "objects": ["onion", "dish"],
        "chefs": [
            f"{way}{held}"
            for way in ("NORTH", "SOUTH", "EAST", "WEST")
            for held in ("", "-onion", "-dish", "-soup-onion", "-bluehat", "-greenhat")
        ],
    }
    for sheet, sprites in names.items():
        places = {f"{n}.png": {"frame": {"x": i * TILE, "y": 0}} for i, n in enumerate(sprites)}
        draw(folder / "sprites" / f"{sheet}.png", sprites)
        (folder / "sprites" / f"{sheet}.json").write_text(json.dumps({"frames": places}))
    soups = [
        f"soup_{look}_tomato_0_onion_{n}" for look in ("idle", "cooked", "done") for n in (1, 3)
    ]
    frames = [
        {"filename": f"{n}.png", "frame": {"x": i * TILE, "y": 0}} for i, n in enumerate(soups)
    ]
    draw(folder / "sprites" / "soups.png", soups)
    (folder / "sprites" / "soups.json").write_text(json.dumps({"textures": [{"frames": frames}]}))
    for name in ("ring-train-00", "ring-train-05", "ring-test-00"):
        states = played()
        game = {
            "game": name, "layout": "ring", "step_seconds": 0.15, "terrain": TERRAIN,
            "states": states, "actions": [[[0, 0], "INTERACT"]] * (len(states) - 1),
            "score": list(range(len(states) - 1)),
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(game))
    (folder / "source.json").write_text(json.dumps({"sha256": "00"}))
    return folder


def colour(name: str) -> tuple[int, int, int, int]:
    known = {"-bluehat": (0, 0, 255, 255), "-greenhat": (0, 255, 0, 255), "pot": (9, 9, 9, 255)}
    return next((c for end, c in known.items() if name.endswith(end)), (200, 180, 160, 255))


def draw(path: Path, names: list[str]) -> None:
    sheet = Image.new("RGBA", (TILE * len(names), TILE))
    for i, name in enumerate(names):
        sheet.paste(colour(name), (i * TILE, 0, (i + 1) * TILE, TILE))
    sheet.save(path)


def test_the_actor_wears_the_blue_hat(exported: Path) -> None:
    sprites = Sprites(exported / "sprites")
    for actor, (blue, green) in ((0, ((1, 1), (2, 2))), (1, ((2, 2), (1, 1)))):
        frame = sprites.draw(state((1, 1), UP), TERRAIN, actor, 4 * TILE)
        for tile, expected in ((blue, (0, 0, 255)), (green, (0, 255, 0)), ((1, 0), (9, 9, 9))):
            x, y = (TILE * number + TILE // 2 for number in tile)
            assert tuple(frame[y, x]) == expected


def test_a_wide_kitchen_keeps_its_shape(exported: Path) -> None:
    sprites = Sprites(exported / "sprites")
    frame = sprites.draw(state((1, 1), UP), ["X" * 8, "X  XXXXX", "X  XXXXX", "X" * 8], 0, 32)
    assert frame.shape == (32, 32, 3)
    assert tuple(frame[2, 16]) == (155, 101, 0) and tuple(frame[10, 16]) == (200, 180, 160)


def test_clips_hold_what_the_actor_does(exported: Path, tmp_path: Path) -> None:
    settings = overcooked.Settings(exported, "train", 16, 32, 0)
    assert len(settings.clips) == 1  # the other cook does nothing, game 5 is for val
    summary = collect(settings, tmp_path / "out", 1)
    assert summary["clips in this split"] == 1
    ((meta, path),) = find_episodes([tmp_path / "out"])
    assert meta.id == "overcooked-ring-train-00-cook0-0000" and meta.num_frames == 17
    assert meta.scene == "overcooked/ring-train-00" and meta.licence == "NOASSERTION"
    assert [a.text for a in meta.actions] == [
        "wait",
        "pick up an onion",
        "add the onion to the pot",
    ]
    assert meta.actions[1].raw == {"keys": [[[0, 0], "INTERACT"]] * 4, "score": 13}
    assert decode_mp4(path.read_bytes()).shape == (17, 32, 32, 3)
    again = overcooked.Settings(exported, "train", 16, 32, 0)
    collect(again, tmp_path / "again", 1)
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_the_folder_decides_nothing(exported: Path, tmp_path: Path) -> None:
    first = overcooked.Settings(exported, "val", 16, 32, 0)
    moved = exported.rename(tmp_path / "elsewhere")
    assert recipe_hash(overcooked.Settings(moved, "val", 16, 32, 0)) == recipe_hash_of(first, moved)


def recipe_hash_of(settings: overcooked.Settings, folder: Path) -> str:
    object.__setattr__(settings, "games", folder)
    return recipe_hash(settings)


def test_games_are_dealt_to_splits_whole() -> None:
    names = [f"ring-train-{i:02d}" for i in range(12)] + ["ring-test-00", "two-words-test-03"]
    found = [overcooked.split_of(name) for name in names]
    assert found[:12] == (["train"] * 5 + ["val"]) * 2 and found[12:] == ["test", "test"]


def test_more_episodes_than_there_are_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--games", str(exported), "--out", str(tmp_path / "out"), "--frames", "16"]
    assert overcooked.main([*args, "--episodes", "9"]) == 2
    assert "the train games give 1 episodes of 16 frames" in capsys.readouterr().err


def test_missing_games_give_the_way_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--games", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert overcooked.main(args) == 2
    told = capsys.readouterr().err
    assert "pip download" in told and "overcooked_export" in told


def test_odd_sizes_are_refused(exported: Path) -> None:
    with pytest.raises(SchemaError, match="--size 33"):
        overcooked.Settings(exported, "train", 16, 33, 0)
