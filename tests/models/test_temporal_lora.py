import re

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import nn

from sfv.diffusion.objective import all_frames_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.models.denoiser import VideoUNet
from sfv.models.temporal_lora import TemporalLoRA, base_state_dict, target_modules
from sfv.rng import stream
from sfv.types import FastWeights

B, C, T, H, W, TEXT_DIM = 2, 5, 7, 4, 6, 9
TARGETS = ["temporal", "attention", "all"]


@pytest.fixture
def denoiser():
    return VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM)


@pytest.fixture(scope="module")
def inputs():
    generator = stream(0, "lora-test")
    return (
        torch.randn(B, C, T, H, W, generator=generator),
        torch.tensor([120, 640]),
        torch.randn(B, 3, TEXT_DIM, generator=generator),
        2,
    )


def learn(denoiser, memory, inputs, num_steps=2):
    """A few plain fast steps."""
    latents, timestep, text, _ = inputs
    optimizer = torch.optim.Adam(memory.parameters(), lr=1e-2)
    noise = torch.randn(latents.shape, generator=stream(1, "lora-test"))
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = all_frames_loss(denoiser, latents, text, noise, timestep, NoiseSchedule())
        loss.mean().backward()
        optimizer.step()


@torch.no_grad()
def outputs(denoiser, inputs):
    return denoiser(*inputs)


def test_temporal_targets_are_the_linear_layers_of_temporal_transformers_alone(denoiser):
    names = target_modules(denoiser, "temporal")
    inside = (
        r"unet\.(transformer_in|(down_blocks\.0|mid_block|up_blocks\.1)\.temp_attentions\.\d)\."
    )
    assert all(re.match(inside, name) for name in names)
    linear = {n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)}
    assert set(names) == {n for n in linear if "transformer_in" in n or "temp_attentions" in n}
    # proj_in, proj_out, 2 feed-forward, 2 x (query, key, value, output); in 5 transformers
    assert len(names) == 12 * 5


@pytest.mark.parametrize(
    ("targets", "num_temporal", "num_spatial", "num_convolutions"),
    [
        ("temporal", 12 * 17, 0, 0),
        ("attention", 8 * 17, 8 * 16, 0),
        ("all", 12 * 17, 12 * 16, 4 * 22),
    ],
)
def test_target_counts_at_paper_scale(targets, num_temporal, num_spatial, num_convolutions):
    with torch.device("meta"):
        denoiser = VideoUNet("modelscope")
    names = target_modules(denoiser, targets)
    temporal = [n for n in names if "transformer_in" in n or ".temp_attentions." in n]
    spatial = [n for n in names if ".attentions." in n]
    convolutions = [n for n in names if ".temp_convs." in n]
    found = (len(temporal), len(spatial), len(convolutions))
    assert found == (num_temporal, num_spatial, num_convolutions)
    assert len(names) == sum(found)


def test_memory_size_at_paper_scale():
    """Rank 32: r * (in + out) weights a layer, summed by hand over the 17 temporal transformers."""
    with torch.device("meta"):
        denoiser = VideoUNet("modelscope")
    layers = map(denoiser.get_submodule, target_modules(denoiser, "temporal"))

    def transformer(channels, inner):
        projections, attention, feed_forward = 2 * (channels + inner), 8 * 2 * inner, 14 * inner
        return projections + attention + feed_forward

    blocks = 5 * transformer(320, 320) + 5 * transformer(640, 640) + 6 * transformer(1280, 1280)
    expected = 32 * (transformer(320, 8 * 64) + blocks)
    assert sum(32 * (layer.in_features + layer.out_features) for layer in layers) == expected
    assert expected == 14_123_008


@pytest.mark.parametrize("targets", TARGETS)
def test_fresh_memory_equals_the_base_bit_for_bit(denoiser, inputs, targets):
    base = outputs(denoiser, inputs)
    with TemporalLoRA(denoiser, r=4, targets=targets) as memory:
        assert isinstance(memory, FastWeights)
        assert torch.equal(outputs(denoiser, inputs), base)
        learn(denoiser, memory, inputs)
        assert not torch.equal(outputs(denoiser, inputs), base)
        memory.reset(stream(3, "fresh"))
        assert torch.equal(outputs(denoiser, inputs), base)


