import json
import shutil

import pytest

from experiments.ledger import CLAIMS, PAGE, judge, main, page
from experiments.ledger_files import Reports, load_targets

BENCHMARK = "doom-return"


@pytest.fixture
def claims(tmp_path):
    """A copy of the claims without reports."""
    folder = tmp_path / "claims"
    shutil.copytree(CLAIMS, folder, ignore=shutil.ignore_patterns("reports"))
    (folder / "reports").mkdir()
    return folder


def write(claims, name, row, changes=(), **values):
    """Put a row into a report."""
    cells = {
        metric: {
            "value": value,
            "low": value * 0.9,
            "high": value * 1.1,
            "passport": {"metric": metric, "network": "i3d", "count": 8, **dict(changes)},
        }
        for metric, value in values.items()
    }
    path = claims / "reports" / f"{name}.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else {}
    report = {"rows": {**known, row: {"n": 8, "metrics": cells}}, "settings": {}}
    path.write_text(json.dumps(report))


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def judged(claims, word):
    (target,) = [t for t in load_targets(claims / "targets.yaml") if word in t.claim]
    return judge(target, Reports(claims))


def test_the_page_is_what_the_command_writes(tmp_path, capsys):
    assert PAGE.read_text() == page()
    assert main(["--check"]) == 0
    assert main(["--out", str(tmp_path / "claims.md")]) == 0
    assert (tmp_path / "claims.md").read_text() == PAGE.read_text()
    (tmp_path / "claims.md").write_text("old")
    assert main(["--check", "--out", str(tmp_path / "claims.md")]) == 1
    assert "is not up to date" in capsys.readouterr().out
    assert (tmp_path / "claims.md").read_text() == "old"


def test_every_cell_of_the_paper_has_a_row(claims):
    text = page(claims)
    tables = text.split("\n## ")[1:]
    counts = [len(lines(table, "| ")) - 2 for table in tables]
    assert counts == [6 * 7 + 3 + 7, 5 * 4, 5 * 2, 10]
    assert "measured at small scale;" not in text
    assert text.count("not measured yet; the paper's needs GPUs") == 3 + 7 + 3 * 4 + 10


def test_a_report_fills_its_cells_and_a_changed_one_changes_the_page(claims):
    write(claims, "long", "fast", ssim=0.5, src=80.0)
    (ssim,) = lines(page(claims), "| SlowFast-VGen | SSIM |")
    assert ssim.startswith(
        "| SlowFast-VGen | SSIM | 60.53 | 50 [45, 55] | 8 | p1 | measured at small scale; "
    )
    assert ssim.endswith("| `sfv evaluate --config experiments/configs/paper/ablation_full.yaml` |")
    assert "- p1: count 8, metric ssim, network i3d" in page(claims)
    (fvd,) = lines(page(claims), "| SlowFast-VGen | FVD |")
    assert "| – | – | – | not measured yet" in fvd
    before = page(claims)
    write(claims, "long", "fast", ssim=0.6, src=80.0)
    assert page(claims).splitlines() != before.splitlines()
    assert "| 60 [54, 66] |" in page(claims)


def test_the_best_baseline_counts_and_a_missing_one_is_said(claims):
    assert judged(claims, "FVD, full / best baseline")[0] == "not measured yet"
    write(claims, BENCHMARK, "fast", fvd=330)
    write(claims, BENCHMARK, "none", fvd=1000)
    here, reached = judged(claims, "FVD, full / best baseline")
    assert here.startswith("0.33 [0.27, 0.40]; without reports/doom-return.json long_context")
    assert reached == "yes"
    write(claims, BENCHMARK, "retrieval", fvd=400)
    here, reached = judged(claims, "FVD, full / best baseline")
    assert here.startswith("0.82") and reached == "no", "against the best, not the first"
    write(claims, BENCHMARK, "retrieval", {"network": "r3d"}, fvd=400)
    assert judged(claims, "FVD, full / best baseline") == (
        "–",
        "not comparable: network: 'i3d' and 'r3d'",
    )


