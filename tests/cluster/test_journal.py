"""A sweep's journal whose writer died in the middle of a line."""

import os

import pytest
import yaml

from experiments import sweep as command
from experiments.cluster.study import JOURNAL, Study
from experiments.cluster.sweep_file import load_sweep


@pytest.fixture
def file(tmp_path):
    space = {"x": {"values": [1, 2, 3]}}
    sweep = {"config": "none.yaml", "out": str(tmp_path / "out"), "space": space}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    (tmp_path / "out").mkdir()
    study(path).fill()
    return path


def study(file):
    sweep = load_sweep(file)
    return Study(file.parent / "out", sweep)


@pytest.mark.parametrize(
    "tail", [b'{"op_code": 6, "tri', b"\0" * 40, b'{"op_code": 6, "tri\n', b"{"]
)
def test_a_last_line_that_was_cut_off_is_removed_and_the_sweep_goes_on(file, capsys, tail):
    journal = file.parent / "out" / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + tail)
    found = study(file)
    said, number = capsys.readouterr().err, len(whole.splitlines()) + 1
    assert f"{journal}, line {number}: " in said and f"{len(tail)} bytes" in said
    assert journal.read_bytes()[: len(whole)] == whole and len(found.trials()) == 3
    found.start(1)
    assert [t.state.name for t in study(file).trials()] == ["WAITING", "RUNNING", "WAITING"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("bad", [b'{"op_code": 6, "tri{"op_code": 6}\n', b"[1]\n", b"\n", b"{}\n"])
def test_another_damaged_line_is_named_and_nothing_is_changed(file, capsys, bad):
    journal = file.parent / "out" / JOURNAL
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, bad, *rest])
    journal.write_bytes(damaged)
    assert command.main(["status", str(file)]) == 2
    assert f"{journal}, line 2: is no entry" in capsys.readouterr().err
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize("content", [b'{"op_code": 77}\n', b'{"op_code": 4, "worker_id": "a"}\n'])
def test_a_foreign_journal_is_named(file, capsys, content):
    journal = file.parent / "out" / JOURNAL
    journal.write_bytes(content)
    assert command.main(["status", str(file)]) == 2
    assert str(journal) in capsys.readouterr().err


def test_a_pipe_is_refused(file, capsys):
    journal = file.parent / "out" / JOURNAL
    journal.unlink()
    os.mkfifo(journal)
    assert command.main(["status", str(file)]) == 2
    assert f"{journal} is a pipe" in capsys.readouterr().err
