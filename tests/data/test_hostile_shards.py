"""Shards made to do harm: each costs one clear line, no command, no file elsewhere, no memory."""

import dataclasses
import hashlib
import io
import json
import resource
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from sfv.data.datamodule import EpisodeDataModule
from sfv.data.index import (
    DAMAGE,
    INDEX,
    TABLE,
    Shard,
    ShardError,
    find_shards,
    one_episode,
    write_index,
)
from sfv.data.schema import SchemaError, from_json, to_json
from sfv.data.shards import read_samples, write_shards
from sfv.data.sources import PipeReader, ShardSource
from sfv.data.stages import decode_frames, decode_latents
from sfv.names import plain_name
from tests.data.make import CHUNK, latents_sample, make_meta

NAMES = [
    "x.tar;cd ..;touch PWNED;#.tar", "$(touch PWNED).tar", "`id`.tar", "a b.tar", "a\nb.tar", "-rf.tar",
    "../x.tar", "/x.tar", "a/b.tar", "..tar", ".tar", "x.tar::simplecache.tar", "x.tar?a=b.tar",
    "%2e%2e.tar", "x.tar#.tar", "x.zip", "é.tar", "x.tar\n", "x" * 250 + ".tar", "", None, 3, ["x.tar"],
]  # fmt: skip
NUM = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [latents_sample(f"e-{i}", 3, number=float(i)) for i in range(NUM)]
    write_shards(samples, tmp_path / "train", "train", 3 * len(samples[0].payload))
    return tmp_path / "train"


@contextmanager
def no_more_memory_than(num_bytes: int) -> Iterator[None]:
    """Let this process take at most so many bytes more of address space."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_an_index_names_plain_files_only(name: Any, folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["shards"][0]["name"] = name
    (folder / INDEX).write_text(json.dumps(content))
    reason = r"\(shard name .* not a plain file" if isinstance(name, str) else ""
    with pytest.raises(ShardError, match=r"index\.json: is damaged " + reason):
        find_shards(folder)
    with pytest.raises(ValueError, match="not a plain file name"):
        plain_name(name, "shard name", ".tar")


def test_no_command_comes_from_an_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shard = find_shards(folder).shards[0]
    object.__setattr__(shard, "name", NAMES[0])  # past the check of the index
    reader = PipeReader(find_shards(folder), f"pipe:cat {folder}/{{shard}}", lambda *_: False)
    with pytest.raises(ValueError, match="not a plain file name"):
        reader.read(shard, 0, 10)
    assert not (folder / "PWNED").exists() and not (folder.parent / "PWNED").exists()


Change = Callable[[dict[str, np.ndarray]], dict[str, Any]]
TABLES: list[tuple[Change, str]] = [
    (lambda t: {"end": t["end"] + 2**40}, "outside its shard"),
    (lambda t: {"begin": t["begin"] - 1}, "outside its shard"),
    (lambda t: {"begin": t["end"]}, "outside its shard"),
    (lambda t: {"shard": t["shard"] + np.int32(2**31 - 2)}, "numbers of episodes"),
    (lambda t: {"shard": t["shard"] - np.int32(1)}, "numbers of episodes"),
    (lambda t: {"shard": t["shard"] * 0}, "numbers of episodes"),
    (lambda t: {"domain": t["domain"] + np.uint8(9)}, "names domain 9"),
    (lambda t: {"num_actions": t["num_actions"] * 0}, "numbers of actions"),
    (lambda t: {"num_actions": t["num_actions"] + np.int32(2**30)}, "numbers of actions"),
    (lambda t: {"action_stop": t["action_stop"] * 0}, "action without frames"),
    (lambda t: {"action_stop": t["action_stop"][::-1].copy()}, "action without frames"),
    (lambda t: {"action_stop": t["action_stop"] + np.int32(2**30)}, "more frames than it has bytes"),
    (lambda t: {"begin": t["begin"].astype(np.float64)}, "columns of another type"),
    (lambda t: {"begin": t["begin"][:, None]}, "columns of another type"),
    (lambda t: {"domain": t["domain"][:-1].copy()}, "columns of different lengths"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), TABLES)
def test_a_table_that_cannot_be_true_is_refused(change: Change, message: str, folder: Path) -> None:
    columns = vars(find_shards(folder).table)
    table = save({**columns, **change(columns)})
    (folder / TABLE).write_bytes(table)
    content = json.loads((folder / INDEX).read_text())
    content["table_sha256"] = hashlib.sha256(table).hexdigest()
    (folder / INDEX).write_text(json.dumps(content))
    with (
        no_more_memory_than(200_000_000),
        pytest.raises(ShardError, match=rf"index\.json: episodes\.safetensors .*{message}"),
    ):
        find_shards(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_bytes": "9"}, {"num_bytes": -1}, {"num_bytes": 2**70}, {"num_samples": True},
        {"num_samples": 1.5}, {"sha": "0"},
    ],
)  # fmt: skip
def test_numbers_of_a_shard_are_checked(change: dict[str, Any], folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["shards"][0] |= change
    (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"index\.json: is damaged"):
        find_shards(folder)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{}", b"\xff", b"3", b"1" * 5000])
def test_an_index_that_is_none_is_named(content: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(content)
    with pytest.raises(ShardError, match=r"index\.json: is damaged"):
        find_shards(folder)


def sparse(num_bytes: int) -> bytes:
    """A tar of 1.5 kB with one member, old GNU sparse, that reads as `num_bytes`."""
    info = tarfile.TarInfo("a-000.json")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = f"{num_bytes:011o}\0".encode()
    return checked(head) + bytes(1024)


def checked(head: bytearray) -> bytes:
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head[:512]):06o}\0 ".encode()
    return bytes(head)


def pax_sparse(num_bytes: int, fields: dict[str, str]) -> bytes:
    info = tarfile.TarInfo("a-000.json")
    info.pax_headers = {"GNU.sparse.realsize": str(num_bytes), **fields}
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def claiming(num_bytes: int) -> bytes:
    info = tarfile.TarInfo("a-000.json")
    info.size = num_bytes
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def endless_names(count: int) -> bytes:
    """Long-name headers that each announce another: the reader calls itself for each."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8
    return (info.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (sparse(2**30), "not allowed"),
        (sparse(8**11 - 1), "not allowed"),
        (pax_sparse(2**40, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "not allowed|cannot be"),
        (pax_sparse(2**40, {"GNU.sparse.map": "0,1"}), "not allowed"),
        (pax_sparse(2**40, {"GNU.sparse.map": "a,b"}), "cannot be read|not allowed"),
        (claiming(2**62), "says that it has 4611686018427387904 bytes, there are"),
        (claiming(-1), "says that it has -1 bytes"),
        (endless_names(2000), "cannot be read"),
        (b"\xff" * 2048, "cannot be read"),
        (b"", "cannot be read"),
    ],
)  # fmt: skip
def test_a_tar_claims_no_more_than_it_has(content: bytes, message: str) -> None:
    with no_more_memory_than(200_000_000), pytest.raises(ShardError, match=message):
        list(read_samples(io.BytesIO(content), "x.tar", len(content)))


