import json

import pytest
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from experiments.cluster.events import scalars_of
from experiments.cluster.measured import load_run
from experiments.cluster.scatter import GREY
from experiments.compare import main, mean_of
from sfv.cli import main as board


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


FOREIGN = {
    "config.yaml": [
        "size: !!python/tuple [1, 2]\n",
        "a: [1, 2\n",
        "",
        "- 1\n",
        "[" * 100_000,
        "a: \0",
    ],
    "report.json": [
        '{"score": 1}',
        "[1]",
        "",
        '{"rows": {"a"',
        '{"rows": 3}',
        "null",
        "[" * 100_000,
        '{"rows": {"a": {"n": 1, "metrics": []}}, "settings": {}}',
    ],
}
CASES = [(name, text) for name, texts in FOREIGN.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), CASES, ids=range(len(CASES)))
def test_a_run_with_a_foreign_or_cut_off_file_is_left_out_and_the_file_is_named(
    tmp_path, capsys, name, text
):
    runs = [make_run(tmp_path / n, settings(lr), [[(0, 1, lr)]]) for n, lr in (("a", 1), ("b", 2))]
    (runs[1] / name).write_text(text)
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"left out: {runs[1] / name}" in printed and "Traceback" not in printed
    assert "left out" in (tmp_path / "out" / "compare.txt").read_text()
    assert main([str(runs[1]), "--out", str(tmp_path / "out")]) == 2
    assert str(runs[1] / name) in capsys.readouterr().err

    assert board(["board", str(tmp_path), "--serve=false"]) == 0
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and str(runs[1] / name) in said


def events_of(folder):
    run = make_run(folder, settings(), [[(i, i, 10.0 - i) for i in range(1, 6)]])
    (path,) = (run / "tensorboard").glob("*")
    return run, path


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_an_event_file_that_is_damaged_in_the_middle_gives_no_number(tmp_path, capsys, share):
    run, path = events_of(tmp_path / "a")
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        list(scalars_of(path))
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_event_that_was_cut_off_is_passed_over(tmp_path, cut):
    run, path = events_of(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-cut])
    assert load_run(run).values["val/loss"].value == 6.0


def test_scalars_that_are_stored_as_tensors_are_read_as_well(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1.5, 3, new_style=True)
        writer.add_text("b", "words")
    (path,) = tmp_path.iterdir()
    assert [(s.tag, s.step, s.value) for s in scalars_of(path)] == [("a", 3, 1.5)]
