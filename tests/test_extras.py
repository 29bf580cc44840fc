"""A command whose extra is missing says so in one line and ends with 2."""

import json
import sys

import pytest

import data_tools.collect.doom
import data_tools.collect.metaworld
import data_tools.convert.lerobot
import data_tools.dedup
import experiments.sweep
import sfv.cli
from sfv.extras import MissingExtra, require

CASES = {
    "doom": (data_tools.collect.doom.main, ["--out=new"], ["vizdoom"]),
    "metaworld": (data_tools.collect.metaworld.main, ["--out=new"], ["metaworld"]),
    "lerobot": (
        data_tools.convert.lerobot.main,
        ["--root=robots", "--scene-by=dataset", "--split=train", "--licence=CC0-1.0", "--out=new"],
        ["pyarrow", "pyarrow.parquet"],
    ),
    "data": (data_tools.dedup.main, ["old", "--out=new", "--workers=1"], ["imagehash"]),
    "cluster": (experiments.sweep.main, ["sweep.yaml"], ["optuna"]),
    "play": (sfv.cli.main, ["rate", "videos", "--out=new"], ["uvicorn"]),
}
"""What is tried (Dask: tests/data_tools/test_mapping.py) → its command, and what is taken away."""


@pytest.fixture
def folder(tmp_path, monkeypatch, kept_episode):
    (tmp_path / "robots/meta").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "fps": 10, "features": {}, "robot_type": "arm"}
    (tmp_path / "robots/meta/info.json").write_text(json.dumps(info))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(kept_episode)
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kept_episode():
    import numpy as np

    from sfv.report.video import encode_mp4

    return encode_mp4(np.zeros((2, 16, 16, 3), np.uint8), 8)


@pytest.mark.parametrize("case", CASES)
def test_a_missing_extra_is_named(case, folder, monkeypatch, capsys):
    main, argv, packages = CASES[case]
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    extra = case.partition(" ")[0]
    assert f"pip install 'sfv[{extra}]'" in lines[-1]
    assert packages[0].lower() in lines[-1].lower()
    assert not any(line.startswith("Traceback") for line in lines)


def test_what_is_there_is_not_asked_for():
    require("data", "hashes", "json", "sys")
    with pytest.raises(MissingExtra, match=r"hashes need nothing_such and nothing_else"):
        require("data", "hashes", "json", "nothing_such", "nothing_else")
