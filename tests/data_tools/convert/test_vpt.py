import json
from pathlib import Path

import pytest

from data_tools.convert import vpt
from data_tools.convert.vpt_words import Tick, words
from tests.data_tools.convert.films import episodes, numbers, summary, texts, write_film

NAME = "cheeky-cornflower-setter-02e496ce4abb-20220421-092639"
W, A, S, D = (f"key.keyboard.{key}" for key in "wasd")


def tick(*keys: str, dx: float = 0.0, dy: float = 0.0, buttons: tuple = (), **more) -> dict:
    """One line in the form of recorder 7."""
    mouse = {
        "x": 274.0, "y": 338.0, "dx": dx, "dy": dy, "scaledX": -366.0, "scaledY": -22.0, "dwheel": 0.0,
        "buttons": list(buttons), "newButtons": more.pop("new", []),
    }  # fmt: skip
    return {
        "mouse": mouse, "keyboard": {"keys": list(keys), "newKeys": [], "chars": ""},
        "isGuiOpen": False, "isGuiInventory": False, "hotbar": 4, "yaw": -112.35, "pitch": 8.1,
        "xpos": 841.36, "ypos": 63.0, "zpos": 24.95, "tick": 0, "milli": 1649575088006, "inventory": [],
        "serverTick": 6001, "serverTickDurationMs": 36.3, "stats": {}, **more,
    }  # fmt: skip


def write(folder: Path, ticks: list[dict], name: str = NAME, num_frames: int | None = None) -> None:
    write_film(folder / f"{name}.mp4", len(ticks) if num_frames is None else num_frames, fps=20)
    lines = "".join(json.dumps(line) + "\n" for line in ticks)
    (folder / f"{name}.jsonl").write_text(lines)


def call(tmp_path: Path, *more: str) -> int:
    return vpt.main(
        ["--recordings", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--split", "train", "--size",
         "32x40", "--fps", "10", "--chunk-frames", "4", *more]
    )  # fmt: skip


def test_each_chunk_says_what_was_done_before_its_frames(tmp_path: Path) -> None:
    """Frame j shows what the ticks from frame j-1 on did: here two ticks a frame, from tick 6 on."""
    write(tmp_path / "in", [tick(W)] * 6 + [tick(dx=-20.0)] * 8 + [tick(A)] * 10)
    assert call(tmp_path) == 0
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert texts(meta) == ["walk forward", "turn left", "step left"]
    assert numbers(frames) == list(range(0, 24, 2))
    assert meta.scene == "vpt/cheeky-cornflower-setter" and meta.domain == "game"
    raws = [action.raw["annotation"] for action in meta.actions]
    assert raws[1] == {
        "first_tick": 6, "held": [["", 8]], "dx": [-20] * 8, "dy": [0] * 8, "hotbar": 4,
    }  # fmt: skip
    assert [raw["first_tick"] for raw in raws] == [0, 6, 14]
    assert [count for raw in raws for _, count in raw["held"]] == [6, 8, 8], "no tick twice"


def test_menus_are_left_out_and_split_the_recording(tmp_path: Path) -> None:
    menu = [tick(W, dx=500.0, isGuiOpen=True)] * 10
    write(tmp_path / "in", [tick(W)] * 16 + menu + [tick(S)] * 16)
    assert call(tmp_path) == 0
    found = episodes(tmp_path / "out")
    assert [texts(meta) for meta, _ in found.values()] == [
        ["walk forward"] * 2,
        ["walk backward"] * 2,
    ]
    assert numbers(found[f"vpt-{NAME}-001"][1]) == list(range(26, 42, 2))
    assert summary(tmp_path / "out")["left out of kept inputs"] == {
        "frames without an action": 5, "ticks with a menu open": 10,
    }  # fmt: skip


def test_menus_can_be_kept(tmp_path: Path) -> None:
    write(tmp_path / "in", [tick(W)] * 16 + [tick(isGuiOpen=True)] * 16)
    assert call(tmp_path, "--keep-menus") == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert texts(meta) == ["walk forward"] * 2 + ["use the menu"] * 2


