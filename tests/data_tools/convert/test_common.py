"""What all converters share, tried on folders of own recordings."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools import check_shards, write_shards
from data_tools.convert import folder
from data_tools.convert.film import Shape, frames_at
from data_tools.convert.recording import Recording
from sfv.data.windows import windows
from sfv.files import locked
from tests.data_tools.convert.films import episodes, numbers, summary, texts, truncated, write_film

TABLE = "video,start,stop,text,scene,speed\n"


def data(root: Path, rows: str, films: dict[str, int]) -> Path:
    for name, num_frames in films.items():
        write_film(root / name, num_frames, fps=10)
    (root / "actions.csv").write_text(TABLE + rows)
    return root


def yard_and_street(root: Path) -> Path:
    rows = (
        "yard.mp4,0,1.6,walk forward,yard,3\nyard.mp4,1.6,3.2,turn left,yard,\n"
        "b/street.mp4,0.8,2.4,walk forward,street,5\n"
    )
    return data(root, rows, {"yard.mp4": 32, "b/street.mp4": 30})


def call(root: Path, out: Path, *more: str, split: str = "train") -> int:
    arguments = ["--root", str(root), "--out", str(out), "--name", "mine", "--domain", "navigation"]
    arguments += ["--licence", "CC0-1.0", "--size", "16x24", "--fps", "5", "--chunk-frames", "4"]
    return folder.main([*arguments, *(["--split", split] if split else []), *more])


def fails(
    capsys: pytest.CaptureFixture[str], root: Path, out: Path, *more: str, **split: str
) -> str:
    assert call(root, out, *more, **split) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_episodes_hold_the_frames_and_words_of_their_time(tmp_path: Path) -> None:
    assert call(yard_and_street(tmp_path / "in"), tmp_path / "out") == 0
    found = episodes(tmp_path / "out")
    assert sorted(found) == ["mine-b-street-000", "mine-yard-000"]
    meta, frames = found["mine-yard-000"]
    assert texts(meta) == ["walk forward", "walk forward", "turn left", "turn left"]
    assert [a.raw for a in meta.actions] == [{"annotation": {"speed": "3"}}] * 2 + [None] * 2
    assert (meta.scene, meta.split, meta.fps) == ("mine/yard", "train", 5.0)
    assert meta.encoding.codec == "libx264" and (meta.height, meta.width) == (16, 24)
    assert numbers(frames) == list(range(0, 32, 2))
    meta, frames = found["mine-b-street-000"]
    assert texts(meta) == ["walk forward"] * 2 and numbers(frames) == list(range(8, 24, 2))


def test_episodes_pass_into_shards_and_training_windows(tmp_path: Path) -> None:
    call(yard_and_street(tmp_path / "in"), tmp_path / "out")
    assert write_shards.main([str(tmp_path / "out"), "--out", str(tmp_path / "shards")]) == 0
    assert check_shards.main([str(tmp_path / "shards")]) == 0
    meta, frames = episodes(tmp_path / "out")["mine-yard-000"]
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    cut = windows(meta, video, num_context=4, num_generated=4)
    assert [window.action for window in cut] == ["walk forward", "turn left", "turn left"]


def test_the_split_file_gives_scenes_to_splits(tmp_path: Path) -> None:
    root = yard_and_street(tmp_path / "in")
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["ya*"], "test": ["park"]}))
    assert call(root, tmp_path / "out", "--split-file", str(splits), split="") == 0
    assert {meta.split for meta, _ in episodes(tmp_path / "out").values()} == {"train"}
    counted = summary(tmp_path / "out")
    assert counted["skipped"] == {"scene in no split of the split file": 1}
    assert counted["inputs"] == {
        "found": 2, "kept": 1, "of them from before": 0, "skipped": 1, "broken": 0,
    }  # fmt: skip
    assert counted["rows"][0] == {
        "input": "b/street", "skipped": "scene in no split of the split file", "detail": "'street'",
        "broken": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"train": ["yard"], "test": ["yard"]}', "scene 'yard' stands in .*give it to one split"),
        ('{"train": ["y*"], "test": ["*"]}', "scene 'yard' stands in .*give it to one split"),
        ('{"dev": ["yard"]}', "lists of scenes under some"),
        ('{"train": "yard"}', "lists of scenes"),
        ("train: yard", "not JSON"),
    ],
)
def test_a_bad_split_file_is_an_error(tmp_path, capsys, given, message) -> None:
    root = yard_and_street(tmp_path / "in")
    splits = tmp_path / "splits.json"
    splits.write_text(given)
    error = fails(capsys, root, tmp_path / "out", "--split-file", str(splits), split="")
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


def test_a_missing_scene_is_an_error_with_a_hint(tmp_path, capsys) -> None:
    root = data(tmp_path / "in", "a.mp4,0,2,walk, ,\n", {"a.mp4": 20})
    error = fails(capsys, root, tmp_path / "out")
    assert "a: the scene is missing" in error and "fill the column 'scene'" in error


def test_faults_are_counted_and_the_rest_is_converted(tmp_path: Path, capsys) -> None:
    rows = (
        "good.mp4,0,2,walk,s,\ncut.mp4,0,6,walk,s,\ngone.mp4,0,1,walk,s,\n../out.mp4,0,1,walk,s,\n"
        "good.mp4,zero,1,walk,s,\ngood.mp4,0,inf,walk,s,\nshort.mp4,0,0.2,walk,s,\nlate.mp4,7,9,walk,s,\n"
    )
    films = {"good.mp4": 20, "cut.mp4": 60, "short.mp4": 20, "late.mp4": 20, "silent.mp4": 5}
    root = data(tmp_path / "in", rows, films)
    truncated(root / "cut.mp4", 0.5)
    write_film(tmp_path / "out.mp4", 20)
    assert call(root, tmp_path / "out", "--workers", "1") == 1, (
        "broken inputs show in the exit code"
    )
    assert sorted(episodes(tmp_path / "out")) == ["mine-good-000"]
    counted = summary(tmp_path / "out")
    assert counted["skipped"] == {
        "no episode long enough": 2,
        "not a number": 2,
        "path outside of the data set": 1,
        "video cannot be read or is damaged": 1,
        "video file is missing": 1,
        "video without an action": 1,
    }
    assert counted["inputs"]["broken"] == 5 and counted["inputs"]["found"] == 9
    details = {row["input"]: row.get("detail") for row in counted["rows"]}
    assert details["row 5"] == "start of row 5 is 'zero'"
    assert "1 actions beyond the video's end" in details["late"]


def test_an_annotation_beyond_the_end_is_cut_and_counted(tmp_path: Path) -> None:
    root = data(tmp_path / "in", "a.mp4,0,99,walk,s,\na.mp4,50,60,run,s,\n", {"a.mp4": 20})
    assert call(root, tmp_path / "out") == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert meta.num_frames == 8, "two seconds at five frames, whole chunks of four"
    assert summary(tmp_path / "out")["left out of kept inputs"] == {
        "actions beyond the video's end": 1,
        "actions cut at the video's end": 1,
        "frames after a stretch's last whole chunk": 2,
    }


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    root = yard_and_street(tmp_path / "in")
    call(root, tmp_path / "one")
    call(root, tmp_path / "two", "--workers", "2")
    one, two = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*.*")
            if p.is_file()
        }
        for n in ("one", "two")
    )
    assert one == two and len(one) == 7


def test_resume_keeps_what_is_finished_and_tries_the_broken_again(tmp_path: Path) -> None:
    root = yard_and_street(tmp_path / "in")
    shutil.copy(root / "yard.mp4", tmp_path / "whole.mp4")
    truncated(root / "yard.mp4", 0.5)
    assert call(root, tmp_path / "out") == 1
    kept = tmp_path / "out" / "mine-b-street-000.mp4"
    stamp = kept.stat().st_mtime_ns
    shutil.copy(tmp_path / "whole.mp4", root / "yard.mp4")
    assert call(root, tmp_path / "out", "--resume") == 0
    assert kept.stat().st_mtime_ns == stamp
    assert summary(tmp_path / "out")["inputs"]["of them from before"] == 1
    call(root, tmp_path / "fresh")
    for path in (tmp_path / "fresh").glob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    fresh, resumed = summary(tmp_path / "fresh"), summary(tmp_path / "out")
    assert {**fresh, "inputs": 0} == {**resumed, "inputs": 0}


def test_resume_after_a_kill_makes_half_an_input_whole(tmp_path: Path) -> None:
    """Killed between an input's two files and its row, the input is done again."""
    root = yard_and_street(tmp_path / "in")
    call(root, tmp_path / "out")
    (tmp_path / "out" / ".inputs" / "yard.json").unlink()
    (tmp_path / "out" / "summary.json").unlink()
    (tmp_path / "out" / "mine-yard-000.mp4").write_bytes(b"half")
    assert call(root, tmp_path / "out", "--resume") == 0
    assert numbers(episodes(tmp_path / "out")["mine-yard-000"][1]) == list(range(0, 32, 2))


