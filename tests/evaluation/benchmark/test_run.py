import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from sfv.cli import main
from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.benchmark.generate import Maker, RowTask
from sfv.evaluation.benchmark.methods import Method, standard
from sfv.evaluation.benchmark.rows import checked
from sfv.evaluation.benchmark.score import clip_protocols
from sfv.evaluation.benchmark.spec import find_benchmark
from sfv.evaluation.benchmark.walks import load_walks
from sfv.evaluation.return_walks import learn_ways_out
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.generation.videos import read_video, write_video
from sfv.metrics.weights import WeightsMissing
from sfv.models.world_model import WorldModel
from tests.evaluation.benchmark.conftest import QUICK
from tests.evaluation.benchmark.make import make_world

RUN = "sfv.evaluation.benchmark.run"
ROWS = ("none", "fast", "retrieval", "retrieval_fast", "other_walk", "shuffled")
RETURN_ALONE = ("retrieval_fast", "other_walk", "shuffled")


def arguments(made_up, out, **changes):
    given = {"benchmark": made_up, "out": out, "lengths": 100, **changes}
    return ["evaluate", *(f"--{name}={value}" for name, value in given.items()), *QUICK]


def refused(capsys, *given):
    capsys.readouterr()
    assert main([*given]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(made_up, world, tmp_path_factory):
    """Rows of the short walks, and another world model."""
    folder = tmp_path_factory.mktemp("run")
    other = make_world(folder / "other", seed=1)
    rows = f"[{','.join(ROWS)}]"
    assert (
        main(arguments(made_up, folder / "out", ckpt=world, rows=rows, also=f"loop={other}")) == 0
    )
    return folder / "out"


def report_of(run):
    return json.loads((run / "report.json").read_text())


@pytest.mark.slow
def test_every_row_makes_the_videos_of_its_protocols(run, made_up):
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-12"])
    for row in (*ROWS, "loop"):
        folders = {path.name for path in (run / "rows" / row).iterdir() if path.is_dir()}
        assert folders == ({"return"} if row in RETURN_ALONE else {"return", "open"})
        for protocol in folders:
            for walk in walks:
                video = read_video(run / "rows" / row / protocol / f"{walk.meta.id}.mp4")
                given = walk.turn if protocol == "return" else walk.first_chunk
                assert torch.equal(video[:given], walk.video[:given]) and len(video) == 12
                assert not torch.equal(video[given:], walk.video[given:])


@pytest.mark.slow
def test_rows_differ_in_what_they_remember_alone(run):
    """Equal noise: what is generated differs only where memory or context do."""
    made = {row: read_video(run / "rows" / row / "return" / "return-12-01.mp4")[8:] for row in ROWS}
    for a, b in (
        ("none", "fast"),
        ("none", "retrieval"),
        ("retrieval", "retrieval_fast"),
        ("fast", "retrieval_fast"),
        ("fast", "other_walk"),
        ("fast", "shuffled"),
    ):
        assert not torch.equal(made[a], made[b]), (a, b)


@pytest.mark.slow
def test_the_report_holds_ceilings_floors_and_paired_differences(run, made_up):
    report = report_of(run)
    assert set(report["rows"]) == {*ROWS, "loop"}
    values = {name: cell["value"] for name, cell in report["rows"]["fast"]["metrics"].items()}
    assert values["return_psnr_ceiling"] == 100 > values["return_psnr"]
    assert values["return_psnr_floor"] < 30 and values["return_lpips_ceiling"] == 0
    assert values["return_src_ceiling"] == pytest.approx(100, abs=1e-3)
    assert "scuts" not in report["rows"]["other_walk"]["metrics"]
    passports = {row: r["metrics"]["return_psnr"]["passport"] for row, r in report["rows"].items()}
    assert "benchmark made-up 1" in passports["none"]["settings"]
    assert all(passport == passports["none"] for passport in passports.values())
    pairs = {
        (d["row"], d["against"]) for d in report["differences"] if d["metric"] == "return_psnr"
    }
    assert pairs == {
        *((row, "none") for row in (*ROWS, "loop") if row != "none"),
        ("fast", "other_walk"), ("fast", "shuffled"), ("retrieval_fast", "retrieval"),
    }  # fmt: skip
    assert set(report["undone"].values()) == {0}, "there is no guard"
    part = report["parts"]["fast"]["return-12"]["return_psnr"]
    assert part["n"] == 4 and part["value"] == pytest.approx(values["return_psnr"])
    assert "return-12-00" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_finished_rows_are_kept(
    run, made_up, world, tmp_path, monkeypatch
):
    copy = shutil.copytree(run, tmp_path / "out")
    for row in ROWS:
        if row != "fast":
            shutil.rmtree(copy / "rows" / row)
    (copy / "rows" / "fast" / "open" / "return-12.json").unlink()
    made = []
    make = Maker._make

    def noted(self, task, protocol, *rest):
        made.append((task.name, protocol))
        return make(self, task, protocol, *rest)

    monkeypatch.setattr(Maker, "_make", noted)
    given = arguments(made_up, copy, ckpt=world, rows="[none,fast]")
    assert main(given) == 0
    assert made == [("none", "return"), ("none", "open"), ("fast", "open")]
    before, after = report_of(run)["rows"], report_of(copy)["rows"]
    assert after == {row: before[row] for row in ("none", "fast")}


@pytest.mark.slow
def test_rows_of_other_settings_are_not_mixed(run, made_up, world, capsys):
    given = arguments(made_up, run, ckpt=world, rows="none")
    said = refused(capsys, *given, "--generation.seed=9")
    assert "was made with other settings (seed: 0, now 9); give the settings of then or" in said


@pytest.mark.slow
def test_videos_of_another_system_score_as_ours_do(run, made_up, tmp_path, capsys):
    videos = run / "rows" / "fast"
    out = tmp_path / "out"
    assert main(arguments(made_up, out, videos=videos, name="theirs")) == 0
    theirs, ours = report_of(out)["rows"]["theirs"], report_of(run)["rows"]["fast"]
    assert theirs == ours


@pytest.fixture
def perfect(made_up, tmp_path):
    """The truth as a system's videos, its given frames spoilt."""
    folder = tmp_path / "perfect"
    for walk in load_walks(find_benchmark(str(made_up)), made_up, ["return-12"]):
        video = walk.video.clone()
        video[: walk.first_chunk] = 0
        write_video(folder / "return" / f"{walk.meta.id}.mp4", video, 8)
    (folder / "return" / "return-20-00.mp4").write_bytes(b"of a length that is not asked for")
    return folder


def test_given_frames_are_the_truths_and_a_perfect_way_back_reaches_the_ceiling(
    perfect, made_up, tmp_path
):
    assert main(arguments(made_up, tmp_path / "out", videos=perfect)) == 0
    metrics = report_of(tmp_path / "out")["rows"]["videos"]["metrics"]
    for name in ("psnr", "lpips", "src"):
        value, ceiling = (metrics[f"return_{name}{end}"]["value"] for end in ("", "_ceiling"))
        assert math.isclose(value, ceiling, abs_tol=1e-4), name
    assert metrics["return_psnr"]["value"] == 100


def test_fvd_that_cannot_be_is_known_before_anything_is_made(
    made_up, world, tmp_path, capsys, monkeypatch
):
    """Walks of 12 frames generate 4 and 8: no clip of 16."""
    monkeypatch.setattr(f"{RUN}._generate", None)
    given = arguments(made_up, tmp_path / "out", ckpt=world, rows="[none]")
    said = refused(capsys, *given, "--fvd=true")
    assert "FVD of protocol return is left out: 0 clips of 16 frames, FVD needs at least 2" in said
    assert "It was asked for" in said and "--lengths" in said and "--fvd null" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [(), ("--make-data=true", "--data=NOWHERE")])
