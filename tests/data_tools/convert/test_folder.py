import json
import shutil
from pathlib import Path

import pytest

from data_tools.convert import folder
from tests.data_tools.convert.films import (
    episodes,
    marked,
    numbers,
    summary,
    texts,
    write_film,
    write_png,
)


def call(root: Path, out: Path, *more: str) -> int:
    return folder.main(
        ["--root", str(root), "--out", str(out), "--name", "mine", "--domain", "human",
         "--licence", "CC0-1.0", "--split", "train", "--size", "16", "--fps", "5", *more]
    )  # fmt: skip


def test_json_lines_keep_their_raw(tmp_path: Path) -> None:
    write_film(tmp_path / "in" / "a.mp4", 40, fps=10)
    rows = [
        {
            "video": "a.mp4",
            "start": 0,
            "stop": 2,
            "text": "walk",
            "scene": "s",
            "raw": {"keys": ["w"]},
        },
        {"video": "a.mp4", "start": 2, "stop": 4, "text": "run", "scene": "s"},
    ]
    table = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "in" / "actions.jsonl").write_text(table)
    assert call(tmp_path / "in", tmp_path / "out", "--chunk-frames", "5") == 0
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert texts(meta) == ["walk", "walk", "run", "run"] and len(frames) == 20
    assert [a.raw for a in meta.actions] == [{"annotation": {"keys": ["w"]}}] * 2 + [None] * 2