def test_a_folder_that_holds_other_episodes_is_refused(tmp_path, capsys) -> None:
    root = yard_and_street(tmp_path / "in")
    call(root, tmp_path / "out")
    assert "holds 2 episodes already; give --resume" in fails(capsys, root, tmp_path / "out")
    error = fails(capsys, root, tmp_path / "out", "--resume", "--crf", "30")
    assert "was converted with other settings" in error
    error = fails(capsys, root, tmp_path / "out", "--resume", split="test")
    assert "was converted with other settings" in error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "16x", "allowed are H or HxW"),
        ("--size", "4", "from 8 on"),
        ("--size", "15x20", "h264 needs even numbers"),
        ("--fps", "0", "--fps 0: allowed are whole numbers from 1 on"),
        ("--chunk-frames", "-1", "--chunk-frames -1"),
        ("--max-chunks", "1", "--max-chunks 1 --min-chunks 2"),
        ("--crf", "99", "allowed are 0"),
        ("--fill", " ", "empty text"),
    ],
)
def test_options_out_of_range_are_errors(tmp_path, capsys, option, value, message) -> None:
    root = yard_and_street(tmp_path / "in")
    assert message in fails(capsys, root, tmp_path / "out", f"{option}={value}")
    assert not (tmp_path / "out").exists()


