import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfv.fast.memory_file import MemoryHeader, StoredMemory, load_memory, save_memory

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
    for metadata in (
        None,
        {"sfv": "no json"},
        {"sfv": "[]"},
        {"sfv": '{"format": "sfv.memory/1"}'},
    ):
        save_file(WEIGHTS, path, metadata)
        with pytest.raises(ValueError, match=r"has format .*; a memory has format 'sfv.memory/2'"):
            load_memory(path)
    save_file(WEIGHTS, path, {"sfv": json.dumps({"format": "sfv.memory/2", "header": {"r": 3}})})
    with pytest.raises(ValueError, match="is damaged: its header cannot be read"):
        load_memory(path)
    save_memory(path, replace(STORED, weights={"unet.block.lora_A.weight": torch.ones(2, 3)}))
    with pytest.raises(ValueError, match="damaged: its tensors are no pairs of LoRA weights"):
        load_memory(path)
    for header in (replace(HEADER, r=3), replace(HEADER, r=0), replace(HEADER, episode="../x")):
        save_memory(path, replace(STORED, header=header))
        with pytest.raises(ValueError, match="is damaged: its"):
            load_memory(path)


def test_a_full_disk_leaves_the_old_memory_and_names_it(tmp_path):
    path = tmp_path / "walk.safetensors"
    save_memory(path, STORED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write \S+/walk\.safetensors \(.*make room"):
            save_memory(path, replace(STORED, extras={"other": torch.zeros(999)}))
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
