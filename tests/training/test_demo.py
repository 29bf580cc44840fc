import json
import os
import shutil
import signal
from dataclasses import asdict, fields, replace
from itertools import chain

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

import sfv.demo.run
from sfv.cli import main
from sfv.data.episodes import episodes
from sfv.demo import learn
from sfv.demo.run import run_demo
from sfv.demo.settings import STEPS_PER_MINUTE, DemoSettings
from sfv.files import claimed
from sfv.metrics.protocol import Passport
from sfv.models.world_model import WorldModel
from sfv.report.rows import parse_report
from sfv.training.slow import SlowLearner
from tests.fixtures import MICRO

STAGES = ("episodes", "shards", "latents", "slow", "slow_fast", "report")
METRICS = {"psnr", "ssim", "lpips", "fvd", "fvd_floor", "scuts", "src", "motion"}


def stamps(folder):
    """Which files each stage has, and when they were written."""
    return {name: {p: p.stat().st_mtime_ns for p in (folder / name).rglob("*")} for name in STAGES}


def events_of(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def idle(demo, tmp_path_factory):
    """A copy of the demo, run again with K = 0; the first try is cut off in the slow-fast loop."""
    folder = tmp_path_factory.mktemp("idle") / "out"
    shutil.copytree(demo.folder, folder)
    settings = replace(MICRO, fast=replace(MICRO.fast, num_steps=0))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SlowLearner, "training_step", _ctrl_c)
        run_demo(folder, settings)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores Ctrl-C while it shuts down
    assert (folder / "slow_fast.part").exists()
    before = stamps(folder)
    report = run_demo(folder, settings)
    return folder, report, before, stamps(folder)