def test_a_button_that_is_stuck_from_the_start_is_no_attack(tmp_path: Path) -> None:
    stuck = [tick(W, buttons=(0,), new=[0])] + [tick(W, buttons=(0,))] * 7
    write(
        tmp_path / "in",
        [*stuck, *[tick(W)] * 8, tick(buttons=(0,), new=[0]), *[tick(buttons=(0,))] * 15],
    )
    assert call(tmp_path) == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert texts(meta)[:2] == ["walk forward"] * 2 and texts(meta)[-1] == "attack"
    left_out = summary(tmp_path / "out")["left out of kept inputs"]
    assert left_out["ticks whose attack button was stuck from the start"] == 8


def test_ticks_beyond_the_film_and_frames_beyond_the_ticks_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "in", [tick(W)] * 40, num_frames=20)
    write(tmp_path / "in", [tick(W)] * 20, NAME.replace("02e4", "0000"), num_frames=40)
    assert call(tmp_path) == 0
    assert [meta.num_frames for meta, _ in episodes(tmp_path / "out").values()] == [8, 8]
    left_out = summary(tmp_path / "out")["left out of kept inputs"]
    assert (
        left_out["actions beyond the video's end"] == 2
        and left_out["frames without an action"] == 10
    )


def test_faults_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder, [tick(W, new=0)] * 20, "a")
    for name, lines in {
        "b": '{"mouse": {}}\n', "c": "{\n", "d": "",
        "e": json.dumps(tick(dx="fast")) + "\n", "f": json.dumps({**tick(), "keyboard": {}}) + "\n",
    }.items():  # fmt: skip
        write(folder, [tick(W)], name)
        (folder / f"{name}.jsonl").write_text(lines)
    write(folder, [tick(isGuiOpen=True)] * 20, "g")
    (folder / "h.jsonl").write_text("")
    assert call(tmp_path, "--scene", "all") == 1
    assert summary(tmp_path / "out")["skipped"] == {
        "a menu is open all the time": 1,
        "action file without a line": 1,
        "not JSON lines": 1,
        "not a number": 1,
        "recording lacks its .mp4 file": 1,
        "tick without keyboard or mouse": 1,
        "tick without keyboard.keys or mouse.buttons": 1,
    }
    assert len(episodes(tmp_path / "out")) == 1


def test_hidden_recordings_are_counted_and_not_broken(tmp_path: Path) -> None:
    write(tmp_path / "in", [tick("key.keyboard.w")] * 40)
    for suffix in (".mp4", ".jsonl"):
        (tmp_path / "in" / f"._{NAME}{suffix}").write_bytes(b"")
    assert call(tmp_path) == 0
    assert summary(tmp_path / "out")["skipped"] == {"hidden file": 1}


def test_a_name_that_tells_no_scene_is_an_error_with_a_hint(tmp_path: Path, capsys) -> None:
    write(tmp_path / "in", [tick(W)] * 20, "holiday")
    assert call(tmp_path) == 2
    error = capsys.readouterr().err
    assert "holiday: the scene is missing" in error and "name one --scene for all" in error


def test_scenes_can_be_sessions(tmp_path: Path) -> None:
    write(tmp_path / "in", [tick(W)] * 20)
    call(tmp_path, "--scene-by", "session")
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert meta.scene == "vpt/cheeky-cornflower-setter-02e496ce4abb"


def of(*held: str, dx: float = 0.0, dy: float = 0.0, hotbar: int = 0) -> Tick:
    return Tick(frozenset(held), dx, dy, hotbar=hotbar)


@pytest.mark.parametrize(
    ("ticks", "said"),
    [
        ([of()] * 4, "stand still"),
        ([of("forward")] * 2 + [of()] * 2, "walk forward"),
        ([of("forward")] + [of()] * 3, "stand still"),
        ([of("forward", "back")] * 4, "stand still"),
        ([of("forward", "sprint", "jump")] * 4, "sprint forward and jump"),
        ([of("forward", "sneak", "sprint", "right")] * 4, "sneak forward and step right"),
        ([of("forward", dx=-20)] * 4, "walk forward and turn left"),
        ([of(dx=16, dy=17)] * 4, "look down"),
        ([of(dx=17, dy=-17)] * 4, "turn right and look up"),
        ([of(dx=100), of(dx=-100)], "stand still"),
        ([of("forward", "attack", dx=40)] + [of("forward")] * 3, "walk forward and attack"),
        (
            [of("back", "use", "drop", dx=40)] * 2,
            "walk backward, turn right, use the item and drop the item",
        ),
        ([of(hotbar=1), of(hotbar=2)], "switch the item"),
    ],
)
def test_words(ticks: list[Tick], said: str) -> None:
    assert words(ticks) == said