def npy(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def shape(text: str, kind: str = "<f2") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {text}, }}\n")


def zip_of(num_bytes: int) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, np.zeros(num_bytes, dtype=np.uint8))
    return file.getvalue()


BAD_ARRAYS = [
    shape("(100000, 100000, 100000, 1)"), shape("(1, 2, 3, 4)"), shape("(1, 1, 1, 1)") + bytes(4),
    shape("(-1, -2, 1, 1)") + bytes(4), shape("(0, 9999999999999, 1, 1)"), shape("(2**70, 1, 1, 1)"),
    shape("(1, 1, 1, 1)", "|O") + bytes(8), shape("(1, 1, 1, 1)", "V2") + bytes(2),
    shape("(999999999999999999999999, 1, 1, 1)"), npy("(" * 9000), npy("'"), npy("{'descr': (\n"),
    npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1L, }\n"), npy("["), npy(""), b"",
    b"PK\x03\x04", zip_of(50_000_000), b"\x93NUMPY\x03\x00" + bytes(9),
    b"\x80\x04.", b"\x93NUMPY\x01\x00\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("content", BAD_ARRAYS, ids=range(len(BAD_ARRAYS)))
def test_an_array_claims_no_more_than_it_has(content: bytes) -> None:
    for decode in (decode_latents, decode_frames):
        with no_more_memory_than(100_000_000), pytest.raises(ShardError, match="unreadable"):
            decode(content, "e-0")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(order: Any) -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float16, order=order)
    file = io.BytesIO()
    np.save(file, array)
    read = decode_latents(file.getvalue())
    assert np.array_equal(read.numpy(), array) and read.numpy().flags.writeable


RAW = '"actions": [{"raw": null'
BAD_JSON: list[Callable[[str], str]] = [
    lambda text: "[" * 100_000,
    lambda text: text.replace(RAW, '"actions": [{"raw": ' + "[" * 40 + "]" * 40),
    lambda text: text.replace(RAW, '"actions": [{"raw": ' + '{"a":' * 500 + "1" + "}" * 500),
    lambda text: text.replace(RAW, '"actions": [{"raw": ' + "[" * 900 + "]" * 900),
    lambda text: text.replace('"poses": null', '"poses": ' + "[" * 700 + "]" * 700),
    lambda text: text.replace('"fps": 8.0', '"fps": 1' + "0" * 400),
    lambda text: text.replace('"fps": 8.0', '"fps": 1' + "0" * 5000),
    lambda text: text.replace('"poses": null', '"poses": [[1' + "0" * 400 + ",0,0,0]]"),
    lambda text: text.replace('"split": "train"', '"split": ["train"]'),
    lambda text: text.replace('"kind": "video"', '"kind": {"video": 1}'),
    lambda text: text.replace('"id": "a-000"', '"id": "../a"'),
    lambda text: text.replace('"id": "a-000"', '"id": "' + "x" * 3_000_000 + '/"'),
]


