import json
import os
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfv.fast.memory_file import MemoryHeader, StoredMemory, load_memory, save_memory
from sfv.storage.weight_files import hash_tensors, read_tensors

WEIGHTS = {
    "unet.block.lora_A.weight": torch.arange(6.0).view(2, 3),
    "unet.block.lora_B.weight": torch.ones(4, 2),
}
HEADER = MemoryHeader("0123456789abcdef", "walk", 3, 2, 4.0, "", {"seed": 5})
STORED = StoredMemory(HEADER, WEIGHTS, {"context": torch.ones(1, 2, 3, 4, 5)})


def test_saved_and_loaded_are_equal_and_equal_memories_are_equal_files(tmp_path):
    for name in ("a", "b"):
        save_memory(tmp_path / name, STORED)
    found = load_memory(tmp_path / "a", HEADER.base)
    assert found.header == HEADER
    for ours, theirs in ((found.weights, WEIGHTS), (found.extras, STORED.extras)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (a, b), *_ = found.layers.values()
    assert (a.shape, b.shape, found.header.scale) == ((2, 3), (4, 2), 2.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_base_model_is_refused(tmp_path):
    save_memory(tmp_path / "walk.safetensors", STORED)
    with pytest.raises(ValueError, match=r"learned on base model 0123456789abcdef.*given is ffff"):
        load_memory(tmp_path / "walk.safetensors", "ffff")


def test_other_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors is no file; give a memory"):
        load_memory(path)
    path.write_text("not tensors")
    with pytest.raises(ValueError, match="no readable memory file"):
        load_memory(path)
    save_memory(path, STORED)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no readable memory file"):
        load_memory(path)
    for metadata in (None, {"sfv": '{"format": "sfv.memory/1"}'}):
        save_file(WEIGHTS, path, metadata)
        with pytest.raises(ValueError, match=r"has format .*; a memory has format 'sfv.memory/2'"):
            load_memory(path)
    for metadata in ({"sfv": "no json"}, {"sfv": "[]"}, {"sfv": "[" * 99999}, {"sfv": "NaN"}):
        save_file(WEIGHTS, path, metadata)
        with pytest.raises(ValueError, match="header is no JSON object"):
            load_memory(path)


def write_raw(path, header=None, tensors=None, **content):
    """A file that `save_memory` would not write; older versions wrote no checksum."""
    content = {"format": "sfv.memory/2", "header": {**asdict(HEADER), **(header or {})}, **content}
    save_file(WEIGHTS if tensors is None else tensors, path, {"sfv": json.dumps(content)})


@pytest.mark.parametrize(
    ("field", "given", "allowed"),
    [
        ("num_chunks", "x", "a whole number of 0 to 10000000"),
        ("num_chunks", 1.0, "a whole number"),
        ("num_chunks", True, "a whole number"),
        ("num_chunks", -1, "a whole number"),
        ("num_chunks", 10**30, "a whole number"),
        ("r", 0, "a whole number of 1 to 65536"),
        ("r", None, "a whole number"),
        ("alpha", 10**400, "a number"),
        ("alpha", [4], "a number"),
        ("base", "", "a text of 1 to 200 characters"),
        ("base", 5, "a text"),
        ("episode", "../x", "a name that a file may have"),
        ("episode", "..", "a name that a file may have"),
        ("episode", "a\0b", "a name that a file may have"),
        ("episode", "x" * 1001, "a text of 1 to 1000 characters"),
        ("origin", {}, "a text"),
        ("settings", [], "an object"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, field, given, allowed):
    path = tmp_path / "x.memory.safetensors"
    write_raw(path, {field: given})
    with pytest.raises(ValueError, match=f"header.{field} is .*; allowed: {allowed}") as raised:
        load_memory(path)
    text = str(raised.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < 400


@pytest.mark.parametrize(("field", "given"), [("r", 0), ("num_chunks", -1), ("episode", "../x")])
def test_a_wrong_field_is_not_written(tmp_path, field, given):
    with pytest.raises(ValueError, match=f"header.{field} is "):
        save_memory(tmp_path / "new", replace(STORED, header=replace(HEADER, **{field: given})))
    assert not (tmp_path / "new").exists()


def test_a_missing_field_and_a_header_that_is_none_are_named(tmp_path):
    path, content = tmp_path / "x", {"format": "sfv.memory/2"}
    for header, message in (
        ({"r": 3}, "header.base is missing; allowed: a text"),
        ([], r"header is \[\]; allowed: an object with base"),
        (None, "header is None; allowed: an object with base"),
    ):
        save_file(WEIGHTS, path, {"sfv": json.dumps({**content, "header": header})})
        with pytest.raises(ValueError, match=message):
            load_memory(path)
    write_raw(path, {"added_later": 1})
    assert load_memory(path).header == HEADER


A, B = WEIGHTS
STEP = {
    "optimizer.step": torch.tensor(4.0),
    "optimizer.exp_avg": torch.zeros(14),
    "optimizer.exp_avg_sq": torch.zeros(14),
}
FIRST = {
    "first.latents": torch.zeros(1, 2, 5, 4, 5),
    "first.action": torch.tensor(list("tourne à gauche".encode()), dtype=torch.uint8),
    "first.chunk_idx": torch.tensor(0),
    "first.loss": torch.tensor(0.5, dtype=torch.float64),
}
WHOLE = {**STORED.extras, "history": torch.zeros(7, 2, 5, 4, 5), **STEP, **FIRST}


def test_all_that_a_rollout_keeps_is_read_again(tmp_path):
    save_memory(tmp_path / "x", replace(STORED, extras=WHOLE))
    found = load_memory(tmp_path / "x")
    assert found.has_checksum
    assert all(torch.equal(found.extras[name], WHOLE[name]) for name in WHOLE)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (A, torch.ones(3, 3), r"float32 \[3, 3\]; allowed for rank 2"),
        (B, torch.ones(4, 2, 1), "allowed for rank 2"),
        (B, torch.ones(4, 2, 3, 1, 1), "allowed for rank 2"),
        (A, torch.ones(2, 0), "allowed for rank 2"),
        (A, torch.ones(2, 3, dtype=torch.int64), r"int64 \[2, 3\]; allowed"),
        (A, torch.ones(2, 3, dtype=torch.complex64), "complex64"),
        (A, torch.full((2, 3), torch.nan), "holds 6 of 6 numbers that are NaN or infinite"),
        (B, torch.full((4, 2), -torch.inf), "holds 8 of 8 numbers that are NaN or infinite"),
        (A, None, "is no half of a pair"),
        ("unet.x.lora_C.weight", torch.ones(2, 3), "is no half of a pair"),
        ("\x1b[2J.lora_A.weight", torch.ones(2, 3), r"tensor '\\x1b\[2J.lora_A.weight' is no half"),
        ("extra.other", torch.ones(1), "extra.other is not known; allowed: optimizer.step"),
        ("extra.context", torch.ones(2, 3), r"context is float32 \[2, 3\]; allowed: floats \[1 c t h w\]"),
        ("extra.context", torch.ones(2, 2, 3, 4, 5), "extra.context is"),
        ("extra.context", torch.ones(1, 2, 0, 4, 5), "extra.context is"),
        ("extra.context", torch.ones(1, 2, 3, 4, 5, dtype=torch.int8), "extra.context is int8"),
        ("extra.context", torch.full((1, 2, 3, 4, 5), torch.inf), "extra.context. holds 120 of 120"),
        ("extra.history", torch.ones(7, 9, 5, 4, 5), "extra.(history|first.latents) is .* c = "),
        ("extra.history", torch.ones(7, 2, 6, 4, 5), "extra.(history|first.latents) is .* pair = "),
        ("extra.history", torch.ones(10_001, 2, 5, 4, 5, dtype=torch.float16), "extra.history is"),
        ("extra.history", torch.ones(10**9, 0, 5, 4, 5), "extra.history is"),
        ("extra.optimizer.exp_avg", torch.zeros(13), "exp_avg is .* p = 14"),
        ("extra.optimizer.exp_avg", torch.full((14,), torch.nan), "exp_avg.* holds 14 of 14"),
        ("extra.optimizer.exp_avg_sq", None, "extra.optimizer.exp_avg_sq is missing; allowed: all"),
        ("extra.optimizer.exp_avg_sq", -torch.ones(14), "exp_avg_sq holds negative numbers"),
        ("extra.optimizer.step", torch.tensor(1e12), "optimizer.step is 9.*; allowed: 0 to 1000000000"),
        ("extra.optimizer.step", torch.tensor(torch.nan), "optimizer.step is nan"),
        ("extra.optimizer.momentum", torch.zeros(14), "extra.optimizer.momentum is not known"),
        ("extra.first.action", None, "extra.first.action is missing"),
        ("extra.first.action", torch.tensor([0xFF], dtype=torch.uint8), "first.action is no text"),
        ("extra.first.action", torch.tensor([300]), "first.action is int64"),
        ("extra.first.chunk_idx", torch.tensor([0, 1]), "first.chunk_idx is"),
        ("extra.first.chunk_idx", torch.tensor(-1), "first.chunk_idx is -1"),
        ("extra.first.loss", torch.tensor(torch.nan, dtype=torch.float64), "first.loss.* NaN"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_neither_read_nor_written(tmp_path, name, tensor, message):
    tensors = {**WEIGHTS, **{f"extra.{n}": t for n, t in WHOLE.items()}, name: tensor}
    tensors = {n: t for n, t in tensors.items() if t is not None}
    path = tmp_path / "x.memory.safetensors"
    write_raw(path, tensors=tensors)
    with pytest.raises(ValueError, match=message) as raised:
        load_memory(path)
    assert str(raised.value).startswith(str(path)) and str(raised.value).isprintable()
    weights = {n: t for n, t in tensors.items() if not n.startswith("extra.")}
    extras = {n.removeprefix("extra."): t for n, t in tensors.items() if n.startswith("extra.")}
    with pytest.raises(ValueError, match=message):
        save_memory(tmp_path / "new", StoredMemory(HEADER, weights, extras))
    assert not (tmp_path / "new").exists()


def test_a_changed_file_does_not_fit_its_checksum_and_one_without_is_read(tmp_path):
    path = tmp_path / "x.memory.safetensors"
    save_memory(path, STORED)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # a bit of the last number: still finite
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.memory\.safetensors is damaged: its checksum is"):
        load_memory(path)
    write_raw(path, {"num_chunks": 9}, checksum="0" * 16)
    with pytest.raises(ValueError, match="its checksum is '0000000000000000'"):
        load_memory(path)
    write_raw(path)
    found = load_memory(path)
    assert found.header == HEADER and not found.has_checksum


def test_what_is_saved_is_hashed_once(tmp_path, monkeypatch):
    """A memory is saved every few chunks; both checksums of the file are right all the same."""
    hashed = []

    def count(tensors):
        hashed.append(len(tensors))
        return hash_tensors(tensors)

    for module in ("sfv.fast.memory_file", "sfv.storage.weight_files"):
        monkeypatch.setattr(f"{module}.hash_tensors", count)
    save_memory(tmp_path / "a", STORED)
    assert hashed == [3]
    assert load_memory(tmp_path / "a").has_checksum
    assert len(read_tensors(tmp_path / "a")[0]) == 3, "which compares the other one"


def test_a_header_without_end_is_refused(tmp_path):
    path = tmp_path / "x"
    write_raw(path, {"settings": {"x": "y" * 1_000_000}})
    with pytest.raises(ValueError, match=r"header has 10\d+ characters; allowed: 1000000"):
        load_memory(path)


def test_a_full_disk_leaves_the_old_memory_and_names_it(tmp_path):
    path = tmp_path / "walk.safetensors"
    save_memory(path, STORED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write \S+/walk\.safetensors \(.*make room"):
            save_memory(path, replace(STORED, extras={"context": torch.zeros(1, 2, 3, 4, 50)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_memory(path, HEADER.base).extras.keys() == STORED.extras.keys()
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_dies_while_saving_leaves_the_old_memory(tmp_path, monkeypatch):
    """Killed after all bytes are written, before the new file takes its name."""
    path = tmp_path / "walk.memory.safetensors"
    save_memory(path, STORED)
    before = path.read_bytes()
    if (child := os.fork()) == 0:
        Path.replace = lambda *_: os._exit(9)
        save_memory(path, replace(STORED, header=replace(HEADER, num_chunks=4)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == before
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(left) == 1
    assert left[0].endswith(".tmp"), "what is left is not taken for a memory"


ADDRESSED = StoredMemory(
    replace(HEADER, kind="addressed", r=4, alpha=0.5),
    {
        "weights": torch.ones(1, 4, 24),
        "covariance": 2 * torch.eye(4)[None],
        "ridge": torch.tensor([0.5]),
        "shape": torch.tensor([2.0, 3.0, 4.0]),
    },
    {"pose": torch.zeros(3, dtype=torch.float64), "context": torch.ones(1, 2, 5, 3, 4)},
)


def test_an_addressed_memory_is_read_as_it_was_written(tmp_path):
    save_memory(tmp_path / "a", ADDRESSED)
    found = load_memory(tmp_path / "a", HEADER.base)
    assert found.header == ADDRESSED.header
    for ours, theirs in ((found.weights, ADDRESSED.weights), (found.extras, ADDRESSED.extras)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    save_memory(tmp_path / "b", replace(ADDRESSED, extras={"pose": ADDRESSED.extras["pose"]}))
    assert "context" not in load_memory(tmp_path / "b").extras


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "weights",
            None,
            r"tensor 'weights' is missing; allowed in an addressed memory of key size 4",
        ),
        ("weights", torch.ones(1, 6, 24), r"'weights' is float32 \[1, 6, 24\]; allowed"),
        (
            "weights",
            torch.ones(1, 4, 12),
            r"rows of 12 numbers, but tensor shape is \[2.0, 3.0, 4.0\]",
        ),
        ("covariance", torch.ones(1, 4, 3), r"'covariance' is float32 \[1, 4, 3\]"),
        ("covariance", torch.ones(1, 4, 4, dtype=torch.int64), r"'covariance' is int64"),
        ("ridge", torch.zeros(1), r"tensor ridge is \[0.0\]; allowed: above 0"),
        ("ridge", torch.ones(2), r"'ridge' is float32 \[2\]"),
        ("shape", torch.ones(4), r"'shape' is float32 \[4\]"),
        (
            "shape",
            torch.tensor([-2.0, -3.0, 4.0]),
            "allowed: channels, height and width of the lat",
        ),
        (
            "shape",
            torch.tensor([1.5, 4.0, 4.0]),
            "allowed: channels, height and width of the latents",
        ),
        ("extra.pose", None, "tensor 'extra.pose' is missing"),
        ("extra.pose", torch.zeros(2), r"'extra.pose' is float32 \[2\]"),
        ("extra.pose", torch.full((3,), torch.inf), "holds 3 of 3 numbers that are NaN or inf"),
        (
            "extra.context",
            torch.ones(1, 2, 5, 3, 5),
            r"extra.context is .*names, \[2.0, 3.0, 4.0\]",
        ),
        ("extra.context", torch.ones(2, 3, 4), r"'extra.context' is float32 \[2, 3, 4\]"),
        ("extra.more", torch.ones(1), r"'extra.more' is float32 \[1\]; allowed in an addressed"),
        ("block.lora_A.weight", torch.ones(2, 3), "'block.lora_A.weight' is .* allowed in an addr"),
    ],
)
def test_a_damaged_addressed_memory_is_neither_read_nor_written(tmp_path, name, tensor, message):
    tensors = {**ADDRESSED.weights, **{f"extra.{n}": t for n, t in ADDRESSED.extras.items()}}
    tensors = {n: t for n, t in (tensors | {name: tensor}).items() if t is not None}
    header = {"format": "sfv.memory/2", "header": asdict(ADDRESSED.header)}
    save_file(tensors, tmp_path / "bad", {"sfv": json.dumps(header)})
    with pytest.raises(ValueError, match=message) as caught:
        load_memory(tmp_path / "bad")
    assert "\n" not in str(caught.value)
    weights = {n: t for n, t in tensors.items() if not n.startswith("extra.")}
    extras = {n.removeprefix("extra."): t for n, t in tensors.items() if n.startswith("extra.")}
    with pytest.raises(ValueError, match=message):
        save_memory(tmp_path / "new", StoredMemory(ADDRESSED.header, weights, extras))
    assert not (tmp_path / "new").exists()