@pytest.mark.parametrize("targets", TARGETS)
def test_save_learn_load_restores_bit_for_bit(denoiser, inputs, targets):
    memory = TemporalLoRA(denoiser, r=4, targets=targets)
    learn(denoiser, memory, inputs)
    before, saved = outputs(denoiser, inputs), memory.state()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    learn(denoiser, memory, inputs)
    assert not torch.equal(outputs(denoiser, inputs), before)
    assert all(torch.equal(saved[name], kept[name]) for name in kept), "the copy is a view"
    memory.load(saved)
    assert torch.equal(outputs(denoiser, inputs), before)


def test_state_is_named_as_peft_names_it(denoiser):
    memory = TemporalLoRA(denoiser, r=3, targets="all")
    reference = get_peft_model_state_dict(denoiser, adapter_name="memory")
    state = memory.state()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in state)


def test_output_is_the_base_layer_plus_the_scaled_product(denoiser):
    memory = TemporalLoRA(denoiser, r=3, alpha=6.0)
    name = "unet.transformer_in.proj_in"
    layer = denoiser.get_submodule(name)
    weights = memory.state()
    weights[f"{name}.lora_B.weight"].normal_(generator=stream(0, "product"))
    memory.load(weights)
    a, b = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
    x = torch.randn(2, 64, generator=stream(1, "product"))
    expected = layer.base_layer(x) + (6.0 / 3) * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_reset_depends_on_the_generator_alone(denoiser):
    memory = TemporalLoRA(denoiser, r=4)
    state = torch.random.get_rng_state()
    memory.reset(stream(0, "memory", 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    first = memory.state()
    memory.reset(stream(0, "memory", 2))
    assert any(not torch.equal(first[name], other) for name, other in memory.state().items())
    memory.reset(stream(0, "memory", 1))
    assert all(torch.equal(first[name], same) for name, same in memory.state().items())
    drawn = first["unet.transformer_in.proj_in.lora_A.weight"]
    assert drawn.abs().max() <= 64**-0.5, "Kaiming uniform with a = √5 stays within 1/√fan_in"
    assert drawn.std() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)


def test_construction_leaves_the_global_generator_alone(denoiser):
    state = torch.random.get_rng_state()
    TemporalLoRA(denoiser, r=4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_learning_leaves_no_gradient_on_frozen_slow_weights(denoiser, inputs):
    denoiser.requires_grad_(False)
    memory = TemporalLoRA(denoiser, r=4)
    slow = base_state_dict(denoiser)
    before = {name: tensor.clone() for name, tensor in slow.items()}
    learn(denoiser, memory, inputs)
    fast = {id(parameter) for parameter in memory.parameters()}
    assert all(p.grad is not None for p in memory.parameters())
    assert all(p.grad is None for p in denoiser.parameters() if id(p) not in fast)
    assert all(torch.equal(slow[name], before[name]) for name in before)


def test_injection_keeps_which_slow_weights_take_gradients(denoiser):
    denoiser.unet.conv_in.requires_grad_(False)
    before = {name: p.requires_grad for name, p in denoiser.named_parameters()}
    memory = TemporalLoRA(denoiser, r=4)
    now = {
        name.replace(".base_layer.", "."): p.requires_grad
        for name, p in denoiser.named_parameters()
        if ".lora_" not in name
    }
    assert now == before
    assert all(p.requires_grad for p in memory.parameters())


def test_slow_step_through_a_frozen_memory_reaches_the_slow_weights(denoiser, inputs):
    """The outer loop: Φ learns through Φ+Θ with Θ frozen."""
    memory = TemporalLoRA(denoiser, r=4)
    for parameter in memory.parameters():
        parameter.requires_grad_(False)
    memory.enable(False)
    memory.enable(True)
    denoiser(*inputs).square().mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in memory.parameters())
    assert denoiser.get_submodule("unet.transformer_in.proj_in").base_layer.weight.grad is not None


def test_disabled_memory_is_the_base_and_comes_back(denoiser, inputs):
    base = outputs(denoiser, inputs)
    memory = TemporalLoRA(denoiser, r=4)
    learn(denoiser, memory, inputs)
    learned = outputs(denoiser, inputs)
    memory.enable(False)
    assert torch.equal(outputs(denoiser, inputs), base)
    memory.enable(True)
    assert torch.equal(outputs(denoiser, inputs), learned)


@pytest.mark.parametrize("targets", TARGETS)
def test_merged_memory_gives_the_same_output_and_leaves_no_trace(denoiser, inputs, targets):
    num_layers = len(target_modules(denoiser, targets))
    memory = TemporalLoRA(denoiser, r=4, alpha=8.0, targets=targets)
    base = {name: tensor.clone() for name, tensor in base_state_dict(denoiser).items()}
    learn(denoiser, memory, inputs)
    learned, theta = outputs(denoiser, inputs), memory.state()
    with pytest.raises(KeyError), memory.merged():
        torch.testing.assert_close(outputs(denoiser, inputs), learned, rtol=1e-4, atol=1e-5)
        changed = [n for n, t in base_state_dict(denoiser).items() if not torch.equal(t, base[n])]
        assert len(changed) == num_layers
        raise KeyError
    assert all(torch.equal(t, base[name]) for name, t in base_state_dict(denoiser).items())
    assert all(torch.equal(t, theta[name]) for name, t in memory.state().items())
    assert torch.equal(outputs(denoiser, inputs), learned)


def test_merging_a_memory_that_is_off_leaves_it_off(denoiser, inputs):
    base = outputs(denoiser, inputs)
    memory = TemporalLoRA(denoiser, r=4)
    learn(denoiser, memory, inputs)
    memory.enable(False)
    with memory.merged():
        assert torch.equal(outputs(denoiser, inputs), base)
    assert torch.equal(outputs(denoiser, inputs), base)


@pytest.mark.parametrize("targets", TARGETS)
def test_remove_gives_the_denoiser_back(denoiser, inputs, targets):
    base = outputs(denoiser, inputs)
    modules = dict(denoiser.named_modules())
    attributes = set(vars(denoiser))
    weights = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    memory = TemporalLoRA(denoiser, r=4, targets=targets)
    learn(denoiser, memory, inputs)
    # Φ took gradients but no step: only Θ is in the optimiser.
    memory.remove()
    memory.remove()
    assert dict(denoiser.named_modules()) == modules
    assert set(vars(denoiser)) == attributes
    after = denoiser.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert torch.equal(outputs(denoiser, inputs), base)
    TemporalLoRA(denoiser, r=2)


def test_base_state_dict_has_clean_names_while_a_memory_is_inside(denoiser):
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    TemporalLoRA(denoiser, r=4, targets="all")
    found = base_state_dict(denoiser)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_memory_is_fp32_inside_a_bf16_denoiser(denoiser, inputs):
    denoiser.bfloat16().requires_grad_(False)
    latents, timestep, text, num_context = inputs
    half = (latents.bfloat16(), timestep, text.bfloat16(), num_context)
    base = outputs(denoiser, half)
    memory = TemporalLoRA(denoiser, r=4)
    assert {p.dtype for p in memory.parameters()} == {torch.float32}
    output = denoiser(*half)
    assert torch.equal(output, base)
    output.float().square().mean().backward()
    assert all(p.grad is not None for p in memory.parameters())


def test_a_memory_of_another_rank_is_refused_and_changes_nothing(denoiser):
    memory = TemporalLoRA(denoiser, r=4)
    before = memory.state()
    with TemporalLoRA(VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM), r=3) as other:
        state = other.state()
    with pytest.raises(ValueError, match=r"is \(3, 64\) in the memory and \(4, 64\) here"):
        memory.load(state)
    assert all(torch.equal(before[name], same) for name, same in memory.state().items())