def test_two_inputs_of_one_name_are_an_error(tmp_path, capsys) -> None:
    films = {"a b.mp4": 20, "a-b.mp4": 20}
    root = data(tmp_path / "in", "a b.mp4,0,2,walk,s,\na-b.mp4,0,2,walk,s,\n", films)
    assert "would both be named 'a-b'" in fails(capsys, root, tmp_path / "out")


def test_lossless_keeps_every_byte_of_what_was_decoded(tmp_path: Path) -> None:
    root = data(tmp_path / "in", "a.mp4,0,2,walk,s,\n", {"a.mp4": 20})
    call(root, tmp_path / "out", "--quality", "lossless", "--size", "15x21")
    ((meta, frames),) = episodes(tmp_path / "out").values()
    assert meta.encoding.codec == "libx264rgb" and frames.shape[1:3] == (15, 21)
    recording = Recording("a", "s", root / "a.mp4")
    expected = frames_at(recording, [i / 5 for i in range(len(frames))], Shape(15, 21))
    assert np.array_equal(frames, np.stack(list(expected)))


def test_long_films_become_episodes_of_some_chunks(tmp_path: Path) -> None:
    root = data(tmp_path / "in", "a.mp4,0,6,walk,s,\n", {"a.mp4": 60})
    call(root, tmp_path / "out", "--max-chunks", "3")
    found = episodes(tmp_path / "out")
    assert [meta.num_frames for meta, _ in found.values()] == [12, 12]
    assert numbers(found["mine-a-001"][1]) == list(range(24, 48, 2))
    assert summary(tmp_path / "out")["left out of kept inputs"] == {
        "frames after a stretch's last whole chunk": 2,
        "frames of stretches with too few chunks": 4,
    }


def test_a_second_converter_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = yard_and_street(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with locked(out, "wait"):
        assert f"{out} is in use by process" in fails(capsys, root, out)
    assert not list(out.iterdir())
