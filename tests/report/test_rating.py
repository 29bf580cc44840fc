import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from sfv.cli import main
from sfv.report.rating.agreement import krippendorff_alpha, summarise
from sfv.report.rating.answers import Ratings
from sfv.report.rating.videos import find_videos
from sfv.report.video import encode_mp4

EXAMPLE = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers and twelve units: the example of Krippendorff 2011."""


def make_systems(folder: Path, systems: str = "abc", episodes: int = 3) -> list[Path]:
    """A folder a system; every video has frames of its own."""
    for s, system in enumerate(systems):
        for e in range(episodes):
            frames = np.full((6, 32, 48, 3), 20 + 30 * s + 7 * e, np.uint8)
            path = folder / system / f"walk-{e}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_mp4(frames, 8))
            path.with_suffix(".txt").write_text(f"walk forward\n\nturn left {e}\n")
    return [folder / system for system in systems]


@pytest.fixture
def ratings(tmp_path: Path) -> Ratings:
    return Ratings(tmp_path / "ratings", find_videos(make_systems(tmp_path)), 2, 0)


def answer_all(ratings: Ratings, rater: str, taste: dict[str, float]) -> None:
    """Give each system the score in `taste`, a tenth less for the last criterion."""
    for number, task in enumerate(ratings.tasks(rater)):
        scores = [[taste[v.system], taste[v.system], taste[v.system] - 0.1] for v in task]
        ratings.add(rater, number, scores)


def test_alpha_of_the_published_example() -> None:
    observers = [line.split() for line in EXAMPLE.strip().splitlines()]
    units = [[float(v) for v in unit if v != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.849, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[0.1, 0.1], [0.9, 0.9], [0.5]]) == 1
    assert krippendorff_alpha([[0.0, 1.0], [1.0, 0.0]]) == pytest.approx(-0.5)
    assert math.isnan(krippendorff_alpha([[0.5, 0.5], [0.5, 0.5]])), "nothing to tell apart"
    assert math.isnan(krippendorff_alpha([[0.1, 0.2], [0.5]])), "one thing was rated twice"


def test_each_rater_sees_every_video_once_in_an_order_of_their_own(ratings: Ratings) -> None:
    orders = {}
    for rater in ("anna", "ben"):
        tasks = ratings.tasks(rater)
        assert tasks == ratings.tasks(rater)
        assert all(len({video.episode for video in task}) == 1 for task in tasks)
        assert sorted(len(task) for task in tasks) == [1, 1, 1, 2, 2, 2]
        orders[rater] = [video.key for task in tasks for video in task]
        assert sorted(orders[rater]) == sorted(ratings.videos)
    assert orders["anna"] != orders["ben"]
    left = {
        task[0].system
        for rater in map(str, range(20))
        for task in ratings.tasks(rater)
        if {v.system for v in task} == {"a", "b"}
    }
    assert left == {"a", "b"}, "sides are drawn too"


def test_answers_are_kept_one_by_one_and_gone_on_with(ratings: Ratings, tmp_path: Path) -> None:
    first, second = ratings.tasks("anna")[:2]
    ratings.add("anna", 0, [[0.25, 1, 0]] * len(first))
    again = Ratings(ratings.folder, find_videos([tmp_path / s for s in "abc"]), 2, 0)
    assert again.num_done("anna") == 1 and again.num_done("ben") == 0
    again.add("anna", 1, [[0.5, 0.5, 0.5]] * len(second))
    with (ratings.folder / "anna.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [*first, *second]
    assert [(row["episode"], row["system"]) for row in rows] == [video.key for video in shown]
    assert [row["video_sha256"] for row in rows] == [video.sha256 for video in shown]
    kept = {
        name: rows[0][name] for name in ("rater", "shown_at", "quality", "coherence", "actions")
    }
    assert kept == {
        "rater": "anna", "shown_at": "0.0", "quality": "0.25", "coherence": "1", "actions": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "scores", "said"),
    [
        (1, [[1, 1, 1]] * 2, "task 1 is not the next one of anna, which is 0"),
        (0, [[1, 1, 1]] * 3, "a list of 3 for each of"),
        (0, None, "the scores are None"),
        (0, "full", "the scores are 'full'"),
        (0, "one", "wanted is a list of 3"),
        (0, 1.01, "a score is 1.01; allowed are numbers from 0 to 1"),
        (0, -0.1, "a score is -0.1"),
        (0, math.nan, "a score is nan"),
        (0, True, "a score is True"),
        (0, "1", "the scores are '1'"),
    ],
)
def test_a_wrong_answer_is_refused_and_nothing_written(
    ratings: Ratings, task: int, scores: object, said: str
) -> None:
    if scores == "one":
        scores = [[1, 1]] * len(ratings.tasks("anna")[0])
    elif isinstance(scores, float | bool):
        scores = [[1, 1, scores]] * len(ratings.tasks("anna")[0])
    with pytest.raises(ValueError, match=said):
        ratings.add("anna", task, scores)
    assert [path.name for path in ratings.folder.iterdir()] == ["rating.json"]


@pytest.mark.parametrize("rater", ["", "../anna", "Anna", "a b", "a" * 33, "-a", None, "anna\n"])
def test_a_name_that_could_be_a_path_is_refused(ratings: Ratings, rater: str) -> None:
    with pytest.raises(ValueError, match="allowed are 1 to 32 small letters"):
        ratings.add(rater, 0, [[1, 1, 1]] * 2)


def test_the_summary_is_the_mean_of_raters_and_its_interval_that_of_episodes(
    ratings: Ratings,
) -> None:
    answer_all(ratings, "anna", {"a": 0.2, "b": 0.6, "c": 1.0})
    answer_all(ratings, "ben", {"a": 0.4, "b": 0.6, "c": 0.8})
    report = summarise(ratings.folder)
    means = {name: row["metrics"]["human"]["value"] for name, row in report["rows"].items()}
    assert means == pytest.approx({"a": 0.3 - 0.1 / 3, "b": 0.6 - 0.1 / 3, "c": 0.9 - 0.1 / 3})
    assert report["rows"]["a"]["metrics"]["human_actions"]["value"] == pytest.approx(0.2)
    assert {row["n"] for row in report["rows"].values()} == {3}
    gaps = {
        (g["row"], g["against"]): g["value"]
        for g in report["differences"]
        if g["metric"] == "human"
    }
    assert gaps == pytest.approx({("b", "a"): 0.3, ("c", "a"): 0.6, ("c", "b"): 0.3})
    units = [[0.2, 0.4]] * 3 + [[0.6, 0.6]] * 3 + [[1.0, 0.8]] * 3
    assert report["settings"]["alpha"]["quality"] == round(krippendorff_alpha(units), 4)
    assert report["settings"]["videos with fewer than 3 raters"] == 9


def test_the_command_sums_up(ratings: Ratings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rate", "--summary", f"--out={ratings.folder}"]) == 2
    assert "nobody has rated yet" in capsys.readouterr().err
    for rater in ("anna", "ben", "cleo"):
        answer_all(ratings, rater, {"a": 0.2, "b": 0.5, "c": 0.9})
    assert main(["rate", "--summary", f"--out={ratings.folder}"]) == 0
    printed = capsys.readouterr().out
    assert "Human ↑ (of 1)" in printed and "0.467" in printed and "human 1.000" in printed
    assert "fewer than 3 raters" not in printed
    assert json.loads((ratings.folder / "report.json").read_text())["rows"].keys() == set("abc")
    assert "human 1.000" in (ratings.folder / "report.html").read_text()


def test_folders_that_cannot_be_compared_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_systems(tmp_path, "ab")
    out = f"--out={tmp_path / 'ratings'}"

    def refused(*args: object) -> str:
        assert main(["rate", *map(str, args), out]) == 2
        return capsys.readouterr().err

    assert "give one a system" in refused()
    assert f"{tmp_path / 'none'} is no folder" in refused(a, tmp_path / "none")
    (tmp_path / "other").mkdir()
    assert "holds no video" in refused(a, tmp_path / "other")
    assert "two folders stand for the system 'a'" in refused(a, a)
    (b / "walk-1.mp4").unlink()
    assert "system 'b' has no video of walk-1" in refused(a, b)
    assert not (tmp_path / "ratings").exists()
    assert "--together is 0" in refused(a, "--together=0")


def test_a_folder_of_other_videos_is_not_gone_on_with(ratings: Ratings, tmp_path: Path) -> None:
    videos = find_videos([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(FileExistsError, match="ratings with other videos; give another --out"):
        Ratings(ratings.folder, videos, 2, 0)


def test_rows_of_a_rollout_are_systems(tmp_path: Path) -> None:
    (folder,) = make_systems(tmp_path, "m", 1)
    video = (folder / "walk-0.mp4").read_bytes()
    for row in ("none", "fast"):
        (folder / f"walk-0-{row}.mp4").write_bytes(video)
    settings = {"rows": ["none", "fast"], "tasks": [["walk-0", "", 8, ["turn left"]]]}
    (folder / "rollout.json").write_text(json.dumps({"settings": settings, "videos": {}}))
    found = find_videos([folder])
    assert [(v.system, v.episode, v.actions) for v in found] == [
        ("m/fast", "walk-0", ["turn left"]),
        ("m/none", "walk-0", ["turn left"]),
    ]
    settings["tasks"] = [["../m/walk-0", "", 8, ["turn left"]]]
    (folder / "rollout.json").write_text(json.dumps({"settings": settings, "videos": {}}))
    with pytest.raises(ValueError, match=r"rollout\.json: video .* part of a file's name"):
        find_videos([folder])


def test_a_table_edited_into_nonsense_is_named(ratings: Ratings) -> None:
    answer_all(ratings, "anna", {"a": 0.2, "b": 0.5, "c": 0.9})
    path = ratings.folder / "anna.csv"
    path.write_text(path.read_text().replace("0.2,0.2", "0.2,7", 1))
    with pytest.raises(ValueError, match=r"anna.csv, line \d+: scores .* are outside 0 to 1"):
        summarise(ratings.folder)