def test_an_output_that_cannot_be_is_told_before_anything_is_made(
    more, made_up, world, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(f"{RUN}._generate", None)
    monkeypatch.setattr(f"{RUN}.make_data_by_tool", None)
    (tmp_path / "file").touch()
    given = arguments(made_up, tmp_path / "file" / "out", ckpt=world, rows="none")
    said = refused(capsys, *given, *(arg.replace("NOWHERE", str(tmp_path / "no")) for arg in more))
    assert f"cannot write {tmp_path}/file/out (Not a directory)" in said


def test_fvd_that_nobody_asked_for_is_left_out_and_told(perfect, made_up, tmp_path, capsys):
    out, told = tmp_path / "out", []
    given = [*arguments(made_up, out, videos=perfect), "--fvd=null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{RUN}._generate", lambda *_: told.append(capsys.readouterr().out))
        assert main(given) == 0
    line = "FVD of protocol return is left out: 0 clips of 16 frames, FVD needs at least 2."
    assert line in told[0] and line in capsys.readouterr().out
    assert report_of(out)["left_out"] == [line] and line in (out / "report.html").read_text()
    assert "return_fvd" not in report_of(out)["rows"]["videos"]["metrics"]


def test_fvd_is_measured_in_the_protocols_that_have_the_clips(made_up, monkeypatch):
    """The two walks of 20 frames generate 8 in one protocol and 16 in the other."""
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-20"])
    protocols, left_out = clip_protocols(walks, ["return", "open"], None)
    assert protocols == ["open"] and "protocol return" in left_out[0] and len(left_out) == 1
    assert clip_protocols(walks, ["open"], True) == (["open"], [])
    assert clip_protocols(walks, ["return"], False) == ([], [])
    monkeypatch.setattr("sfv.metrics.weights.importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsMissing, match="lpips"):
        clip_protocols(walks, ["open"], False)


def test_videos_that_do_not_fit_are_counted(perfect, made_up, tmp_path, capsys):
    folder = perfect / "return"
    given = arguments(made_up, tmp_path / "out", videos=perfect)
    assert "holds no videos of the protocol open" in refused(capsys, *given, "--protocols=open")
    video = read_video(folder / "return-12-02.mp4")
    write_video(folder / "return-12-02.mp4", video[:7], 8)
    said = refused(capsys, *given)
    assert (
        "1 of 4 videos do not fit. return-12-02.mp4 is too short: 7 frames, its episode has 12"
        in said
    )
    write_video(folder / "return-12-02.mp4", video[:, :, :16, :], 8)
    assert "is 32x16 pixels, allowed are 32x32: resize it" in refused(capsys, *given)
    (folder / "return-12-02.mp4").write_bytes(b"no video")
    assert "return-12-02.mp4: is no readable video" in refused(capsys, *given)
    (folder / "return-12-02.mp4").rename(folder / "mine.mp4")
    said = refused(capsys, *given)
    assert "1 missing (return-12-02); 1 that are no episode of it (mine)" in said
    shutil.rmtree(folder)
    assert re.search(
        r"perfect holds neither of the folders return and open", refused(capsys, *given)
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing to score: give --ckpt MODEL, --videos FOLDER, or both"),
        (
            {"rows": "fats"},
            "no row 'fats' in the protocol return or open; allowed: none, fast, long_context",
        ),
        ({"rows": "shuffled", "protocols": "open"}, "no row 'shuffled' in the protocol open; allo"),
        ({"rows": "fast", "also": "fast"}, "--also fast: allowed is NAME=FOLDER"),
        ({"rows": "fast", "also": "fast=x"}, "with a name that no other row has"),
        ({"rows": "other_walk", "lengths": 300}, "other_walk needs another walk in scene 'yard-0'"),
        ({"lengths": 5}, "made-up 1 has no walks of length 5; allowed: [100, 300]"),
    ],
)
def test_wrong_requests_are_refused(made_up, world, tmp_path, capsys, changes, said):
    ckpt = {"ckpt": world} if changes else {}
    assert said in refused(capsys, *arguments(made_up, tmp_path / "o", **ckpt, **changes))
    assert not (tmp_path / "o").exists()


def test_a_row_that_nobody_asked_for_is_left_out_where_no_walk_can_lend(made_up, world, capsys):
    """The two longer walks are in one scene each."""
    model = WorldModel.load(world)
    tasks = [RowTask(row, standard(FastSettings(1))[row], model) for row in ROWS]
    parts = {"return-20": load_walks(find_benchmark(str(made_up)), made_up, ["return-20"])}
    kept = [task.name for task in checked(tasks, parts, drop=True)]
    assert kept == [row for row in ROWS if row != "other_walk"]
    assert "row other_walk is left out: memory: other_walk needs another" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other_walk needs another walk in scene 'yard-0'"):
        checked(tasks, parts, drop=False)


def test_rows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="a row with fast learning and context 'retrieval'"):
        Method(FastSettings(), context="retrieval")
    with pytest.raises(ValueError, match="a row without fast learning has no memory 'other_walk'"):
        Method(memory="other_walk")