@pytest.mark.parametrize("change", BAD_JSON)
def test_a_json_bomb_is_a_schema_error_of_one_short_line(change: Callable[[str], str]) -> None:
    text = to_json(make_meta("a-000"))
    assert RAW in text
    with pytest.raises(SchemaError, match=r"x\.tar") as error:
        from_json(change(text), "x.tar")
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def replaced(folder: Path, row: int, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of one episode; its length stays."""
    index = find_shards(folder)
    path = folder / index.shards[index.table.shard[row]].name
    begin, end = int(index.table.begin[row]), int(index.table.end[row])
    content = path.read_bytes()
    new = change(content[begin:end])
    assert len(new) == end - begin
    path.write_bytes(content[:begin] + new + content[end:])


def payload(start: bytes) -> Callable[[bytes], bytes]:
    def change(old: bytes) -> bytes:
        place = old.index(b"\x93NUMPY")
        return old[:place] + start + old[place + len(start) :]

    return change


def metadata(old_text: bytes, new_text: bytes) -> Callable[[bytes], bytes]:
    assert len(old_text) == len(new_text)
    return lambda old: old.replace(old_text, new_text, 1)


DAMAGES: list[Callable[[bytes], bytes]] = [
    payload(shape("(99999, 99999, 99999, 99999)")),
    payload(b"PK\x03\x04"),
    payload(npy("{'descr': (")),
    payload(npy("(" * 70)),
    lambda old: (sparse(2**30) * 9)[: len(old)].ljust(len(old), b"\0"),
    lambda old: endless_names(len(old))[: len(old)],
    metadata(b'"num_frames": 9', b'"num_frames": [') ,
    metadata(b'"fps": 8.0', b'"fps": 9e9'),
    metadata(b'"start": 0', b'"start": -'),
    lambda old: b"\xff" * len(old),
    bytes.upper,
]  # fmt: skip


@pytest.mark.parametrize("piped", [False, True], ids=["range", "pipe"])
@pytest.mark.parametrize("change", DAMAGES)
@pytest.mark.parametrize("row", [0, 4])
def test_one_bad_episode_costs_itself_alone(
    change: Callable[[bytes], bytes], row: int, piped: bool, folder: Path
) -> None:
    harmless = change is DAMAGES[7]  # other numbers that are allowed
    replaced(folder, row, change)
    source = ShardSource(str(folder), f"pipe:cat {folder}/{{shard}}") if piped else str(folder)
    module = EpisodeDataModule(
        [source], num_context=CHUNK, num_generated=CHUNK, batch_size=1, shuffle_buffer=1,
        max_skipped_share=0.5,
    )  # fmt: skip
    stream = module.train_dataloader()
    with no_more_memory_than(400_000_000):
        batches = list(stream)
    seen = {key.split("/")[0] for batch in batches for key in batch["keys"]}
    assert seen == {f"e-{i}" for i in range(NUM) if harmless or i != row}
    assert len(batches) == len(stream) == 2 * NUM
    if not harmless:
        assert (stream.skipped.windows, stream.skipped.repeats) == (2, 2)
        (message,) = stream.skipped.samples
        shard = find_shards(folder).shards[row // 3]
        assert f"{shard.name}, byte {find_shards(folder).table.begin[row]}" in message
        assert len(message) < 1000


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_becomes_an_error_of_the_shard(kind: type[Exception]) -> None:
    with (
        pytest.raises(ShardError, match=r"x\.tar: e-0: damaged \(.*over"),
        one_episode("x.tar: e-0"),
    ):
        raise kind("over")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TypeError, AttributeError, SystemExit])
def test_an_interruption_and_wrong_code_are_not_damage(kind: type[BaseException]) -> None:
    with pytest.raises(kind), one_episode("x.tar: e-0"):
        raise kind


def test_actions_other_than_the_table_s_are_damage(folder: Path) -> None:
    index = find_shards(folder)
    stops = index.table.action_stop.copy()
    stops[1] += 1
    write_index(
        dataclasses.replace(index, table=dataclasses.replace(index.table, action_stop=stops))
    )
    module = EpisodeDataModule(
        str(folder), num_context=2, num_generated=2, batch_size=2, max_skipped_share=0.5
    )
    stream = module.train_dataloader()
    list(stream)
    (message,) = stream.skipped.samples
    assert "e-0 has other actions than the index says" in message


def test_a_shard_that_is_no_file_name_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        Shard("../x.tar", 1, 1, "")
