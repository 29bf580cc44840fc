"""`sfv memory` on addressed memories: walks of one world that begin at one place."""

import json
import math

import pytest
import torch

from sfv.fast import addressed
from sfv.fast.addressed_algebra import state_of
from sfv.fast.addressed_learner import AddressedLearner
from sfv.fast.memory_file import MemoryHeader, MemoryOrigin, StoredMemory, load_memory, save_memory
from sfv.rng import stream
from tests.fast.test_memory_verbs import said
from tests.world import ADDRESS, tiny_wan

C, P, G, H, W = 5, 3, 2, 4, 6
WALKS = {"ahead": ["walk forward"] * 3, "aside": ["turn left", "walk forward"]}


def chunks(name):
    frames = torch.randn(1, C, P + G * len(WALKS[name]), H, W, generator=stream(0, "walks", name))
    return [(a, frames[:, :, G * i : G * i + P + G]) for i, a in enumerate(WALKS[name])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Memories of two walks from one frame, one of them twice, and a LoRA."""
    folder = tmp_path_factory.mktemp("addressed")
    origin = MemoryOrigin(lambda: "b" * 16, ADDRESS.key_size, ADDRESS.ridge, {}, "addressed")
    learner = AddressedLearner(tiny_wan(), ADDRESS, P, G, origin=origin)
    for name in WALKS:
        memory = learner.fresh(name, chunks(name)[0][1][:, :, :P])
        for i, (action, pair) in enumerate(chunks(name), start=1):
            learner.learn([memory], pair, [action])
            memory.context = pair[:, :, -P:]
            save_memory(folder / f"{name}-{i}.memory.safetensors", learner.store(memory))
    lora = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)}
    header = MemoryHeader("b" * 16, "lora", 1, 2, 2.0)
    save_memory(folder / "lora.memory.safetensors", StoredMemory(header, lora))
    return folder


def path(folder, name):
    return str(folder / f"{name}.memory.safetensors")


def weights(folder, name):
    return load_memory(folder / f"{name}.memory.safetensors").weights["weights"].double()


def test_inspect_and_list_say_kind_key_size_ridge_and_norm(folder, capsys, tmp_path):
    file = tmp_path / "x.json"
    text = said(capsys, "inspect", path(folder, "ahead-2"), "--json-file", str(file))
    norm = float(weights(folder, "ahead-2").norm())
    for line in (
        "kind        addressed",
        "key_size    24",
        "ridge       0.01",
        "num_chunks  2",
    ):
        assert line in text.splitlines()
    assert f"norm        {norm:.4g}" in text
    assert "rank" not in text and "layers" not in text and "drift" not in text
    written = json.loads(file.read_text())
    assert written["norm"] == pytest.approx(norm)
    assert (written["kind"], written["key_size"], written["layers"]) == ("addressed", 24, {})
    text = said(capsys, "list", str(folder), "--json-file", str(file))
    assert "6 memories, 0 unreadable" in text
    (row,) = (line for line in text.splitlines() if "ahead-2" in line)
    assert f"addressed  key_size 24, ridge 0.01, norm {norm:.4g} " in row
    (row,) = (line for line in text.splitlines() if "/lora." in line)
    assert "temp_lora  rank 2, scale 1, drift 6.928 " in row
    kinds = {row["episode"]: row["kind"] for row in json.loads(file.read_text())["memories"]}
    assert kinds == {"ahead": "addressed", "aside": "addressed", "lora": "temp_lora"}


def test_diff_compares_what_two_memories_hold(folder, capsys, tmp_path):
    file = tmp_path / "x.json"
    one, two = weights(folder, "ahead-3"), weights(folder, "aside-2")
    text = said(
        capsys, "diff", path(folder, "ahead-3"), path(folder, "aside-2"), "--json-file", str(file)
    )
    cosine = float((one * two).sum() / one.norm() / two.norm())
    expected = [float(n) for n in (one.norm(), two.norm(), (one - two).norm())]
    numbers = [f"{number:.4g}" for number in expected]
    assert text.splitlines()[1].split() == [*numbers, f"{cosine:.3f}", "W"]
    assert len(text.splitlines()) == 2
    found = json.loads(file.read_text())["layers"]["W"]
    named = dict(zip(("first", "second", "between", "cosine"), [*expected, cosine], strict=True))
    assert found == pytest.approx(named)
    text = said(capsys, "diff", path(folder, "ahead-3"), path(folder, "ahead-3"))
    assert text.splitlines()[1].split()[2:] == ["0", "1.000", "W"]


def test_merge_is_the_memory_that_has_seen_both_walks(folder, capsys, tmp_path):
    out = tmp_path / "both.memory.safetensors"
    text = said(capsys, "merge", path(folder, "ahead-3"), path(folder, "aside-2"), str(out))
    parts = "merged from 1 x ahead (3 chunks), 1 x aside (2 chunks), as walks from one place"
    assert f"key size 24, {parts}" in text
    merged, first = load_memory(out, "b" * 16), load_memory(folder / "ahead-3.memory.safetensors")
    assert parts in merged.header.origin
    assert (merged.header.episode, merged.header.num_chunks) == ("ahead+aside", 0)
    learner = AddressedLearner(tiny_wan(), ADDRESS, P, G)
    memory = learner.restore(first)
    memory.pose = ADDRESS.origin()
    keys = learner._keys(memory.pose[None])[None]
    memory.state = addressed.write(memory.state, keys, chunks("aside")[0][1][:, :, P - 1 : P])
    for action, pair in chunks("aside"):
        learner.learn([memory], pair, [action])
    torch.testing.assert_close(
        merged.weights["weights"], memory.state.weights, atol=1e-3, rtol=1e-3
    )
    near = state_of(merged).covariance
    torch.testing.assert_close(near, memory.state.covariance, atol=0.02, rtol=1e-3)
    for name in ("pose", "context"):
        assert torch.equal(merged.extras[name], first.extras[name]), (
            "it stands where the first stands"
        )


def test_weights_count_how_often_the_frames_are_seen(folder, capsys, tmp_path):
    out = tmp_path / "twice.memory.safetensors"
    pair = (path(folder, "ahead-1"), path(folder, "aside-1"))
    said(capsys, "merge", *pair, str(out), "--weights", "[2,0]")
    once = state_of(load_memory(folder / "ahead-1.memory.safetensors"))
    expected = addressed.merge([once, once])
    torch.testing.assert_close(load_memory(out).weights["weights"], expected.weights)
    assert "2 x ahead (1 chunks), 0 x aside" in load_memory(out).header.origin
    for bad, message in (
        ("[-1,1]", "finite and 0 or more"),
        ("[.nan,1]", "allowed: finite numbers"),
    ):
        text = said(capsys, "merge", *pair, str(tmp_path / "bad"), "--weights", bad, code=2)
        assert message in text and text.count("\n") == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("option", [("--method", "cat"), ("--method", "svd"), ("--rank", "3")])
def test_what_a_lora_is_merged_by_is_refused(folder, capsys, tmp_path, option):
    pair = (path(folder, "ahead-1"), path(folder, "aside-1"))
    text = said(capsys, "merge", *pair, str(tmp_path / "out"), *option, code=2)
    assert "addressed memories have no rank and merge exactly; leave both out" in text
    assert not (tmp_path / "out").exists()


def test_memories_of_two_kinds_or_sizes_are_not_held_against_each_other(folder, capsys, tmp_path):
    out, one = str(tmp_path / "out"), path(folder, "ahead-1")
    for verb in (("diff",), ("merge",)):
        rest = (out,) if verb == ("merge",) else ()
        text = said(capsys, *verb, one, path(folder, "lora"), *rest, code=2)
        assert "is of kind addressed, 'lora' of kind temp_lora; give memories of one kind" in text
    stored = load_memory(folder / "ahead-1.memory.safetensors")
    for name, change in {
        "base": {"base": "c" * 16},
        "ridge": {"alpha": 0.5},
        "latents": {},
    }.items():
        tensors = dict(stored.weights)
        if name == "ridge":
            tensors["ridge"] = torch.tensor([0.5])
        if name == "latents":
            tensors["shape"] = torch.tensor([10.0, 4.0, 3.0])
        header = MemoryHeader(**{**vars(stored.header), **change})
        other = tmp_path / f"{name}.memory.safetensors"
        save_memory(other, StoredMemory(header, tensors, {"pose": stored.extras["pose"]}))
        text = said(capsys, "merge", one, str(other), out, code=2)
        wanted = {"base": "give memories of one model", "ridge": "give memories of one ridge"}
        assert wanted.get(name, "give memories of one size") in text


def test_fork_and_rewind_keep_all_but_the_name(folder, capsys, tmp_path):
    out = tmp_path / "fork.memory.safetensors"
    said(capsys, "fork", path(folder, "ahead-2"), str(out), "other")
    fork, old = load_memory(out), load_memory(folder / "ahead-2.memory.safetensors")
    assert (fork.header.episode, fork.header.kind, fork.header.num_chunks) == (
        "other",
        "addressed",
        2,
    )
    for ours, theirs in ((fork.weights, old.weights), (fork.extras, old.extras)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    back = tmp_path / "back.memory.safetensors"
    assert "ahead at chunk 2" in said(capsys, "rewind", str(folder), "ahead", "2", str(back))
    assert back.read_bytes() == (folder / "ahead-2.memory.safetensors").read_bytes()


def test_an_addressed_memory_is_no_adapter(folder, capsys, tmp_path):
    out, memory = str(tmp_path / "out"), path(folder, "ahead-1")
    for arguments in (("export", memory, out), ("import", memory, str(folder), out)):
        text = said(capsys, *arguments, code=2)
        assert "'ahead' is of kind addressed, but a LoRA is expected; give a memory of" in text
        assert not (tmp_path / "out").exists()


def test_memories_of_nothing_have_no_angle(folder, capsys, tmp_path):
    stored = load_memory(folder / "ahead-1.memory.safetensors")
    tensors = {**stored.weights, "weights": 0 * stored.weights["weights"]}
    empty = tmp_path / "empty.memory.safetensors"
    save_memory(empty, StoredMemory(stored.header, tensors, stored.extras))
    file = tmp_path / "x.json"
    said(capsys, "diff", path(folder, "ahead-1"), str(empty), "--json-file", str(file))
    assert json.loads(file.read_text())["layers"]["W"]["cosine"] is None
    assert math.isfinite(json.loads(file.read_text())["layers"]["W"]["between"])