def test_baselines_and_controls_take_as_many_steps():
    fast = FastSettings(num_steps=7, learning_rate=3e-3)
    rows = standard(fast)
    assert {row.fast.num_steps for row in rows.values() if row.fast} == {7}
    assert {name for name, row in rows.items() if row.protocols == ("return",)} == {
        "other_walk", "other_scene", "shuffled", "retrieval_fast", "other_addressed", "readout",
    }  # fmt: skip
    rules = {row.fast.rule for row in rows.values() if row.fast}
    assert rules == {"pair", "text_style", "whole_history", "single_frame"}


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_memory_in_another_context_acts_as_far_as_it_learned(made_up, world, tmp_path, num_steps):
    fast = FastSettings(num_steps, learning_rate=0.01, own_chunks=False)
    methods = {row: Method(fast, context="retrieval", memory=row) for row in ("own", "other_walk")}
    methods["without"] = Method(context="retrieval")
    model, before = WorldModel.load(world), WorldModel.load(world).fingerprint()
    generation = GenerationSettings(SamplerSettings(num_inference_steps=1), LoRASettings(r=2))
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-12"])
    maker = Maker(tmp_path.joinpath, generation, lambda num: None)
    tasks = [RowTask(row, method, model) for row, method in methods.items()]
    maker.make_part(tasks, ["return"], walks)
    for walk in walks:
        videos = [read_video(tmp_path / row / "return" / f"{walk.meta.id}.mp4") for row in methods]
        same = [torch.equal(a, b) for a, b in itertools.combinations(videos, 2)]
        assert same == [num_steps == 0] * 3
    assert model.fingerprint() == before


