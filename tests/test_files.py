import errno
import json
import os
import resource
import signal
import socket
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from sfv import files
from sfv.files import (
    check_writable,
    claim_folder,
    claimed,
    locked,
    partial_file,
    read_json,
    regular_file,
    replacing,
    replacing_parts,
    write_bytes,
    write_json,
)
from sfv.names import ascii_name, is_hidden, part_of_a_name


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Writing beyond `num_bytes` of a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder):
    """Relative path → content of every file below, hidden ones too; folders are None."""
    return {
        str(p.relative_to(folder)): p.read_text() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert path.parent in temporary.parents, "a rename works only within one disk"
    assert tree(tmp_path) == {"new": None, "new/a.bin": "half"}


def test_partial_file_leaves_the_rename_to_its_caller(tmp_path):
    path = tmp_path / "a"
    with partial_file(path) as (file, temporary):
        file.write(b"x")
    assert (temporary.read_bytes(), path.exists()) == (b"x", False)


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_text("new")
        raise failure
    assert tree(tmp_path) == {"a": "old"}


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with full_disk(10), pytest.raises(OSError, match=r"cannot write \S+/a \(.*make room") as caught:
        write_bytes(path, bytes(20))
    assert caught.value.errno == errno.EFBIG
    assert tree(tmp_path) == {"a": "old"}


def test_a_name_that_is_a_folder_is_an_error_that_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match=r"cannot write \S+/a \("):
        write_bytes(tmp_path / "a", b"x")
    assert tree(tmp_path) == {"a": None}


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OSError, match=r"cannot write \S+/a/b\.json \("):
        write_json(tmp_path / "a" / "b.json", {})
    assert tree(tmp_path) == {"a": "x"}


def test_json_is_equal_for_equal_values_and_reads_back(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write_json(one, {"b": [1, 0.1], "a": {"y": None, "x": "Φ"}})
    write_json(other, {"a": {"x": "Φ", "y": None}, "b": [1, 0.1]})
    assert one.read_bytes() == other.read_bytes()
    assert json.loads(one.read_text()) == {"a": {"x": "Φ", "y": None}, "b": [1, 0.1]}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_without_a_standard_reading_is_refused(tmp_path, number):
    path = tmp_path / "a.json"
    write_json(path, {"fvd": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"fvd": number})
    assert json.loads(path.read_text()) == {"fvd": 1.0}


def write_parts(folder, mark, **parts):
    with replacing_parts(folder, "mark") as temporary:
        for name, content in parts.items():
            (temporary / name).mkdir()
            (temporary / name / "x").write_text(content)
        (temporary / "mark").write_text(mark)


def test_parts_move_into_a_new_or_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deep"):
        write_parts(tmp_path / name, "1", unet="u")
        assert tree(tmp_path / name) == {"mark": "1", "unet": None, "unet/x": "u"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "new"]


def test_parts_replace_those_of_their_name_and_leave_others(tmp_path):
    write_parts(tmp_path / "m", "1", unet="old")
    (tmp_path / "m" / "unet" / "stale").write_text("of the old one")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    write_parts(tmp_path / "m", "2", unet="new")
    assert tree(tmp_path) == {
        "m": None,
        "m/mark": "2",
        "m/notes.txt": "mine",
        "m/unet": None,
        "m/unet/x": "new",
    }


def test_parts_stay_as_they_were_when_writing_fails(tmp_path):
    write_parts(tmp_path / "m", "1", unet="old")
    before = tree(tmp_path)
    with full_disk(3), pytest.raises(OSError, match=r"cannot write \S+/m \(.*make room"):
        write_parts(tmp_path / "m", "2", unet="much too long")
    assert tree(tmp_path) == before


def test_parts_move_to_where_a_link_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for mark in ("1", "2"):
        write_parts(tmp_path / "link", mark, a="a")
        assert (tmp_path / "link").is_symlink()
        assert tree(tmp_path / "disk") == {"a": None, "a/x": "a", "mark": mark}


def test_the_marker_moves_last(tmp_path, monkeypatch):
    """Killed in between, a folder keeps its old marker, so that it can be written again."""
    moved = []
    parts = dict.fromkeys("abcdefxyz", "")
    write_parts(tmp_path / "m", "1", **parts)
    replace = type(tmp_path).replace
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: moved.append(self.name) or replace(self, to)
    )
    write_parts(tmp_path / "m", "2", **parts)
    moved = [name for name in moved if not name.startswith(".")]
    assert len(moved) == 10 and moved[-1] == "mark"


def test_parts_move_into_a_used_folder_without_writing_beside_it(tmp_path, monkeypatch):
    """The folder's own folder may be another's, or another disk."""
    write_parts(tmp_path / "m", "1", a="a")
    with replacing_parts(tmp_path / "m", "mark") as temporary:
        assert tmp_path / "m" in temporary.parents
        (temporary / "mark").write_text("2")
    assert tree(tmp_path) == {"m": None, "m/a": None, "m/a/x": "a", "m/mark": "2"}


