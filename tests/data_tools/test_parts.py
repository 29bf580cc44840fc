"""A command that is killed while it publishes shards loses none of them."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools import write_shards
from data_tools.files import write_episode
from data_tools.parts import MADE, PARTS
from sfv.data.index import INDEX, find_shards
from tests.data.make import latents_sample, video_sample

_left: list[int] = []
"""Changes of the disk until this process is killed; empty: it lives."""


def _hook(event: str, _: Any) -> None:
    if _left and event in ("os.rename", "os.remove", "os.rmdir"):
        _left[0] -= 1
        if _left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(_hook)


def killed(work: Callable[[], Any], changes: int) -> bool:
    """Do `work` in a process that is killed before one of its changes of the disk; False: it ended."""
    child = os.fork()
    if not child:
        _left.append(changes)
        os._exit(work())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.suffix not in (".tmp", ".begun")  # of a killed process
    }


def put(folder: Path, names: str) -> list[str]:
    for name in names:
        sample = video_sample(name, 1, split="val" if name == "z" else "train", scene=name)
        write_episode(folder, sample.meta, sample.payload)
    return [str(folder), f"--out={folder.parent / 'out'}", "--max-mb=0.001", "--workers=1"]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
@pytest.mark.parametrize("old", ["", "cd"])
def test_a_killed_command_is_repeated_and_gives_the_same_bytes(
    old: str, flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, args = tmp_path / "out", put(tmp_path / "in", "abz")
    assert write_shards.main(args) == 0
    expected, changes = files(out), 0
    assert len([name for name in expected if name.endswith(".tar")]) == 3
    repeat = [*args, flag, *(["--overwrite"] if old else [])]
    while True:
        shutil.rmtree(out)
        if old:
            assert write_shards.main(put(tmp_path / "old", old)) == 0
        first = [*args, *(["--overwrite"] if old else [])]
        if not killed(lambda given=first: write_shards.main(given), changes):
            break
        assert write_shards.main(repeat) == 0, changes
        assert files(out) == expected, changes
        changes += 1
    assert changes > 20


@pytest.mark.slow
def test_no_moment_leaves_an_index_whose_shards_are_not_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, args = tmp_path / "out", put(tmp_path / "in", "ab")
    changes = 0
    while True:
        shutil.rmtree(out, ignore_errors=True)
        assert write_shards.main(put(tmp_path / "old", "cde")) == 0
        if not killed(lambda: write_shards.main([*args, "--overwrite"]), changes):
            break
        changes += 1
        if (out / "train" / INDEX).exists():
            assert find_shards(out / "train").num_samples in (2, 3)
            assert all(len(list(p.parent.glob("*.tar"))) in (2, 3) for p in out.glob("*/*.json"))


def unfinished(tmp_path: Path) -> tuple[Path, list[str], dict[str, bytes]]:
    """Two finished tars that were not published: the folder, the command, what it has to give."""
    args = put(tmp_path / "in", "ab")
    train = tmp_path / "out" / "train"
    assert write_shards.main(args) == 0
    expected = files(train)
    shutil.rmtree(train)
    changes = 0
    while len(list((train / PARTS).glob("train*.json"))) < 2:
        shutil.rmtree(train, ignore_errors=True)
        changes += 1
        assert killed(lambda: write_shards.main(args), changes)
    return train, args, expected


def half_published(tmp_path: Path) -> tuple[list[str], dict[str, bytes]]:
    """One tar of two is at its place: the command, what it has to give."""
    train, args, expected = unfinished(tmp_path)
    changes = 0
    while len(list(train.glob("*.tar"))) != 1:
        shutil.rmtree(train.parent)
        changes += 1
        assert killed(lambda: write_shards.main(args), changes)
    assert not (train / INDEX).exists()
    return args, expected


@pytest.mark.slow
def test_a_resumed_command_may_be_killed_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args, expected = half_published(tmp_path)
    out, kept, changes = tmp_path / "out", tmp_path / "kept", 0
    shutil.copytree(out, kept)
    resume = [*args, "--resume"]
    while killed(lambda: write_shards.main(resume), changes):
        assert write_shards.main(resume) == 0, changes
        assert files(out / "train") == expected, changes
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        changes += 1
    assert changes > 5


@pytest.mark.parametrize("spoil", ["cut", "changed", "gone", "json"])
def test_a_finished_tar_that_is_not_whole_is_made_again(
    spoil: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, args, expected = unfinished(tmp_path)
    tar = train / PARTS / "train-000000.tar"
    if spoil == "cut":
        tar.write_bytes(tar.read_bytes()[:-700])
    elif spoil == "changed":
        tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    elif spoil == "gone":
        tar.unlink()
    else:
        tar.with_suffix(".json").write_text('{"settings_hash"')
    assert write_shards.main([*args, "--resume"]) == 0
    assert files(train) == expected


def test_other_episodes_do_not_go_on_with_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, args, _ = unfinished(tmp_path)
    put(tmp_path / "in", "c")
    assert write_shards.main([*args, "--resume"]) == 2
    assert "--overwrite alone to begin anew" in capfd.readouterr().err
    assert write_shards.main([*args, "--overwrite"]) == 0
    assert find_shards(train).num_samples == 3


def test_a_name_in_a_part_cannot_lead_out_of_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, args, expected = unfinished(tmp_path)
    part = train / PARTS / "train-000000.json"
    part.write_text(part.read_text().replace("train-000000.tar", "../../../in/a.mp4"))
    assert write_shards.main([*args, "--resume"]) == 0
    assert files(train) == expected and (tmp_path / "in" / "a.mp4").exists()


def test_resume_keeps_only_shards_of_the_same_source(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args, train = put(tmp_path / "in", "ab"), tmp_path / "out" / "train"
    assert write_shards.main(args) == 0
    before = files(train)
    assert write_shards.main([*args, "--resume"]) == 0 and files(train) == before
    put(tmp_path / "in", "c")
    assert write_shards.main([*args, "--resume"]) == 2
    assert "pass --overwrite to replace them" in capfd.readouterr().err
    assert write_shards.main([*args, "--resume", "--overwrite"]) == 0
    assert find_shards(train).num_samples == 3
    (train / MADE).write_text(json.dumps([latents_sample().meta.id]))
    assert write_shards.main([*args, "--resume"]) == 2