def test_shuffled_learning_takes_the_same_pairs_in_another_order(made_up, world, monkeypatch):
    model = WorldModel.load(world)
    trips = [
        w.trip(model) for w in load_walks(find_benchmark(str(made_up)), made_up, ["return-20"])
    ]
    settings = GenerationSettings(lora=LoRASettings(r=2), fast=FastSettings(1), seed=3)
    seen = {}
    with rollout_of(model, "fast", settings) as rollout:
        learner = rollout.learner
        for order in ("walked", "shuffled"):
            pairs = []
            learn = type(learner).learn

            def noted(self, memories, given, *rest, pairs=pairs, learn=learn):
                pairs.append(given[0])
                return learn(self, memories, given, *rest)

            with monkeypatch.context() as patch:
                patch.setattr(type(learner), "learn", noted)
                memories, _ = learn_ways_out(learner, trips[:1], 1, order)
            assert memories[0].num_chunks == trips[0].num_out == 4
            seen[order] = torch.stack(pairs)
    assert not torch.equal(seen["walked"], seen["shuffled"])
    key = seen["walked"].flatten(1).sum(1), seen["shuffled"].flatten(1).sum(1)
    assert torch.equal(key[0].sort().values, key[1].sort().values)


def test_what_decides_a_row_is_kept_with_it(world):
    model = WorldModel.load(world)
    task = RowTask("long_context", Method(context="long"), model)
    one, other = (
        task.settings(GenerationSettings(fast=FastSettings(num_steps=n))) for n in (2, 40)
    )
    assert one["bought_frames"] < other["bought_frames"]
    none = RowTask("none", Method(), model)
    assert none.settings(GenerationSettings(videos_at_once=3)) == none.settings(
        GenerationSettings()
    )


@pytest.mark.parametrize("config", sorted(Path("experiments/benchmarks").glob("*.yaml")), ids=str)
def test_the_shipped_runs_parse(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--benchmark=doom-return", f"--config={config}", "--print_config"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    given, parsed = OmegaConf.load(config), OmegaConf.create(said)
    assert parsed.rows == given.rows and parsed.generation.videos_at_once == 10
    assert parsed.generation.fast.get("own_chunks") == given.generation.fast.get("own_chunks", True)


def test_rows_of_a_config_file_are_typed(made_up, world, tmp_path, capsys):
    """A row of one's own is parsed and refused as settings are, before anything is made."""
    given = arguments(made_up, tmp_path / "o", ckpt=world, rows="mine")
    with pytest.raises(SystemExit):
        main([*given, '--methods={"mine": {"fast": {"num_stops": 3}}}'])
    assert "num_stops" in capsys.readouterr().err
    wrong = [*given, '--methods={"mine": {"fast": {"num_steps": 3}, "context": "long"}}']
    assert "a row with fast learning and context 'long'" in refused(capsys, *wrong)