def test_a_folder_of_pictures_is_a_film(tmp_path: Path) -> None:
    for number in range(12):
        write_png(tmp_path / "in" / "walk" / f"frame_{number}.png", marked(number))
    table = "video,start,stop,text,scene\nwalk,0,1.2,walk on,yard\n"
    (tmp_path / "in" / "actions.csv").write_text(table)
    options = ("--chunk-frames", "3", "--quality", "lossless", "--picture-fps", "10")
    assert call(tmp_path / "in", tmp_path / "out", *options) == 0
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert numbers(frames) == [0, 2, 4, 6, 8, 10] and meta.id == "mine-walk-000"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no table; needed is one of"),
        (
            {"actions.csv": "", "actions.jsonl": ""},
            "has ['actions.csv', 'actions.jsonl']; needed is one",
        ),
        ({"actions.csv": "video,start,stop,text\n"}, "CSV lacks the column 'scene'"),
        ({"actions.csv": ""}, "CSV lacks the column 'video'"),
        (
            {"actions.csv": "video,start,stop,text,scene\na.mp4,0\n"},
            "another length than the header",
        ),
        ({"actions.csv": 'video,start,stop,text,scene\n"a.mp4,0,1,x,y\n'}, "CSV cannot be read"),
        ({"actions.jsonl": "[1]\n"}, "line 1 is no object"),
        ({"actions.jsonl": "{}\n{\n"}, "not JSON lines"),
        ({"actions.csv": b"\xff\xfe\x00"}, "not UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error(tmp_path, capsys, files, message) -> None:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    assert call(tmp_path / "in", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_rows_with_wrong_values_are_counted(tmp_path: Path) -> None:
    write_film(tmp_path / "in" / "a.mp4", 40, fps=10)
    good = {"video": "a.mp4", "start": 0, "stop": 4, "text": "walk", "scene": "s"}
    bad = [
        {**good, "scene": "t"},
        {**good, "text": 3},
        {**good, "start": True},
        {**good, "video": None},
    ]
    lines = "\n".join(json.dumps(row) for row in [good, *bad])
    (tmp_path / "in" / "actions.jsonl").write_text(lines)
    assert call(tmp_path / "in", tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {
        "'text' is no text": 1, "'video' is no text": 1, "not a number": 1, "video in two scenes": 1,
    }  # fmt: skip
    assert len(episodes(tmp_path / "out")) == 1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write_film(tmp_path / "secret.mp4", 40, fps=10)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "in" / "actions.csv").write_text("video,start,stop,text,scene\na.mp4,0,4,walk,s\n")
    assert call(tmp_path / "in", tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {"path outside of the data set": 1}


def test_names_and_folders_are_checked(tmp_path, capsys) -> None:
    assert call(tmp_path / "gone", tmp_path / "out") == 2
    assert "no such folder" in capsys.readouterr().err
    assert call(tmp_path, tmp_path / "out", "--name", "a/b") == 2
    assert "--name 'a/b': allowed are letters" in capsys.readouterr().err
    assert call(tmp_path, tmp_path / "out", "--picture-fps", "0") == 2
    assert "--picture-fps 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"raw": [1e999]}, {"text": "walk \ud800"}, {"raw": {"x": float("nan")}}]
)
def test_what_json_cannot_hold_is_counted(tmp_path: Path, change: dict) -> None:
    write_film(tmp_path / "in" / "a.mp4", 40, fps=10)
    row = {"video": "a.mp4", "start": 0, "stop": 4, "text": "walk", "scene": "s", **change}
    (tmp_path / "in" / "actions.jsonl").write_text(json.dumps(row).replace("Infinity", "1e999"))
    assert call(tmp_path / "in", tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {"annotations hold a value that JSON cannot": 1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.json"]


def test_an_action_without_an_end_in_sight_is_cut(tmp_path: Path) -> None:
    write_film(tmp_path / "in" / "a.mp4", 40, fps=10)
    (tmp_path / "in" / "actions.csv").write_text(
        "video,start,stop,text,scene\na.mp4,-5,1e300,walk,s\n"
    )
    assert call(tmp_path / "in", tmp_path / "out") == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert meta.num_frames == 16


LONG = "A long title " + "x" * 230


def test_names_of_any_script_and_length_are_converted_and_others_are_counted(
    tmp_path: Path,
) -> None:
    root = tmp_path / "in"
    good = ["a.mp4", f"{LONG}.mp4", "散歩.mp4", "走る.mp4"]
    bad = ["y" * 300 + ".mp4", "a\0.mp4", "\ud800.mp4"]
    write_film(root / "a.mp4", 40, fps=10)
    for name in good[1:]:
        shutil.copy(root / "a.mp4", root / name)
    (root / "._a.mp4").write_bytes(b"\0\5\x16\7")
    rows = [{"video": v, "start": 0, "stop": 2, "text": "walk", "scene": "s"} for v in good + bad]
    (root / "actions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--chunk-frames", "5")
    assert call(root, tmp_path / "out", *options) == 1, "some were broken"
    said = summary(tmp_path / "out")
    assert said["skipped"] == {"hidden file": 1, "path that no file can have": 3}
    ids = list(episodes(tmp_path / "out"))
    assert len(ids) == 4 and "mine-a-000" in ids and all(name.isascii() for name in ids)
    (tmp_path / "out" / "._mine-a-000.json").write_bytes(b"")
    assert call(root, tmp_path / "out", *options, "--resume") == 1
    assert summary(tmp_path / "out")["inputs"]["of them from before"] == 4


def test_hidden_pictures_are_no_frames(tmp_path: Path) -> None:
    for number in range(12):
        write_png(tmp_path / "in" / "walk" / f"{number}.png", marked(number))
        (tmp_path / "in" / "walk" / f"._{number}.png").write_bytes(b"")
    (tmp_path / "in" / "actions.csv").write_text(
        "video,start,stop,text,scene\nwalk,0,1.2,on,yard\n"
    )
    options = ("--chunk-frames", "3", "--quality", "lossless", "--picture-fps", "10")
    assert call(tmp_path / "in", tmp_path / "out", *options) == 0
    ((_, frames),) = episodes(tmp_path / "out").values()
    assert numbers(frames) == [0, 2, 4, 6, 8, 10]


def test_tables_of_other_systems_are_read(tmp_path: Path) -> None:
    """A byte order mark, \\r\\n, a vertical tab in a cell, and names that macOS wrote in pieces."""
    write_film(tmp_path / "in" / "cafe\u0301 [1].mp4", 40, fps=10)
    table = "video,start,stop,text,scene\r\ncaf\u00e9 [1].mp4,0,4,look\x0bat it,ro[o]m\r\n"
    (tmp_path / "in" / "actions.csv").write_bytes(table.encode("utf-8-sig"))
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"test": ["ro[o]m"], "train": ["*"]}))
    arguments = ["--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--name", "mine",
                 "--domain", "human", "--licence", "CC0-1.0", "--size", "16", "--fps", "5",
                 "--chunk-frames", "5", "--split-file", str(splits)]  # fmt: skip
    assert folder.main(arguments) == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert meta.split == "test" and meta.scene == "mine/ro[o]m"
    assert set(texts(meta)) == {"look at it"}
    assert summary(tmp_path / "out")["inputs"]["found"] == 1, "the film counts once"