def _ctrl_c(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_report_follows_its_schema(demo):
    assert demo.report == json.loads((demo.folder / "report.json").read_text())
    parse_report(demo.report)
    assert demo.report["rows"].keys() == {"none", "fast"}
    for row in demo.report["rows"].values():
        assert row.keys() == {"n", "metrics"}
        assert row["n"] == 2
        assert row["metrics"].keys() >= METRICS
        for name, cell in row["metrics"].items():
            assert cell.keys() == {"value", "low", "high", "passport"}
            assert cell["passport"].keys() == {field.name for field in fields(Passport)}
            assert cell["passport"]["metric"] == name
        measured = {name for name in METRICS if row["metrics"][name]["value"] is not None}
        assert measured == METRICS - {"fvd_floor"}, "2 clips are too few for a floor"
        count = (
            row["metrics"]["fvd"]["passport"]["count"],
            row["metrics"]["psnr"]["passport"]["count"],
        )
        assert count == (2, 2)
    assert demo.report["settings"]["demo"] == json.loads(json.dumps(asdict(MICRO)))
    assert demo.report["settings"]["model"] == WorldModel.load(demo.model).fingerprint()
    assert len(demo.report["curves"]["fast/loss"]["fast"]) == 4
    layers = demo.report["curves"]["fast/drift by layer"]
    assert len(layers) == 4 and all(len(norms) == 4 for norms in layers.values())
    assert (
        max(norms[-1] for norms in layers.values())
        < demo.report["curves"]["fast/drift"]["fast"][-1]
    )


@pytest.mark.slow
def test_learning_changes_the_second_row(demo):
    none, fast = (demo.report["rows"][row]["metrics"] for row in ("none", "fast"))
    assert none["psnr"]["value"] != fast["psnr"]["value"]
    ceilings = {name for name in none if name.endswith("_ceiling")}
    assert {name for name in none if none[name] == fast[name]} >= ceilings
    gaps = {gap["metric"] for gap in demo.report["differences"]}
    assert {"psnr", "ssim", "lpips", "src", "motion"} <= gaps


@pytest.mark.slow
def test_with_no_fast_steps_both_rows_are_equal(idle):
    """K = 0 leaves Θ fresh, so equal rows show that both share actions and sampling noise."""
    _, report, _, _ = idle
    assert report["rows"]["none"] == report["rows"]["fast"]
    still = {"fast": [0.0] * 4}
    of_theta = {name: rows for name, rows in report["curves"].items() if name.startswith("fast/")}
    assert of_theta == {"fast/gain": still, "fast/drift": still}, "no step, no loss"
    assert report["undone"] == {"none": 0, "fast": 0}
    assert all(gap["value"] == 0 for gap in report["differences"])


@pytest.mark.slow
def test_other_settings_of_fast_learning_redo_only_what_depends_on_them(idle, demo):
    folder, report, before, after = idle
    kept = {name for name in STAGES if before[name] == after[name]}
    assert kept == {"episodes", "shards", "latents", "slow"}
    assert not list(folder.glob("*.part"))
    assert report["settings"]["fast"]["num_steps"] == 0
    assert report == json.loads((folder / "report.json").read_text())
    models = [WorldModel.load(f / "slow_fast" / "model") for f in (folder, demo.folder)]
    assert models[0].fingerprint() != models[1].fingerprint()


@pytest.mark.slow
def test_run_again_keeps_every_stage_and_changes_no_byte(demo, capsys):
    before, report = stamps(demo.folder), (demo.folder / "report.json").read_bytes()
    assert run_demo(demo.folder, MICRO) == demo.report
    assert stamps(demo.folder) == before
    assert (demo.folder / "report.json").read_bytes() == report
    said = capsys.readouterr().out
    for name in STAGES:
        assert f"[{name}] kept: " in said
    for hint in ("report.html", "report.json", f"tensorboard --logdir {demo.folder}"):
        assert hint in said
    assert f"model:    {demo.model}" in said


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_in_another_folder(demo, tmp_path):
    run_demo(tmp_path / "again", MICRO)
    for name in ("report.json", "slow/model/model.json", "slow_fast/model/model.json"):
        assert (tmp_path / "again" / name).read_bytes() == (demo.folder / name).read_bytes()
    tars = sorted(p.relative_to(demo.folder) for p in demo.folder.rglob("*.tar"))
    assert len(tars) == 6
    for tar in tars:
        assert (tmp_path / "again" / tar).read_bytes() == (demo.folder / tar).read_bytes()


@pytest.mark.parametrize(
    "settings_of", [learn.slow_settings, learn.loop_settings, learn.report_settings]
)
def test_another_seed_redoes_every_stage_of_learning(settings_of):
    assert settings_of(MICRO) == settings_of(replace(MICRO))
    assert settings_of(MICRO) != settings_of(replace(MICRO, seed=1))


@pytest.mark.slow
def test_the_logs_hold_curves_settings_and_video(demo):
    slow, loop, report = (events_of(demo.folder / n) for n in ("slow", "slow_fast", "report"))
    assert {"slow/loss", "val/loss"} <= set(slow.Tags()["scalars"])
    assert len(slow.Scalars("val/loss")) >= 2
    assert {"fast/loss", "val/loss"} <= set(loop.Tags()["scalars"])
    assert [event.step for event in loop.Scalars("fast/loss")] == [1, 2, 3, 4]
    value = report.Scalars("report/psnr/fast")[0].value
    assert value == pytest.approx(demo.report["rows"]["fast"]["metrics"]["psnr"]["value"])
    layers = {
        tag for tag in report.Tags()["scalars"] if tag.startswith("curve/fast/drift by layer/")
    }
    norms = [[event.value for event in report.Scalars(tag)] for tag in sorted(layers)]
    whole = [event.value for event in report.Scalars("curve/fast/drift/fast")]
    assert [sum(n**2 for n in chunk) ** 0.5 for chunk in zip(*norms, strict=True)] == pytest.approx(
        whole
    )
    for events in (slow, loop, report):
        assert metadata.SESSION_START_INFO_TAG in events.PluginTagToContent(metadata.PLUGIN_NAME)
    ids = demo.report["settings"]["episodes"]
    tags = [f"{kind}/{key}" for key in ids for kind in ("return", "long")]
    assert report.Tags()["images"] == tags
    for tag in tags:
        (image,) = report.Images(tag)
        assert image.encoded_image_string.startswith(b"GIF8")
        assert image.width >= 3 * 32


@pytest.mark.slow
def test_the_report_page_needs_no_other_file(demo):
    html = (demo.folder / "report.html").read_text()
    assert html == (demo.folder / "report" / "report.html").read_text()
    assert html.count('src="data:video/mp4;base64,') + html.count("data:video/mp4") >= 2
    for outside in ('src="http', 'href="http', "@import", 'rel="stylesheet"', "src='http"):
        assert outside not in html
    for key in demo.report["settings"]["episodes"]:
        assert key in html
    assert "in places that it has not seen" in html


@pytest.mark.slow
def test_test_maps_are_not_trained_on(demo):
    """The held-out walks go there and back, and the codec has not seen them either."""
    meta = {
        split: [m for m, _ in episodes(demo.folder / "shards" / split)]
        for split in ("train", "val", "test")
    }
    scenes = {split: {m.scene for m in found} for split, found in meta.items()}
    assert all(scenes.values())
    assert len(set(chain(*scenes.values()))) == sum(map(len, scenes.values()))
    assert all(m.revisits for m in meta["test"])
    assert [len(found) for found in meta.values()] == [3, 1, 2]


def test_a_folder_that_holds_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", f"--out={tmp_path}", "--quick"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} holds thesis.tex, which is not a demo folder (no demo.json in it)" in said
    assert "Give another output folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("minutes", ["0", "-3"])
def test_no_minutes_are_refused(tmp_path, capsys, minutes):
    assert main(["demo", f"--out={tmp_path / 'out'}", f"--minutes={minutes}"]) == 2
    assert f"--minutes is {float(minutes)}; it must be above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_tool_that_fails_ends_the_demo_and_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data_tools\.collect\.doom .*failed with exit code \d"):
        run_demo(tmp_path / "out", replace(MICRO, test_chunks=4))
    assert not (tmp_path / "out" / "episodes").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], DemoSettings()),
        (["--seed=3"], DemoSettings(seed=3)),
        (["--quick"], DemoSettings().quick()),
        (["--scratch", "--quick"], DemoSettings().from_scratch().quick()),
        (["--quick", "--minutes=0.5"], DemoSettings().quick().for_minutes(0.5)),
        (["--minutes", "2", "--quick", "false"], DemoSettings().for_minutes(2.0)),
    ],
)
def test_the_flags_choose_the_settings(monkeypatch, tmp_path, flags, expected):
    calls = []
    monkeypatch.setattr(sfv.demo.run, "run_demo", lambda *given: calls.append(given))
    assert main(["demo", f"--out={tmp_path}", *flags]) == 0
    assert calls == [(tmp_path, expected)]


def test_quick_is_less_of_everything_that_takes_time_and_minutes_scale_slow_steps_alone():
    full, quick = DemoSettings(seed=5), DemoSettings(seed=5).quick()
    changed = {f.name for f in fields(full) if getattr(full, f.name) != getattr(quick, f.name)}
    assert changed >= {"train_episodes", "test_episodes", "slow_steps", "loop_steps"}
    for name in ("train_episodes", "test_episodes", "slow_steps", "loop_steps"):
        assert getattr(quick, name) <= getattr(full, name)
    assert quick.test_chunks == full.test_chunks, "the walks stay whole"
    scaled = full.for_minutes(2.5)
    assert scaled == replace(full, slow_steps=round(2.5 * STEPS_PER_MINUTE))
    assert full.for_minutes(0.0001).slow_steps == 1


def test_a_second_demo_in_the_folder_is_refused_and_touches_nothing(tmp_path, capsys):
    with claimed(tmp_path, "demo.json", "a demo folder"):
        before = list(tmp_path.iterdir())
        assert main(["demo", f"--out={tmp_path}"]) == 2
        assert list(tmp_path.iterdir()) == before
    said = capsys.readouterr().err
    assert f"sfv demo: {tmp_path} is in use by process {os.getpid()} on " in said
