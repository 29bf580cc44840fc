import json
from pathlib import Path

import pytest
import yaml

from data_tools import benchmark as tool
from data_tools.collect.runner import MissingEngine
from sfv.evaluation.benchmark.spec import MANIFEST, SPECS, find_benchmark
from sfv.evaluation.benchmark.walks import load_walks

TINY = yaml.safe_load((SPECS / "doom-return-tiny.yaml").read_text())
ONE = TINY | {
    "options": {"maps": ["MAP05"]},
    "parts": {"return-72": {"walk": "return", "chunks": 9, "episodes": 1, "length": 100}},
}
"""The first walk of the shipped benchmark alone: its draws depend on its number, not on the others."""


def define(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(ONE | changes))
    return path


def refused(capsys, *arguments):
    assert tool.main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    assert tool.main([str(define(folder)), f"--out={folder / 'data'}", "--workers=1"]) == 0
    return folder / "data"


@pytest.mark.slow
def test_the_shipped_walk_is_made_again_to_the_last_bit(made):
    (ours,) = find_benchmark(str(made)).episodes.items()
    assert ours == ("return-72-00", find_benchmark("doom-return-tiny").episodes["return-72-00"])
    assert sorted(path.name for path in made.iterdir()) == ["benchmark.yaml", MANIFEST, "test"]
    (walk,) = load_walks(find_benchmark(str(made)), made, ["return-72"])
    assert (walk.turn, walk.video.shape) == (40, (72, 3, 64, 64))


@pytest.mark.slow
def test_data_that_differ_from_the_manifest_are_refused_and_made_ones_kept(made, tmp_path, capsys):
    manifest = json.loads((made / MANIFEST).read_text())
    manifest["episodes"]["return-72-00"]["frames_sha256"] = "0" * 64
    path = define(tmp_path)
    path.with_suffix(".json").write_text(json.dumps(manifest))
    said = refused(capsys, path, f"--out={tmp_path / 'data'}", "--workers=1")
    assert "1 of 1 episodes differ. doom-return-tiny 1: the walk of episode return-72-00 is" in said
    assert not (tmp_path / "data" / MANIFEST).exists()
    path.with_suffix(".json").write_text((made / MANIFEST).read_text())
    again = [str(path), f"--out={tmp_path / 'data'}", "--workers=1"]
    assert tool.main(again) == 0
    assert "1 episodes in" in capsys.readouterr().out
    assert tool.main(again) == 0
    assert "holds doom-return-tiny 1 already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collector": "quake"}, "'quake' is no collector; give the name of a module of"),
        ({"options": {"maps": ["MAP01"]}}, "MAP01: not a level of split 'test'"),
        (
            {"parts": {"p-1": TINY["parts"]["return-72"] | {"chunks": 8}}},
            "--chunks 8: a return walk",
        ),
    ],
)
def test_a_definition_that_no_collector_can_make_is_refused(tmp_path, capsys, changes, said):
    assert said in refused(capsys, define(tmp_path, **changes), f"--out={tmp_path / 'o'}")


def test_a_missing_simulator_is_told(tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise MissingEngine("pip install vizdoom")

    monkeypatch.setattr(tool, "collect", missing)
    assert "pip install vizdoom" in refused(capsys, define(tmp_path), f"--out={tmp_path / 'o'}")


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    said = refused(capsys, "doom-return-tiny", f"--out={tmp_path}")
    assert "holds thesis.tex, which is not a benchmark" in said
