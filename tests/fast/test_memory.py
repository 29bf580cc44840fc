import resource

import pytest
import torch
from safetensors.torch import save_file

from sfv.fast.memory import MemoryHeader, load_memory, save_memory

STATE = {
    "block.lora_A.weight": torch.arange(6.0).view(2, 3),
    "block.lora_B.weight": torch.ones(4, 2),
}
HEADER = MemoryHeader(base="0123456789abcdef", episode="walk", num_chunks=3)


def test_saved_and_loaded_are_equal(tmp_path):
    save_memory(tmp_path / "walk.safetensors", STATE, HEADER)
    state, header = load_memory(tmp_path / "walk.safetensors", HEADER.base)
    assert header == HEADER
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_another_base_model_is_refused(tmp_path):
    save_memory(tmp_path / "walk.safetensors", STATE, HEADER)
    with pytest.raises(ValueError, match=r"learned on base model 0123456789abcdef.*given is ffff"):
        load_memory(tmp_path / "walk.safetensors", "ffff")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(ValueError, match="no readable memory file"):
        load_memory(tmp_path / "text.safetensors", "x")
    save_file(STATE, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"format None; a memory has format 'sfv.memory/1'"):
        load_memory(tmp_path / "plain.safetensors", "x")


def test_a_full_disk_leaves_the_old_memory_and_names_it(tmp_path):
    path = tmp_path / "walk.safetensors"
    save_memory(path, STATE, HEADER)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write \S+/walk\.safetensors \(.*make room"):
            save_memory(path, {"other": torch.zeros(999)}, HEADER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_memory(path, HEADER.base)[0].keys() == STATE.keys()
    assert list(tmp_path.iterdir()) == [path]
