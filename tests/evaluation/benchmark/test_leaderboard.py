import json
from pathlib import Path

import pytest

from experiments import leaderboard
from sfv.metrics.protocol import Passport, Row, mean_value, report_json

PAGE = f"# Board\n\n{leaderboard.BEGIN}\nold\n{leaderboard.END}\n\nfooter\n"


def write_report(folder, values, differences=(), **passport):
    """A report of rows with a way back; `passport` changes how all were measured."""
    told = Passport("return_psnr", "return", 3, settings="benchmark made-up 1", **passport)
    rows = {
        name: Row(3, {"return_psnr": mean_value([value - 1, value, value + 1], told)})
        for name, value in values.items()
    }
    content = report_json(rows, {"benchmark": "made-up 1", "parts": ["return-12"]})
    folder.mkdir()
    content["differences"] = list(differences)
    (folder / "report.json").write_text(json.dumps(content))
    return str(folder / "report.json")


def gap(row, low, high, num=10):
    return {"metric": "return_psnr", "row": row, "against": "none", "value": (low + high) / 2,
            "low": low, "high": high, "n": num}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_rows_of_several_systems_stand_in_one_table_best_first(tmp_path, page):
    ours = write_report(
        tmp_path / "ours", {"none": 15.0, "fast": 17.0, "shuffled": 16.0},
        [gap("fast", 1.5, 2.5), gap("shuffled", -2.5, -0.5)],
    )  # fmt: skip
    theirs = write_report(tmp_path / "x", {"videos": 16.5})
    assert leaderboard.main([ours, f"THEIRS={theirs}", f"--page={page}"]) == 0
    text = page.read_text()
    assert text.startswith("# Board\n") and text.endswith("\n\nfooter\n") and "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:2] for line in lines[1:]] == [
        ["| ours", "fast"], ["| THEIRS", "videos"], ["| ours", "shuffled"], ["| ours", "none"],
    ]  # fmt: skip
    assert "17.00 [14.52, 19.48] *" in lines[1] and "*" not in "".join(lines[2:])
    assert lines[3].count("(worse)") == 1 and "(worse)" not in lines[2] + lines[4]
    assert "### made-up 1: return-12" in text and "3 walks." in text


def test_few_walks_get_no_star_and_what_a_still_video_wins_is_grey(tmp_path, page):
    ours = write_report(tmp_path / "ours", {"none": 15.0, "fast": 17.0}, [gap("fast", 1.5, 2.5, 9)])
    content = json.loads(Path(ours).read_text())
    cell = content["rows"]["none"]["metrics"]["return_psnr"]
    for name, value in (("src", 90.0), ("motion", 3.0), ("motion_ceiling", 4.0)):
        content["rows"]["none"]["metrics"][name] = {
            **cell,
            "value": value,
            "low": None,
            "high": None,
        }
    Path(ours).write_text(json.dumps(content))
    assert leaderboard.main([ours, f"--page={page}"]) == 0
    text = page.read_text()
    assert "] *" not in text and '<span style="color: gray">(90.00)</span>' in text
    assert "ours/none: its motion of 3.00 is 25% below the true video's 4.00." in text


def test_numbers_that_were_measured_otherwise_are_refused(tmp_path, page, capsys):
    ours = write_report(tmp_path / "ours", {"none": 15.0})
    other = write_report(tmp_path / "other", {"none": 16.0}, reference_sha256="ab")
    assert leaderboard.main([ours, other, f"--page={page}"]) == 2
    said = capsys.readouterr().err
    assert "ours/none and other/none" in said and "reference_sha256: '' and 'ab'" in said
    assert page.read_text() == PAGE


def test_what_is_no_report_and_what_is_no_page_is_told(tmp_path, page, capsys):
    path = tmp_path / "a.json"
    path.write_text('{"rows": {}}')
    assert leaderboard.main([str(path), f"--page={page}"]) == 2
    assert "is no report of a benchmark (KeyError('settings'))" in capsys.readouterr().err
    page.write_text("no markers")
    report = write_report(tmp_path / "ours", {"none": 15.0})
    assert leaderboard.main([report, f"--page={page}"]) == 2
    assert "has no lines '<!-- leaderboard: begin -->'" in capsys.readouterr().err
    assert leaderboard.main([f"--page={page}"]) == 2
    assert "no report given" in capsys.readouterr().err
