import csv
import json
from pathlib import Path

import pytest

from data_tools.convert import driving
from tests.data_tools.convert.films import episodes, summary, texts, write_film

ADDRESS = "https://s3-us-west-2.amazonaws.com/sq8geewpqu/samples-1k/"
FIELDS = ("start", "end", "action", "justification")
RIDE, OTHER = "06d501fd", "01b0505f"


def write_table(path: Path, rows: list[tuple[str, list[tuple]]]) -> None:
    """The wide form: one row an annotator, four columns for each of 15 actions."""
    header = ["Input.Video", *(f"Answer.{i}{field}" for i in range(1, 16) for field in FIELDS)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for video, actions in rows:
            cells = [cell for action in actions for cell in action]
            writer.writerow([video, *cells, *[""] * (60 - len(cells))])


def car(
    start: int, stop: int, text: str, why: str = "because the light has turned green."
) -> tuple:
    return (start, stop, text, why)


def write_set(tmp_path: Path, rows: list[tuple[str, list[tuple]]], films: tuple[str, ...]) -> None:
    write_table(tmp_path / "BDD-X-Annotations_v1.csv", rows)
    for name in films:
        write_film(tmp_path / f"bdd100k/videos/train/{name}.mov", 60, fps=10, size=(36, 64))


def call(tmp_path: Path, *more: str) -> int:
    return driving.main(
        ["--annotations", str(tmp_path / "BDD-X-Annotations_v1.csv"), "--videos",
         str(tmp_path / "bdd100k/videos"), "--out", str(tmp_path / "out"), "--size", "32x56", "--fps", "5",
         "--chunk-frames", "5", *more]
    )  # fmt: skip


def test_actions_and_the_cars_state_are_kept(tmp_path: Path) -> None:
    name = f"{RIDE}-a9ffc960"
    actions = [
        car(0, 1, "The car accelerates"),
        car(2, 3, "The car stops."),
        car(3, 6, "The car turns"),
    ]
    write_set(tmp_path, [(f"{ADDRESS}{name}.mov", actions)], (name,))
    origin = 1_503_828_163_000
    info = {
        "rideID": "x", "startTime": origin, "endTime": origin + 6000,
        "locations": [
            {"timestamp": origin + 1000 * second, "speed": 1.5 * second, "course": 90.125, "latitude": 40.0,
             "longitude": -74.0, "accuracy": 10}
            for second in reversed(range(6))
        ],
    }  # fmt: skip
    folder = tmp_path / "bdd100k/info/100k/train"
    folder.mkdir(parents=True)
    (folder / f"{name}.json").write_text(json.dumps(info))
    assert call(tmp_path, "--info", str(tmp_path / "bdd100k/info"), "--split", "train") == 0
    ((meta, _),) = episodes(tmp_path / "out").values()
    assert texts(meta) == [
        "The car accelerates", "The car accelerates", "The car stops", "The car turns", "The car turns",
        "The car turns",
    ]  # fmt: skip
    assert (meta.scene, meta.domain) == (f"bddx/{RIDE}", "driving")
    raw = meta.actions[2].raw
    assert raw["annotation"] == {"justification": "because the light has turned green."}
    assert [state["speed"] for state in raw["samples"]["car"]] == [3], (
        "the record of second 2 acts from then on"
    )
    assert raw["samples"]["car"][0] == {
        "speed": 3, "course": 90.125, "latitude": 40, "longitude": -74, "accuracy": 10,
    }  # fmt: skip


def test_official_lists_give_splits_by_ride(tmp_path: Path, capsys) -> None:
    """A ride with videos in two lists is kept in one split: test before val before train."""
    names = (f"{RIDE}-00000001", f"{RIDE}-00000002", f"{OTHER}-00000003", f"{OTHER}-00000004")
    rows = [(f"{ADDRESS}{name}.mov", [car(0, 6, "The car drives")]) for name in names]
    write_set(tmp_path, rows, names)
    for split, lines in (
        ("train", f"1_{names[0]}\n"), ("val", ""), ("test", f"2_{names[1]}\n3_{names[2]}\n"),
    ):  # fmt: skip
        (tmp_path / f"{split}.txt").write_text(lines)
    assert call(tmp_path) == 2
    assert "no split: give --split or --split-file" in capsys.readouterr().err
    assert call(tmp_path, "--lists", str(tmp_path)) == 0
    found = {key: meta.split for key, (meta, _) in episodes(tmp_path / "out").items()}
    assert found == {f"bddx-{names[1]}-000": "test", f"bddx-{names[2]}-000": "test"}
    assert summary(tmp_path / "out")["skipped"] == {
        "the source's own split differs from its scene's": 1,
        "video in none of the lists": 1,
    }
    (tmp_path / "val.txt").unlink()
    assert call(tmp_path, "--lists", str(tmp_path), "--resume") == 2
    assert "needed are train.txt, val.txt, test.txt" in capsys.readouterr().err


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    name = f"{RIDE}-a9ffc960"
    good = [car(0, 6, "The car drives")]
    rows = [
        (f"{ADDRESS}{name}.mov", good),
        (f"{ADDRESS}{name}.mov", good),
        ("", []),
        ("", good),
        (f"{ADDRESS}{OTHER}-none.mov", good),
        (f"{ADDRESS}{name}.mov", [car("0s", 6, "x")]),
        (f"{ADDRESS}{name}.mov", []),
    ]
    write_set(tmp_path, rows, (name,))
    assert call(tmp_path, "--split", "train") == 1
    counted = summary(tmp_path / "out")
    assert counted["skipped"] == {
        "another annotator's row of the same video": 1,
        "empty row": 1,
        "not a number": 1,
        "row without a video": 1,
        "row without an action": 1,
        "video file is missing": 1,
    }
    assert counted["left out of kept inputs"] == {"videos without speed and course": 1}


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("[]", "info without a list 'locations'"),
        ('{"locations": [3], "startTime": 0}', "info without a list 'locations'"),
        ('{"locations": []}', "not a number"),
        ("{", "not JSON"),
    ],
)
def test_broken_info_is_counted(tmp_path: Path, info: str, reason: str) -> None:
    name = f"{RIDE}-a9ffc960"
    write_set(tmp_path, [(f"{ADDRESS}{name}.mov", [car(0, 6, "The car drives")])], (name,))
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / f"{name}.json").write_text(info)
    assert call(tmp_path, "--info", str(tmp_path / "info"), "--split", "train") == 1
    assert summary(tmp_path / "out")["skipped"] == {reason: 1}


def test_a_folder_without_videos_is_an_error(tmp_path: Path, capsys) -> None:
    write_set(tmp_path, [], ())
    (tmp_path / "bdd100k/videos").mkdir(parents=True)
    assert call(tmp_path, "--split", "train") == 2
    assert "no .mov or .mp4 file in it or below" in capsys.readouterr().err