def test_fewer_cuts_with_less_motion_reach_nothing(claims):
    write(claims, BENCHMARK, "fast", scuts=0.1, motion=10.0)
    write(claims, BENCHMARK, "none", scuts=1.0, motion=10.4)
    assert judged(claims, "scene cuts") == ("0.10 [0.08, 0.12]", "yes")
    write(claims, BENCHMARK, "none", scuts=1.0, motion=11)
    assert judged(claims, "scene cuts") == ("0.10 [0.08, 0.12]; motion differs by 10%", "no")
    write(claims, BENCHMARK, "none", scuts=0.0, motion=10)
    assert judged(claims, "scene cuts")[1] == "the best of the others is 0: no ratio"


def test_a_still_video_reaches_nothing(claims):
    write(claims, BENCHMARK, "fast", scuts=0.1, motion=3.0, motion_ceiling=12.0)
    write(claims, BENCHMARK, "none", scuts=1.0, motion=3.0, motion_ceiling=3.0)
    assert judged(claims, "scene cuts") == (
        "0.10 [0.08, 0.12]; fast does not count, its motion of 3.00 is 75% below the true video's 12.00",
        "no",
    )
    write(claims, "long", "fast", src=80.0, motion=3.0, motion_ceiling=12.0)
    assert "| (80 [72, 88]) |" in page(claims)


def test_the_closed_share_of_the_gap(claims):
    write(claims, BENCHMARK, "fast", src=85.0)
    write(claims, BENCHMARK, "none", src=80.0, src_ceiling=90.0)
    assert judged(claims, "SRC, share") == ("0.50", "yes")
    write(claims, BENCHMARK, "fast", src=84.0)
    assert judged(claims, "SRC, share") == ("0.40", "no")


def test_the_order_of_the_ablations(claims):
    names = ("fast", "text_style", "whole_history", "single_frame", "none")
    for name, value in zip(names, (90, 88, 86, 84, 82), strict=True):
        write(claims, "doom-return-rules", name, src=value)
    here, reached = judged(claims, "order")
    assert (here, reached) == (" > ".join(names), "yes")
    write(claims, "doom-return-rules", "whole_history", src=83)
    assert judged(claims, "order")[1] == "no"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("table4.yaml", "status: needs GPUs", "status: maybe", "status is 'maybe'; allowed"),
        ("table4.yaml", "SCuts: 0.55", "SCutz: 0.55", "no column 'SCutz'"),
        ("table4.yaml", "because:", "becose:", "becose"),
        ("targets.yaml", "kind: share", "kind: part", "kind is 'part'; allowed: ratio"),
        ("targets.yaml", "reach:", "raech:", "raech"),
    ],
)
def test_a_typo_in_the_claims_is_named(claims, capsys, file, old, new, said):
    text = (claims / file).read_text()
    (claims / file).write_text(text.replace(old, new, 1))
    assert main(["--claims", str(claims), "--out", str(claims / "page.md")]) == 2
    message = capsys.readouterr().err
    assert said in message and str(claims / file) in message
    assert not (claims / "page.md").exists()


def test_a_broken_report_is_named(claims, capsys):
    (claims / "reports" / f"{BENCHMARK}.json").write_text('{"rows": {}}')
    assert main(["--claims", str(claims)]) == 2
    assert "doom-return.json: report: 'rows' is empty" in capsys.readouterr().err


def test_a_report_stands_on_the_page_with_its_command_and_not_without_one(claims, capsys):
    write(claims, BENCHMARK, "fast", src=90.0)
    text = page(claims)
    assert "- `reports/doom-return.json`: `sfv evaluate --benchmark doom-return" in text
    (claims / "reports" / "mine.json").write_text("{}")
    assert main(["--claims", str(claims), "--out", str(claims / "page.md")]) == 2
    assert "says not what made reports/mine.json; add a line" in capsys.readouterr().err
