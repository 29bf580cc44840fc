import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import nn

from sfv.fast.memory_algebra import difference, drift, merge, total
from sfv.fast.memory_file import MemoryHeader, StoredMemory
from sfv.rng import stream

SHAPES = {"one": (7, 5), "two": (4, 9)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 7), nn.Linear(9, 4)


def memory(name, r=3, alpha=6.0, base="0123"):
    weights = {}
    for layer, (out, width) in SHAPES.items():
        generator = stream(0, "memory", name, layer)
        weights[f"{layer}.lora_A.weight"] = torch.randn(r, width, generator=generator)
        weights[f"{layer}.lora_B.weight"] = torch.randn(out, r, generator=generator)
    settings = {"lora": {"r": r, "alpha": alpha, "targets": "temporal"}}
    return StoredMemory(MemoryHeader(base, name, 2, r, alpha, "", settings), weights)


def dense(stored):
    return {name: stored.header.scale * (b @ a) for name, (a, b) in stored.layers.items()}


def test_drift_and_difference_are_norms_of_the_dense_updates():
    first, second = memory("a"), memory("b", r=2, alpha=1.0)
    x, y = dense(first), dense(second)
    assert drift(first) == pytest.approx({name: float(x[name].norm()) for name in x}, rel=1e-5)
    for name, found in difference(first, second).items():
        assert found.first == pytest.approx(float(x[name].norm()), rel=1e-5)
        assert found.second == pytest.approx(float(y[name].norm()), rel=1e-5)
        assert found.between == pytest.approx(float((x[name] - y[name]).norm()), rel=1e-5)
        cosine = torch.cosine_similarity(x[name].flatten(), y[name].flatten(), dim=0)
        assert found.cosine == pytest.approx(float(cosine), rel=1e-4)
    assert max(d.between for d in difference(first, first).values()) < 1e-5
    assert total([3.0, 4.0]) == 5.0


def by_peft(memories, weights, method, rank):
    """PEFT's own merging of the same adapters."""
    net = get_peft_model(
        Net(), LoraConfig(r=3, lora_alpha=6.0, target_modules=["one", "two"]), "m0"
    )
    names = []
    for i, stored in enumerate(memories):
        names.append(f"m{i}")
        config = LoraConfig(
            r=stored.header.r, lora_alpha=stored.header.alpha, target_modules=["one", "two"]
        )
        if i:
            net.add_adapter(names[-1], config)
        state = {f"base_model.model.{name}": t.clone() for name, t in stored.weights.items()}
        set_peft_model_state_dict(net, state, names[-1])
    net.add_weighted_adapter(names, weights, "all", method, svd_rank=rank)
    return {
        name: net.base_model.model.get_submodule(name).get_delta_weight("all").detach()
        for name in SHAPES
    }


@pytest.mark.parametrize(
    ("method", "rank", "expected"), [("cat", None, 5), ("svd", 4, 4), ("svd", None, 3)]
)
def test_a_merge_equals_peft_s(method, rank, expected):
    parts, weights = [memory("a"), memory("b", r=2, alpha=1.0)], [0.75, -0.5]
    merged, lost = merge(parts, weights, method, rank)
    reference = by_peft(parts, weights, method, rank)
    assert (merged.header.r, merged.header.scale) == (expected, 1.0)
    for name, delta in dense(merged).items():
        torch.testing.assert_close(delta, reference[name], rtol=1e-4, atol=1e-4)
    whole = torch.cat(
        [(0.75 * dense(parts[0])[n] - 0.5 * dense(parts[1])[n]).flatten() for n in SHAPES]
    )
    kept = torch.cat([dense(merged)[name].flatten() for name in SHAPES])
    assert lost == pytest.approx(float((whole - kept).norm() / whole.norm()), abs=1e-5)
    assert merged.header.episode == "a+b"
    assert merged.header.origin == "merged from 0.75 x a (2 chunks), -0.5 x b (2 chunks)"
    assert merged.header.settings["lora"] == {
        "r": expected,
        "alpha": expected,
        "targets": "temporal",
    }
    assert merged.extras == {}


def test_merging_fresh_memories_gives_a_fresh_one():
    fresh = memory("a")
    for name, tensor in fresh.weights.items():
        if ".lora_B." in name:
            tensor.zero_()
    merged, lost = merge([fresh, copy.deepcopy(fresh)], [1.0, 1.0])
    assert lost == 0.0
    assert not any(delta.any() for delta in dense(merged).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": memory("b", base="ffff")}, "'a' was learned on base model 0123, 'b' on ffff"),
        ({"weights": [1.0]}, r"2 memories need as many weights, got \[1\.0\]"),
        ({"rank": 7}, "rank of the merged memory is 7; allowed: 1 to 6"),
        ({"rank": 2, "method": "cat"}, "cat has rank 6; leave rank 2 out or use svd"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    change = dict(change)
    other = change.pop("other", memory("b"))
    with pytest.raises(ValueError, match=message):
        merge([memory("a"), other], change.pop("weights", [1.0, 1.0]), **change)


def test_memories_of_other_layers_are_refused():
    half = memory("b")
    weights = {name: t for name, t in half.weights.items() if name.startswith("one")}
    with pytest.raises(ValueError, match="'a' has 2 adapted layers, 'b' has 1"):
        difference(memory("a"), replace(half, weights=weights))