@pytest.mark.parametrize("why", ["mount", "read only"])
def test_an_empty_folder_that_cannot_be_replaced_is_filled(tmp_path, monkeypatch, why):
    """`docker run -v DISK:/out` gives one; as root `access` still knows a read-only disk."""
    if why == "mount":
        monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    (tmp_path / "out").mkdir()
    inode = (tmp_path / "out").stat().st_ino
    write_parts(tmp_path / "out", "1", a="a")
    assert tree(tmp_path / "out") == {"a": None, "a/x": "a", "mark": "1"}
    assert (tmp_path / "out").stat().st_ino == inode and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_told_when_it_is_claimed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    beneath = tmp_path / "file" / "runs" / "a"
    for check in (check_writable, lambda path: claimed(path, "mark", "a folder").__enter__()):
        with pytest.raises(
            OSError, match=rf"cannot write {beneath} \(Not a directory\): .* choose"
        ):
            check(beneath)
    (tmp_path / "out").mkdir()

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", read_only)
        with pytest.raises(OSError, match=rf"cannot write {tmp_path}/out \(Read-only file system"):
            claim_folder(tmp_path / "out", "mark", "a folder")
    assert tree(tmp_path) == {"file": "", "out": None}
    check_writable(tmp_path / "out" / "new")
    assert tree(tmp_path / "out") == {"new": None}


def test_a_folder_is_claimed_if_it_is_new_empty_or_ours(tmp_path):
    folder = tmp_path / "new" / "run"
    claim_folder(folder, "config.yaml", "a run folder")
    claim_folder(folder, "config.yaml", "a run folder")
    (folder / "config.yaml").touch()
    (folder / "logs").mkdir()
    claim_folder(folder, "config.yaml", "a run folder")
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "logs"]


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    for name in "fbdeac":
        (tmp_path / name).touch()
    message = (
        r"holds a, b, c, d, e, which is not a run folder \(no config\.yaml in it\)\. "
        r"Give another output folder"
    )
    with pytest.raises(FileExistsError, match=message):
        claim_folder(tmp_path, "config.yaml", "a run folder")
    assert len(tree(tmp_path)) == 6


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "a"
    path.touch()
    with pytest.raises(FileExistsError, match=r"a is a file; give a folder: a run folder is made"):
        claim_folder(path, "config.yaml", "a run folder")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.mp4", "a-mp4"),
        ("my clips/one", "my-clips-one"),
        ("_a_", "_a_"),
        ("-a-", "a"),
        ("x" * 160, "x" * 160),
    ],
)
def test_an_ascii_name_stays_what_it_was(text, name):
    assert ascii_name(text) == name


def test_names_of_other_scripts_and_long_ones_stay_apart_and_short():
    texts = [
        "散歩",
        "走る",
        "café",
        "cafè",
        "caf",
        "!!!",
        "???",
        "x" * 300,
        "x" * 301,
        "é" * 250,
        "\udcff",
    ]
    names = [ascii_name(text) for text in texts]
    assert len(set(names)) == len(texts) and all(0 < len(name) <= 160 for name in names)
    assert all(name.isascii() and name[0].isalnum() for name in names)
    assert ascii_name(unicodedata.normalize("NFD", "café")) == ascii_name("café") == names[2]


def test_hidden_files_and_those_in_hidden_folders(tmp_path):
    hidden = ["._a.mp4", ".git/a.mp4", "a/._b/c.mp4", "a/.DS_Store"]
    assert all(is_hidden(tmp_path / name, tmp_path) for name in hidden)
    inside = tmp_path / ".data"
    assert not is_hidden(inside / "a" / "b._c.mp4", inside), (
        "what lies above the folder does not count"
    )


def test_only_a_regular_file_is_given_back(tmp_path):
    (tmp_path / "file").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert regular_file(tmp_path / "link") == tmp_path / "link"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tmp_path / "socket"))
    kinds = {"pipe": "a pipe", "zero": "a device", "socket": "a socket", "": "a folder"}
    for name, kind in kinds.items():
        with pytest.raises(OSError, match=f"is {kind}; give a regular file"):
            regular_file(tmp_path / name)
        with pytest.raises(OSError, match=kind):
            read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\x00\xff", b"{}}"])
def test_json_that_is_none_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json")


def killed(work):
    """Run in a fork that ends itself by SIGKILL."""
    pid = os.fork()
    if not pid:
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        die()


