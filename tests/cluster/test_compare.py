import json

import pytest
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from experiments.cluster.measured import load_run
from experiments.cluster.scatter import GREY
from experiments.compare import main, mean_of


def settings(lr=0.1, seed=0, **changes):
    return {
        "seed_everything": seed,
        "out": f"run-{lr}-{seed}",
        "model": {"seed": seed, "lr": lr, "num_context": 8},
        "data": {"val": "data/val", "seed": seed},
        "trainer": {"devices": 2, "num_nodes": 3, **changes},
    }


def make_run(folder, content, losses):
    """A run folder with one log for each attempt: (seconds, step, val/loss)."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    for i, attempt in enumerate(losses):
        with SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{i}") as writer:
            for seconds, step, loss in attempt:
                writer.add_scalar("val/loss", loss, step, walltime=1e9 + seconds)
    return folder


def test_the_last_loss_counts_and_pauses_between_attempts_cost_nothing(tmp_path):
    losses = [[(0, 1, 4.0), (600, 2, 3.0)], [(90_000, 2, 3.0), (90_600, 3, 2.0)]]
    run = load_run(make_run(tmp_path / "a", settings(), losses))
    assert run.values["val/loss"].value == 2.0
    assert run.cost == pytest.approx(1200 / 3600 * 6)


def test_student_s_interval_of_a_few_seeds():
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.value, mean.low) == (2.0, pytest.approx(2.0 - 4.30265 / 3**0.5, rel=1e-5))
    assert mean_of([1.0]).low is None


def test_runs_that_differ_in_their_seed_alone_are_averaged(tmp_path, capsys):
    made = [
        make_run(tmp_path / f"{lr}-{seed}", settings(lr, seed), [[(0, 1, 9.0), (60, 2, lr + seed)]])
        for lr in (0.5, 0.1)
        for seed in (0, 2)
    ]
    assert main([*map(str, made), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["method", "seeds", "val/loss"]
    assert printed[1].split()[:3] == ["lr=0.5", "2", "1.5"]
    assert printed[2].split()[:3] == ["lr=0.1", "2", "1.1"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<circle") == 2 and "lr=0.5: 1.5 at" in page
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert len(set(picture.get_flattened_data())) > 3, "two colours, lines, white"
    assert list((tmp_path / "out" / "layout").iterdir())


def test_losses_on_other_data_are_not_compared(tmp_path, capsys):
    a = make_run(tmp_path / "a", settings(), [[(0, 1, 1.0)]])
    other = settings()
    other["data"]["val"] = "data/val2"
    b = make_run(tmp_path / "b", other, [[(0, 1, 1.0)]])
    assert main([str(a), str(b), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "val/loss" in said and "data.val: 'data/val' and 'data/val2'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "content", "refused"),
    [("network", "vgg", True), ("count", 3, True), ("seed", 5, False)],
)
def test_reports_are_compared_only_with_equal_passports(tmp_path, capsys, field, content, refused):
    folders = []
    for name, changes in (("a", {}), ("b", {field: content})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(settings(seed=ord(name))))
        passport = {"metric": "fvd", "network": "r3d", "count": 2, "seed": 0, "count_matters": True}
        cell = {"value": 1.5, "low": None, "high": None, "passport": {**passport, **changes}}
        report = {"rows": {"fast": {"n": 2, "metrics": {"fvd": cell}}}, "settings": {}}
        (folder / "report.json").write_text(json.dumps(report))
        folders.append(str(folder))
    assert main([*folders, "--out", str(tmp_path / "out")]) == (2 if refused else 0)
    said = capsys.readouterr()
    assert (f"fast/fvd of {folders[0]}" in said.err and f"{field}: " in said.err) == refused


def test_a_method_that_moves_too_little_is_grey_where_a_still_video_wins(tmp_path, capsys):
    for name, motion in (("still", 2.0), ("moving", 3.9)):
        (tmp_path / name).mkdir()
        content = settings(lr=motion)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(content))
        values = {"src": 90.0, "motion": motion, "motion_ceiling": 4.0}
        cells = {
            k: {"value": v, "low": None, "high": None, "passport": {}} for k, v in values.items()
        }
        report = {"rows": {"fast": {"n": 2, "metrics": cells}}, "settings": {}}
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    folders = [str(tmp_path / name) for name in ("still", "moving")]
    assert main([*folders, "--out", str(tmp_path / "out"), "--metric", "fast/src"]) == 0
    printed = capsys.readouterr().out
    assert "(90)" in printed and printed.count("(90)") == 1
    assert "lr=2.0, fast/src: its motion of 2.00 is 50% below the true video's 4.00." in printed
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count(f'fill="{GREY}"') == 1 and "does not count: its motion of 2.00" in page


def test_what_is_no_run_and_a_metric_that_is_not_there_are_named(tmp_path, capsys):
    a = make_run(tmp_path / "a", settings(), [[(0, 1, 1.0)]])
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path}: no run folder" in capsys.readouterr().err
    b = make_run(tmp_path / "b", settings(), [[(0, 0, float("nan"))]])
    assert main([str(b)]) == 2
    assert "neither val/loss nor a report.json" in capsys.readouterr().err
    assert main([str(a), "--metric", "fast/psnr", "--out", str(tmp_path / "out")]) == 2
    assert "these are: val/loss" in capsys.readouterr().err
