import pytest
import torch
from safetensors.torch import load_file, save_file

from sfv.storage.weight_files import hash_tensors, read_tensors, write_tensors

TENSORS = {"w": torch.tensor([[1.0, 2.0]]), "num": torch.tensor([3])}
SAID = {name: f"'{name}' Φ \n \x1f" for name in "hgfedcba"}


def test_tensors_and_what_is_said_of_them_come_back(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, SAID)
    tensors, said = read_tensors(tmp_path / "a")
    assert said == SAID
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_equal_content_is_equal_files(tmp_path):
    for name in ("a", "b"):
        write_tensors(tmp_path / name, TENSORS, SAID)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, number, dtype):
    path, bad = tmp_path / "a", {"w": torch.tensor([1.0, number], dtype=dtype)}
    with pytest.raises(ValueError, match=r"/a is not written: 1 of 2 numbers of w are NaN or inf"):
        write_tensors(path, bad, {})
    assert not list(tmp_path.iterdir())
    save_file(bad, path)
    with pytest.raises(ValueError, match=r"/a cannot be used: 1 of 2 numbers of w are NaN or inf"):
        read_tensors(path)


def test_every_flipped_bit_of_the_values_is_found_and_the_file_named(tmp_path):
    path = tmp_path / "a"
    write_tensors(path, TENSORS, {})
    content = path.read_bytes()
    for place in range(len(content) - 16, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"/a is damaged: its checksum .* write it again"):
            read_tensors(path)


def test_a_file_without_a_checksum_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "a", {"by": "others"})
    tensors, said = read_tensors(tmp_path / "a")
    assert said == {"by": "others"} and torch.equal(tensors["w"], load_file(tmp_path / "a")["w"])


def test_one_number_of_any_stride_is_hashed_and_written(tmp_path):
    """Contiguous to PyTorch, whatever the stride is: an expanded number, say."""
    expanded = torch.tensor(3.0).expand(1)
    assert expanded.stride() == (0,)
    assert hash_tensors({"w": expanded}) == hash_tensors({"w": torch.tensor([3.0])})
    write_tensors(tmp_path / "a", {"w": expanded}, {})
    assert read_tensors(tmp_path / "a")[0]["w"].tolist() == [3.0]