def test_what_a_dead_writer_left_goes_and_work_in_progress_stays(tmp_path):
    folder = tmp_path / "new"  # of which this process knows nothing yet
    with replacing(folder / "mine") as temporary:
        temporary.write_text("mine")
        killed(lambda: die_while_writing(folder / "a"))
        assert len(list(folder.iterdir())) == 2
        after = os.fork()
        if not after:
            _in_new_process(folder)
        assert os.waitstatus_to_exitcode(os.waitpid(after, 0)[1]) == 0
        assert sorted(p.name for p in folder.glob("[!.]*")) == ["b"]
        assert len(list(folder.iterdir())) == 2, "the dead one's work is gone, this one's is there"
    assert tree(folder) == {"b": "b", "mine": "mine"}


def leave(folder, age_s):
    """What writers leave that were killed at different moments, and what is not ours."""
    random = "0123456789ab"
    for name in (f".a.{random}.begun", f".b.{random}.begun", f".c.{random}.tmp"):
        (folder / name).mkdir(parents=True)
    (folder / f".a.{random}.begun" / ".lock").touch()
    (folder / ".mine.begun").mkdir()
    (folder / ".mine.tmp").mkdir()
    (folder / f".file.{random}.tmp").touch()
    then = time.time() - age_s
    for path in folder.iterdir():
        os.utime(path, (then, then))


@pytest.mark.parametrize(("hours", "left"), [(1, {"a", "b"}), (25, set())])
def test_what_was_begun_and_never_locked_goes_when_it_is_old(tmp_path, hours, left):
    """A folder for writing without a lock is one whose end was cut off; its age says nothing."""
    leave(tmp_path / "new", hours * 3600)
    write_bytes(tmp_path / "new" / "x", b"x")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    ours = {f".{name}.0123456789ab.begun" for name in left}
    assert names == {"x", ".mine.begun", ".mine.tmp", ".file.0123456789ab.tmp"} | ours


def test_what_was_begun_does_not_keep_a_folder_from_being_claimed(tmp_path):
    (tmp_path / "run" / ".x.0123456789ab.begun").mkdir(parents=True)
    claim_folder(tmp_path / "run", "mark", "a run folder")


def _in_new_process(folder):
    files._remove_leftovers.cache_clear()  # which a fork inherits
    write_bytes(folder / "b", b"b")
    os._exit(0)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Processes in two containers may have one number."""
    path = tmp_path / "a"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert tree(tmp_path) == {"a": "one"}
    with replacing_parts(tmp_path / "m", "x") as one, replacing_parts(tmp_path / "m", "x") as other:
        (one / "x").write_text("one")
        (other / "x").write_text("other")
    assert tree(tmp_path / "m") == {"x": "one"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    """safetensors replaces the file by one of its own, which is private."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a") as temporary:
            save_file({"x": torch.zeros(3)}, temporary)
        with replacing_parts(tmp_path / "m", "x") as folder:
            (folder / "unet").mkdir()
            save_file({"x": torch.zeros(3)}, folder / "unet" / "a")
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "m" / "unet" / "a"):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    allowed = 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "m" / "unet").stat().st_mode) == allowed


def test_a_second_name_of_a_private_file_stays_private(tmp_path):
    (tmp_path / "mine").touch(0o600)
    with replacing(tmp_path / "also") as temporary:
        os.link(tmp_path / "mine", temporary)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600


def test_what_is_published_was_synced_before_and_its_folder_afterwards(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.fstat(fd).st_ino) or sync(fd))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: done.append(str(to)) or replace(self, to)
    )
    path = tmp_path / "a"
    with replacing(path) as temporary:
        temporary.write_text("the first inode")
        save_file({"x": torch.zeros(3)}, temporary)
    order = [path.stat().st_ino, str(path), tmp_path.stat().st_ino]
    assert [entry for entry in done if entry in order] == order


def test_a_folder_in_use_is_refused_and_free_when_its_user_is_dead(tmp_path):
    folder = tmp_path / "out"
    holder = (
        rf"{folder} is in use by process {os.getpid()} on \S+ since 20\S+: wait for it, or give"
    )
    with claimed(folder, "mark", "a demo folder"), pytest.raises(FileExistsError, match=holder):
        claimed(folder, "mark", "a demo folder").__enter__()
    assert tree(folder) == {}

    def die_inside():
        with locked(folder, "wait"):
            die()

    killed(die_inside)
    assert len(list(folder.iterdir())) == 1
    with claimed(folder, "mark", "a demo folder"), pytest.raises(FileExistsError):
        locked(folder, "wait").__enter__()
    assert tree(folder) == {}


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "/x", "a/b", "a\0", None, 3])
def test_what_leads_out_of_a_folder_is_no_part_of_a_name(text):
    with pytest.raises(ValueError, match=r"episode .* cannot become part of a file's name"):
        part_of_a_name(text, "episode")


@pytest.mark.parametrize("text", ["walk 1", "Straße", "散歩", "a.b-c", "..a", "%41", "-x"])
def test_names_in_any_language_become_part_of_a_file_name(text):
    assert part_of_a_name(text, "episode") == text
