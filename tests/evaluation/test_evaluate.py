import json

import pytest
import torch

from sfv.cli import main
from sfv.data.schema import Action
from sfv.evaluation.evaluate import curves
from sfv.evaluation.videos import EpisodeVideos
from sfv.generation.episodes import check_episode, load_episodes, num_outbound
from sfv.models.world_model import WorldModel
from tests.data.make import make_meta
from tests.generation.test_verb import QUICK, refused


def arguments(demo, out, **changes):
    given = {"model": demo.model, "episodes": demo.test_shards, "out": out, **changes}
    return [*(f"--{name}={value}" for name, value in given.items()), *QUICK]


@pytest.fixture(scope="module")
def evaluation(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    assert main(["evaluate", *arguments(demo, out), "--rows=[none]", "--generation.seed=1"]) == 0
    return out


@pytest.mark.slow
def test_an_evaluation_writes_its_report(evaluation, demo):
    report = json.loads((evaluation / "report.json").read_text())
    assert report["rows"].keys() == {"none"}
    assert report["rows"]["none"]["n"] == 2
    assert report["settings"]["model"] == WorldModel.load(demo.model).fingerprint()
    assert report["settings"]["sampler"]["num_inference_steps"] == 1
    assert report["settings"]["seed"] == 1
    assert report["differences"] == []
    assert report["binned_curves"]["none"]["drift_psnr"]["bins"][0]["episodes"] == 2
    html = (evaluation / "report.html").read_text()
    assert str(demo.model) in html
    ids = [episode["id"] for episode in _test_metadata(demo)]
    names = sorted(name for key in ids for name in (key, f"{key}-return"))
    assert sorted(path.stem for path in (evaluation / "videos").iterdir()) == names
    assert report["settings"]["episodes"] == ids


def _test_metadata(demo):
    paths = sorted((demo.folder / "episodes" / "test").glob("doom-*.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_another_sampling_seed_gives_other_videos_of_the_same_truth(evaluation, demo):
    ours = json.loads((evaluation / "report.json").read_text())["rows"]["none"]["metrics"]
    theirs = demo.report["rows"]["none"]["metrics"]
    assert ours["motion"]["value"] != theirs["motion"]["value"]
    assert ours["motion_ceiling"]["value"] == theirs["motion_ceiling"]["value"]
    hashes = [m["psnr"]["passport"]["reference_sha256"] for m in (ours, theirs)]
    assert hashes[0] == hashes[1] != ""


@pytest.mark.slow
def test_an_evaluation_cut_off_while_writing_leaves_its_folder_empty(demo, tmp_path, monkeypatch):
    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sfv.evaluation.evaluate.write_report", cut_off)
    assert main(["evaluate", *arguments(demo, tmp_path / "out"), "--rows=none"]) == 130
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert not any((tmp_path / "out").iterdir())


def test_an_unknown_row_is_told_what_rows_there_are(demo, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *arguments(demo, tmp_path / "out"), "--rows=fats"])
    said = capsys.readouterr().err
    assert "'none', 'temp_lora', 'fast'" in said and "fats" in said


@pytest.mark.slow
def test_a_finished_evaluation_is_not_overwritten(evaluation, demo, capsys):
    before = (evaluation / "report.json").read_bytes()
    said = refused(capsys, "evaluate", *arguments(demo, evaluation))
    assert "holds a finished evaluation (report.json); give another --out" in said
    assert (evaluation / "report.json").read_bytes() == before


def test_a_folder_that_is_no_evaluation_is_refused(demo, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    said = refused(capsys, "evaluate", *arguments(demo, tmp_path))
    assert "holds thesis.tex, which is not an evaluation folder" in said


def test_latents_instead_of_video_are_refused(demo, tmp_path, capsys):
    latents = demo.folder / "latents" / "test"
    said = refused(capsys, "evaluate", *arguments(demo, tmp_path / "out", episodes=latents))
    assert f"{latents} holds latents; true video is needed here" in said
    assert "the shards that they were encoded from" in said


@pytest.mark.parametrize(
    ("num", "said"),
    [
        (3, "has 2 episodes, but 3 were asked for; collect more or ask for fewer"),
        (0, "0 episodes were asked for; ask for at least 1, or null for all"),
    ],
)
def test_a_number_of_episodes_that_cannot_be_is_refused(demo, tmp_path, capsys, num, said):
    assert said in refused(capsys, "evaluate", *arguments(demo, tmp_path / "o", num_episodes=num))


def test_fewer_episodes_are_the_first_ones(demo):
    world = WorldModel.load(demo.model)
    (one,) = load_episodes(demo.test_shards, world, 1)
    first, second = load_episodes(demo.test_shards, world, None)
    assert one.meta == first.meta != second.meta
    assert one.latents.shape == (1, 16, 5 * 8, 4, 4)
    assert one.video.shape == (5 * 8, 3, 32, 32)
    assert one.actions == [action.text for action in first.meta.actions[1:]]


def test_episodes_cut_in_another_way_are_refused(demo):
    """Chunks of `make_meta` have 3 frames; the demo's model generates 8."""
    world = WorldModel.load(demo.model)
    with pytest.raises(ValueError, match=r"has 12 frames, but one window of this model has 16"):
        check_episode(make_meta(num_chunks=4), world)
    with pytest.raises(
        ValueError, match=r"'turn left' lasts frames 3 to 6, but this model gen.* 8 f"
    ):
        check_episode(make_meta(num_chunks=8), world)
    long = tuple(Action("turn left", *span) for span in ((0, 4), (4, 12), (12, 20)))
    with pytest.raises(ValueError, match=r"ends at frame 4, but the context needs 8 frames"):
        check_episode(make_meta(num_chunks=1, num_frames=20, actions=long), world)


def test_the_way_out_ends_where_the_first_return_begins():
    assert num_outbound(make_meta(num_chunks=5)) is None
    walk = make_meta(num_chunks=5, revisits=((7, 9), (6, 10), (0, 14)))
    assert num_outbound(walk) == 2, "chunks 1 and 2; the frames from 9 on go back"


def test_the_layers_that_moved_most_are_drawn_and_still_ones_are_not():
    video = torch.zeros(1, 3, 2, 2)
    layers = [
        {"a": 0.1, "b": 0.0, "c": 0.2, "d": 0.3, "e": 0.4, "f": 0.5},
        {"a": 0.9, "b": 0.0, "c": 0.3, "d": 0.2, "e": 0.5, "f": 0.4},
    ]
    made = EpisodeVideos(video, None, video, [0.5, 0.4], [0.0, 0.1], [0.7, 1.1], layers=layers)
    found = curves({"fast": [made]})["fast/drift by layer"]
    assert list(found) == ["a", "e", "f", "c"]
    assert found["a"] == [0.1, 0.9]
    still = EpisodeVideos(video, None, video, [], [0.0], [0.0], layers=[{"a": 0.0}])
    assert "fast/drift by layer" not in curves({"fast": [still]})


def test_each_kind_of_memory_has_curves_of_its_own():
    """‖W‖ of an addressed memory and ‖ΔW‖ of a Θ share no scale."""
    video = torch.zeros(1, 3, 2, 2)
    lora = EpisodeVideos(video, None, video, [0.5], [0.1], [0.7], layers=[{"a": 0.7}])
    addressed = EpisodeVideos(video, None, video, [0.2], [0.1], [300.0])
    none = EpisodeVideos(video, None, video, [], [])
    found = curves({"none": [none], "temp_lora": [lora], "fast": [addressed]})
    assert found == {
        "fast/loss": {"temp_lora": [0.5]},
        "fast/gain": {"temp_lora": [0.1]},
        "fast/drift": {"temp_lora": [0.7]},
        "fast/drift by layer": {"a": [0.7]},
        "memory/error": {"fast": [0.2]},
        "memory/gain": {"fast": [0.1]},
        "memory/size": {"fast": [300.0]},
    }