def test_a_memory_of_other_layers_is_refused(denoiser):
    memory = TemporalLoRA(denoiser, r=4)
    state = memory.state()
    state["unet.elsewhere.lora_A.weight"] = state.pop("unet.transformer_in.proj_in.lora_A.weight")
    with pytest.raises(ValueError, match=r"1 weights are missing.*proj_in.*1 are unknown.*elsewhe"):
        memory.load(state)


def test_a_second_memory_in_one_denoiser_is_refused(denoiser):
    TemporalLoRA(denoiser, r=4)
    with pytest.raises(ValueError, match="has a LoRA already"):
        TemporalLoRA(denoiser, r=4)


def test_a_network_without_temporal_layers_is_refused():
    with pytest.raises(ValueError, match="Linear has no layers for LoRA targets 'temporal'"):
        TemporalLoRA(nn.Linear(3, 4))


def test_rank_zero_is_refused(denoiser):
    with pytest.raises(ValueError, match="the rank r is 0; it must be at least 1"):
        TemporalLoRA(denoiser, r=0)


def test_slow_weights_are_not_written_while_a_memory_is_inside(denoiser, tmp_path):
    with (
        TemporalLoRA(denoiser, r=4),
        pytest.raises(ValueError, match=r"holds fast weights: call their remove\(\) before"),
    ):
        denoiser.save(tmp_path)
    denoiser.save(tmp_path / "unet")
    assert VideoUNet.from_diffusers(tmp_path).settings() == denoiser.settings()
