"""`sfv memory` through the command line, on memories of a real model; PEFT is the judge."""

import json

import pytest
import torch
from diffusers import UNet3DConditionModel
from peft import PeftModel

from sfv.cli import main
from sfv.fast.memory_file import MemoryHeader, StoredMemory, load_memory, save_memory
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.rng import stream


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A model, and memories of two chunks (rank 4), three chunks, and of another model."""
    folder = tmp_path_factory.mktemp("memories")
    world.save(folder / "model")
    with TemporalLoRA(world.denoiser, r=4, alpha=6.0) as lora:
        for num, base in ((2, world.fingerprint()), (3, world.fingerprint()), (1, "f" * 16)):
            theta = 0.1 * torch.randn(lora.num_weights, generator=stream(0, "verbs", num))
            header = MemoryHeader(base, "walk" if num > 1 else "odd", num, 4, 6.0)
            stored = StoredMemory(
                header, lora.state(theta), {"context": torch.zeros(1, 5, 3, 4, 6)}
            )
            save_memory(folder / "kept" / f"walk.chunk-000{num}.memory.safetensors", stored)
    (folder / "kept" / "bad.memory.safetensors").write_text("no tensors")
    return folder


def path(folder, num):
    return str(folder / "kept" / f"walk.chunk-000{num}.memory.safetensors")


def said(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main(["memory", *arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_inspect_says_what_a_memory_is(folder, capsys, tmp_path):
    text = said(capsys, "inspect", path(folder, 2), "--json-file", str(tmp_path / "x.json"))
    assert "episode     walk" in text
    assert "num_chunks  2" in text
    assert "resumes     at chunk 3" in text
    assert "checksum    fits" in text
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["drift"] == pytest.approx(sum(v**2 for v in written["layers"].values()) ** 0.5)
    assert len(written["layers"]) == 60
    full = said(capsys, "inspect", path(folder, 2), "--layers", "true")
    assert all(name in full for name in written["layers"])


def test_list_counts_what_cannot_be_read(folder, capsys):
    text = said(capsys, "list", str(folder / "kept"))
    rows = [line.split()[:2] for line in text.splitlines()[1:4]]
    assert rows == [["odd", "1"], ["walk", "2"], ["walk", "3"]]
    assert "unreadable: " in text
    assert "3 memories, 1 unreadable" in text
    assert "is no folder" in said(capsys, "list", str(folder / "nowhere"), code=2)


def test_diff_and_merge_refuse_memories_of_other_models(folder, capsys, tmp_path):
    text = said(capsys, "diff", path(folder, 2), path(folder, 3))
    assert text.splitlines()[1].endswith("all")
    assert len(text.splitlines()) == 2 + 5
    assert "give memories of one model" in said(
        capsys, "diff", path(folder, 1), path(folder, 2), code=2
    )
    out = tmp_path / "two.memory.safetensors"
    memories = (path(folder, 2), path(folder, 3))
    text = said(capsys, "merge", *memories, str(out), "--weights", "[0.5,0.5]", "--method", "cat")
    assert "rank 8, merged from 0.5 x walk (2 chunks), 0.5 x walk (3 chunks); lost 0.00 %" in text
    assert load_memory(out).header.num_chunks == 0
    assert "exists; give another --out" in said(capsys, "merge", *memories, str(out), code=2)


def test_rewind_takes_the_newest_that_is_early_enough(folder, capsys, tmp_path):
    kept, out = str(folder / "kept"), tmp_path / "back.memory.safetensors"
    assert "walk at chunk 3" in said(capsys, "rewind", kept, "walk", "9", str(tmp_path / "a"))
    assert "walk at chunk 2" in said(capsys, "rewind", kept, "walk", "2", str(out))
    assert out.read_bytes() == (folder / "kept" / "walk.chunk-0002.memory.safetensors").read_bytes()
    text = said(capsys, "rewind", kept, "walk", "1", str(tmp_path / "b"), code=2)
    assert "no memory of 'walk' with at most 1 chunks; it has those of chunks [2, 3]" in text


def test_fork_changes_the_name_alone(folder, capsys, tmp_path):
    out = tmp_path / "fork.memory.safetensors"
    assert "forked from walk at chunk 2" in said(capsys, "fork", path(folder, 2), str(out), "other")
    fork, old = load_memory(out), load_memory(path_of(folder))
    assert (fork.header.episode, fork.header.num_chunks) == ("other", 2)
    assert all(torch.equal(fork.weights[n], old.weights[n]) for n in old.weights)
    assert fork.extras.keys() == old.extras.keys()


def path_of(folder):
    return folder / "kept" / "walk.chunk-0002.memory.safetensors"


def test_an_exported_memory_is_an_adapter_of_diffusers_own_unet(folder, world, capsys, tmp_path):
    """PEFT loads it onto the stock U-Net, which then computes what ours does; and back, losslessly."""
    adapter = tmp_path / "adapter"
    said(capsys, "export", path(folder, 2), str(adapter))
    unet = UNet3DConditionModel.from_pretrained(folder / "model" / "unet").eval()
    latents = torch.randn(1, 5, 5, 4, 6, generator=stream(0, "verbs"))
    timestep, text = torch.tensor([500]), world.text(["turn left"])
    plain = unet(latents, timestep, text).sample
    adapted = PeftModel.from_pretrained(unet, adapter)
    with torch.no_grad(), TemporalLoRA(world.denoiser, r=4, alpha=6.0) as lora:
        theta = lora.theta(load_memory(path_of(folder)).weights)
        with lora.use(theta[None]):
            ours = world.denoiser(latents, timestep, text, 3)
        theirs = adapted(latents, timestep, text).sample
    assert not torch.allclose(theirs, plain, atol=1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    back = tmp_path / "back.memory.safetensors"
    said(capsys, "import", str(adapter), str(folder / "model"), str(back))
    again, old = load_memory(back, world.fingerprint()), load_memory(path_of(folder))
    assert (again.header.r, again.header.alpha) == (4, 6.0)
    assert again.weights.keys() == old.weights.keys()
    assert all(torch.equal(again.weights[n], old.weights[n]) for n in old.weights)
    adapted.save_pretrained(tmp_path / "peft")
    said(capsys, "import", str(tmp_path / "peft"), str(folder / "model"), str(tmp_path / "third"))
    third = load_memory(tmp_path / "third")
    assert all(torch.equal(third.weights[n], old.weights[n]) for n in old.weights)


def test_what_is_no_plain_lora_is_not_imported(folder, capsys, tmp_path):
    model, out = str(folder / "model"), str(tmp_path / "out")
    assert "no adapter_config.json" in said(capsys, "import", str(tmp_path), model, out, code=2)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "use_dora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "use_dora is True; allowed: False" in said(
        capsys, "import", str(tmp_path), model, out, code=2
    )


def test_names_of_files_and_episodes_reach_no_terminal(world, capsys, tmp_path):
    bad = tmp_path / "\x1b[2J.memory.safetensors"
    with TemporalLoRA(world.denoiser, r=2, alpha=2.0) as lora:
        weights = lora.state(torch.zeros(lora.num_weights))
    header = MemoryHeader(world.fingerprint(), "\x1b]0;x\x07\nname", 1, 2, 2.0, "\x9b31m")
    save_memory(bad, StoredMemory(header, weights))
    (tmp_path / "\x1b[1A.memory.safetensors").mkdir()
    for arguments in (
        ("inspect", str(bad)),
        ("list", str(tmp_path)),
        ("fork", str(bad), str(tmp_path / "fork"), "\x1bname"),
        ("merge", str(bad), str(bad), str(tmp_path / "merged")),
        ("diff", str(bad), str(bad)),
        ("rewind", str(tmp_path), header.episode, "1", str(tmp_path / "back")),
    ):
        text = said(capsys, *arguments)
        assert text.replace("\n", "").isprintable(), arguments
    text = said(capsys, "inspect", str(tmp_path / "\x1bnone"), code=2)
    assert text.replace("\n", "").isprintable() and r"\x1bnone" in text


def test_what_is_not_finite_is_neither_merged_nor_forked_nor_exported(folder, capsys, tmp_path):
    good, out = path_of(folder), str(tmp_path / "out")
    bad = tmp_path / "bad.memory.safetensors"
    data = bytearray(good.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    bad.write_bytes(data)
    for arguments in (
        ("inspect", str(bad)),
        ("merge", str(bad), str(good), out),
        ("fork", str(bad), out, "other"),
        ("export", str(bad), out),
        ("diff", str(bad), str(good)),
    ):
        text = said(capsys, *arguments, code=2)
        assert "numbers that are NaN or infinite" in text and text.count("\n") == 1
    arguments = ("merge", str(good), str(good), out, "--weights", "[.inf, 1]")
    assert "allowed: finite numbers" in said(capsys, *arguments, code=2)
    text = said(capsys, "merge", str(good), str(good), out, "--weights", "[1e39, 1]", code=2)
    assert "NaN or infinite" in text
    assert not (tmp_path / "out").exists()
