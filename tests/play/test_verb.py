"""What `sfv play` refuses before it serves."""

import socket
import sys

import pytest

from sfv.cli import main
from tests.play.serve import film


@pytest.fixture(scope="module")
def run(tmp_path_factory, world):
    """A run's folder: the model is in it."""
    folder = tmp_path_factory.mktemp("run")
    world.save(folder / "model")
    film(folder / "hall.mp4", 90)
    return folder


def refused(capsys, *options):
    assert main(["play", *map(str, options), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sfv play: ") and said.count("\n") == 1
    return said


@pytest.mark.slow
def test_wrong_options_are_named(run, tmp_path, capsys):
    ckpt = f"--ckpt={run}"
    assert "holds no world model" in refused(capsys, f"--ckpt={tmp_path}")
    assert "give --start (a video, an image, or a folder of them) or --episodes" in refused(
        capsys, ckpt
    )
    assert "does not exist" in refused(capsys, ckpt, f"--start={tmp_path / 'none.mp4'}")
    assert "holds no video or image" in refused(capsys, ckpt, f"--start={run / 'model'}")
    assert "cannot be read as a video" in refused(capsys, ckpt, f"--start={run}/model/model.json")
    assert "--visitors is 0" in refused(capsys, ckpt, f"--start={run}", "--visitors=0")
    (tmp_path / "a").mkdir()
    for name in ("hall.mp4", "hall.mkv"):
        film(tmp_path / "a" / name, 90)
    assert "two starts are called 'hall'" in refused(capsys, ckpt, f"--start={tmp_path / 'a'}")


@pytest.mark.slow
def test_the_shipped_checkpoint_needs_no_start(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(capsys, f"--port={taken.getsockname()[1]}")
    assert "cannot listen" in said, "everything else was there"


def test_a_port_that_is_taken_is_named(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, f"--ckpt={run}", f"--start={run}", f"--port={port}")
    assert f"cannot listen on 127.0.0.1:{port}" in said and "give another --port" in said


def test_without_its_packages_it_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "sfv.play.server", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    said = refused(capsys, f"--ckpt={run}", f"--start={run}")
    assert "is missing; pip install 'sfv[play]'" in said
