import copy
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from sfv.backbones.base import Backbone, base_state_dict
from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.objective import all_frames_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.rng import stream
from sfv.types import FastWeights

B, C, T, H, W, TEXT_DIM = 2, 5, 3, 2, 4, 9
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


def learn(denoiser, lora, theta, inputs, num_steps=2):
    """A few plain fast steps; returns the new Θ of each episode."""
    latents, timestep, text, _ = inputs
    theta = theta.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=1e-2)
    noise = torch.randn(latents.shape, generator=stream(1, "lora-test"))
    for _ in range(num_steps):
        optimizer.zero_grad()
        with lora.use(theta):
            loss = all_frames_loss(denoiser, latents, text, noise, timestep, NoiseSchedule())
            loss.mean().backward()
        optimizer.step()
    return theta.detach()


def fresh(lora, *keys):
    return torch.stack([lora.fresh(stream(0, "theta", key)) for key in keys])


def random_theta(lora, *keys):
    """Θ that does something everywhere."""
    rows = [torch.randn(lora.num_weights, generator=stream(0, "random", key)) for key in keys]
    return 0.1 * torch.stack(rows)


def with_peft(lora, denoiser, theta):
    """A copy of the denoiser in which PEFT computes with this Θ: the reference."""
    other = copy.deepcopy(denoiser)
    names = [layer.name for layer in lora.layers]
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=names)
    inject_adapter_in_model(config, other, adapter_name="memory")
    done = set_peft_model_state_dict(other, lora.state(theta), adapter_name="memory")
    assert not done.unexpected_keys
    return other


@torch.no_grad()
def outputs(denoiser, inputs, lora=None, theta=None):
    with nullcontext() if lora is None else lora.use(theta):
        return denoiser(*inputs)


def test_temporal_targets_are_the_linear_layers_of_temporal_transformers_alone(denoiser):
    names = denoiser.fast_layers("temporal")
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
    names = denoiser.fast_layers(targets)
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
    layers = map(denoiser.get_submodule, denoiser.fast_layers("temporal"))

    def transformer(channels, inner):
        projections, attention, feed_forward = 2 * (channels + inner), 8 * 2 * inner, 14 * inner
        return projections + attention + feed_forward

    blocks = 5 * transformer(320, 320) + 5 * transformer(640, 640) + 6 * transformer(1280, 1280)
    expected = 32 * (transformer(320, 8 * 64) + blocks)
    assert sum(32 * (layer.in_features + layer.out_features) for layer in layers) == expected
    assert expected == 14_123_008


@pytest.mark.parametrize(
    ("targets", "init"), [(t, "kaiming") for t in TARGETS] + [("temporal", "gaussian")]
)
def test_a_fresh_memory_equals_the_base_bit_for_bit(denoiser, inputs, targets, init):
    base = outputs(denoiser, inputs)
    with TemporalLoRA(denoiser, r=4, targets=targets, init=init) as lora:
        assert isinstance(lora, FastWeights)
        for keys in ("a", "ab"):
            theta = fresh(lora, *keys)
            assert theta.any()
            assert torch.equal(outputs(denoiser, inputs, lora, theta), base)
            learned = learn(denoiser, lora, theta, inputs, num_steps=1)
            assert not torch.equal(outputs(denoiser, inputs, lora, learned), base)
        assert torch.equal(outputs(denoiser, inputs), base)


@pytest.mark.parametrize("targets", TARGETS)
def test_one_memory_computes_and_learns_as_peft_does(denoiser, inputs, targets):
    """Outputs and the gradient of every weight, against PEFT on a copy."""
    denoiser.requires_grad_(False)
    lora = TemporalLoRA(denoiser, r=4, alpha=6.0, targets=targets)
    theta = random_theta(lora, "a").requires_grad_(True)
    reference = with_peft(lora, denoiser, theta[0])
    expected = reference(*inputs)
    with lora.use(theta):
        found = denoiser(*inputs)
    assert not torch.allclose(found, outputs(denoiser, inputs), atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    expected.square().mean().backward()
    gradients = lora.state(theta.grad[0])
    theirs = {n: p for n, p in reference.named_parameters() if ".lora_" in n}
    assert len(theirs) == len(gradients)
    for name, parameter in theirs.items():
        ours = gradients[name.replace(".memory.", ".")]
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("targets", TARGETS)
def test_episodes_in_one_batch_have_each_their_own_memory(denoiser, targets):
    """Three episodes of two samples each, against one episode at a time: outputs and gradients."""
    denoiser.requires_grad_(False)
    lora = TemporalLoRA(denoiser, r=3, targets=targets)
    generator = stream(0, "batched")
    latents = torch.randn(6, C, T, H, W, generator=generator)
    timestep = torch.tensor([10, 200, 300, 400, 700, 900])
    text = torch.randn(6, 1, TEXT_DIM, generator=generator)
    theta = random_theta(lora, *"abc").requires_grad_(True)
    with lora.use(theta):
        joint = denoiser(latents, timestep, text, 2)
    (gradient,) = torch.autograd.grad(joint.square().sum(), theta)
    for i in range(3):
        own, rows = theta[i : i + 1].detach().requires_grad_(True), slice(2 * i, 2 * i + 2)
        with lora.use(own):
            alone = denoiser(latents[rows], timestep[rows], text[rows], 2)
        torch.testing.assert_close(joint[rows], alone, rtol=1e-3, atol=5e-4)
        (expected,) = torch.autograd.grad(alone.square().sum(), own)
        torch.testing.assert_close(
            gradient[i], expected[0], rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )


def test_a_batch_that_episodes_do_not_share_evenly_is_refused(denoiser, inputs):
    with (
        TemporalLoRA(denoiser, r=4) as lora,
        pytest.raises(ValueError, match="Θ of 3 episodes must hold equally many samples of each"),
    ):
        one_of_four = tuple(x[:1] if isinstance(x, torch.Tensor) else x for x in inputs)
        latents = one_of_four[0][..., :2, :2]
        outputs(denoiser, (latents, *one_of_four[1:]), lora, fresh(lora, *"abc"))


@pytest.mark.parametrize("targets", TARGETS)
def test_a_memory_goes_to_peft_and_back_without_loss(denoiser, targets):
    lora = TemporalLoRA(denoiser, r=3, targets=targets)
    theta = random_theta(lora, "a")[0]
    state = lora.state(theta)
    assert torch.equal(lora.theta(state), theta)
    injected = with_peft(lora, denoiser, theta)
    written = get_peft_model_state_dict(injected, adapter_name="memory")
    assert list(state) == list(written)
    assert all(torch.equal(state[name], written[name]) for name in written)
    assert torch.equal(lora.theta(written), theta)
    next(iter(state.values())).zero_()
    assert theta.equal(random_theta(lora, "a")[0]), "the copy is a view"


def test_a_fresh_memory_depends_on_the_generator_alone(denoiser):
    lora = TemporalLoRA(denoiser, r=4)
    state = torch.random.get_rng_state()
    first, second = fresh(lora, 1, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(first, fresh(lora, 1)[0])
    drawn = lora.state(first)["unet.transformer_in.proj_in.lora_A.weight"]
    assert drawn.abs().max() <= 64**-0.5, "Kaiming uniform with a = √5 stays within 1/√fan_in"
    assert drawn.std() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)
    lora.remove()
    normal = TemporalLoRA(denoiser, r=4, init="gaussian")
    drawn = normal.state(fresh(normal, 1)[0])["unet.transformer_in.proj_in.lora_A.weight"]
    assert drawn.std() == pytest.approx(1 / 4, rel=0.1)


def test_learning_leaves_no_gradient_on_slow_weights_that_are_frozen(denoiser, inputs):
    denoiser.requires_grad_(False)
    lora = TemporalLoRA(denoiser, r=4)
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    theta = fresh(lora, "a")
    assert not torch.equal(learn(denoiser, lora, theta, inputs), theta)
    assert all(p.grad is None for p in denoiser.parameters())
    assert all(torch.equal(t, before[name]) for name, t in denoiser.state_dict().items())


def test_slow_weights_and_modules_do_not_know_of_the_memory(denoiser):
    """What DDP, FSDP and optimisers need: no parameter, no buffer, no module is added."""
    parameters = [name for name, _ in denoiser.named_parameters()]
    modules, keys = dict(denoiser.named_modules()), list(denoiser.state_dict())
    attributes = set(vars(denoiser))
    lora = TemporalLoRA(denoiser, r=4, targets="all")
    with lora.use(random_theta(lora, "a")):
        assert [name for name, _ in denoiser.named_parameters()] == parameters
        assert list(denoiser.state_dict()) == keys == list(base_state_dict(denoiser))
        assert dict(denoiser.named_modules()) == modules
        assert set(vars(denoiser)) == attributes


def test_slow_step_through_a_frozen_memory_reaches_the_slow_weights(denoiser, inputs):
    """The outer loop: Φ learns through Φ+Θ with Θ frozen."""
    lora = TemporalLoRA(denoiser, r=4)
    theta = random_theta(lora, "a")
    gradients = []
    for given in (theta, None):
        lora.activate(given)
        weight = denoiser.get_submodule("unet.transformer_in.proj_in").weight
        (gradient,) = torch.autograd.grad(denoiser(*inputs).square().mean(), weight)
        gradients.append(gradient)
    assert not torch.allclose(*gradients), "Φ's gradient is the one at Φ+Θ"
    assert theta.grad is None


def test_a_memory_is_used_inside_alone_and_the_outer_one_comes_back(denoiser, inputs):
    base = outputs(denoiser, inputs)
    lora = TemporalLoRA(denoiser, r=4)
    theta = random_theta(lora, *"ab")
    first, second = (outputs(denoiser, inputs, lora, theta[i : i + 1]) for i in range(2))
    with lora.use(theta[:1]):
        with pytest.raises(KeyError), lora.use(theta[1:]):
            assert torch.equal(outputs(denoiser, inputs), second)
            raise KeyError
        assert torch.equal(outputs(denoiser, inputs), first)
        with lora.use(None):
            assert torch.equal(outputs(denoiser, inputs), base)
    assert torch.equal(outputs(denoiser, inputs), base)


@pytest.mark.parametrize("targets", TARGETS)
def test_a_merged_memory_gives_the_same_output_and_leaves_no_trace(denoiser, inputs, targets):
    num_layers = len(denoiser.fast_layers(targets))
    lora = TemporalLoRA(denoiser, r=4, alpha=8.0, targets=targets)
    base = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    theta = random_theta(lora, "a")
    learned = outputs(denoiser, inputs, lora, theta)
    with pytest.raises(KeyError), lora.merged(theta[0]):
        torch.testing.assert_close(outputs(denoiser, inputs), learned, rtol=1e-4, atol=1e-5)
        changed = [n for n, t in denoiser.state_dict().items() if not torch.equal(t, base[n])]
        assert len(changed) == num_layers
        raise KeyError
    assert all(torch.equal(t, base[name]) for name, t in denoiser.state_dict().items())
    plain = outputs(denoiser, inputs)
    with lora.merged(fresh(lora, "a")[0]):
        assert torch.equal(outputs(denoiser, inputs), plain)


@pytest.mark.parametrize("targets", TARGETS)
def test_the_drift_is_the_norm_of_the_update(denoiser, targets):
    lora = TemporalLoRA(denoiser, r=4, alpha=6.0, targets=targets)
    assert set(lora.drift(fresh(lora, "a")[0]).values()) == {0.0}
    theta = random_theta(lora, "a")[0]
    reference = with_peft(lora, denoiser, theta)
    for name, norm in lora.drift(theta).items():
        delta = reference.get_submodule(name).get_delta_weight("memory")
        assert norm == pytest.approx(float(delta.detach().norm()), rel=1e-4)


def test_remove_gives_the_denoiser_back(denoiser, inputs):
    base = outputs(denoiser, inputs)
    lora = TemporalLoRA(denoiser, r=4)
    lora.activate(random_theta(lora, "a"))
    assert not torch.equal(outputs(denoiser, inputs), base)
    lora.remove()
    lora.remove()
    assert torch.equal(outputs(denoiser, inputs), base)
    assert not any(module._forward_hooks for module in denoiser.modules())
    TemporalLoRA(denoiser, r=2)


def test_activation_checkpointing_gives_the_same_gradients(denoiser, inputs):
    """Layers computed again in the backward pass must see Θ again."""
    denoiser.requires_grad_(False)
    lora = TemporalLoRA(denoiser, r=4)
    theta = random_theta(lora, *"ab").requires_grad_(True)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            for block in (*denoiser.unet.down_blocks, denoiser.unet.mid_block):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        with lora.use(theta):
            loss = denoiser(*inputs).square().sum()
            gradients.append(torch.autograd.grad(loss, theta)[0])
    torch.testing.assert_close(*gradients)


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounter
from sfv.backbones.video_unet import VideoUNet
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.rng import stream

denoiser = VideoUNet("tiny", latent_channels=5, text_dim=9).requires_grad_(False)
lora, counter = TemporalLoRA(denoiser, r=4), CompileCounter()
block = denoiser.unet.transformer_in
compiled = torch.compile(block, backend=counter)
frames = torch.randn(6, 64, 2, 4, generator=stream(0, "compiled"))
made = []
for key in range(3):
    theta = torch.randn(2, lora.num_weights, generator=stream(0, "theta", key)).requires_grad_(True)
    with lora.use(theta):
        found = compiled(frames, num_frames=3, return_dict=False)[0]
        torch.testing.assert_close(found, block(frames, num_frames=3, return_dict=False)[0])
    assert torch.autograd.grad(found.square().sum(), theta)[0].any()
    made.append(found)
assert not torch.equal(made[0], made[1])
assert counter.frame_count == 1, counter.frame_count
"""


@pytest.mark.slow
def test_a_compiled_layer_takes_other_memories_without_compiling_again():
    """In a process of its own: Dynamo cannot follow the type checks of the tests."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_memory_is_fp32_inside_a_bf16_denoiser(denoiser, inputs):
    denoiser.bfloat16().requires_grad_(False)
    latents, timestep, text, num_context = inputs
    half = (latents.bfloat16(), timestep, text.bfloat16(), num_context)
    base = outputs(denoiser, half)
    lora = TemporalLoRA(denoiser, r=4)
    theta = fresh(lora, "a")
    assert torch.equal(outputs(denoiser, half, lora, theta), base)
    theta.requires_grad_(True)
    with lora.use(theta):
        denoiser(*half).float().square().mean().backward()
    assert theta.dtype == theta.grad.dtype == torch.float32
    assert theta.grad.any()


def test_autocast_computes_the_update_in_bfloat16_as_the_layer_does(denoiser, inputs):
    lora = TemporalLoRA(denoiser, r=4)
    exact = outputs(denoiser, inputs, lora, theta := random_theta(lora, "a"))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(denoiser, inputs, lora, theta)
        with lora.merged(theta[0]):
            merged = outputs(denoiser, inputs)
    errors = [float((x - exact).norm() / exact.norm()) for x in (rounded, merged)]
    assert 0 < errors[0] < 0.2
    assert errors[1] < 1.5 * errors[0], (
        "folding Θ into bfloat16 weights loses no more than adding it"
    )


def test_a_memory_of_another_rank_is_refused(denoiser):
    lora = TemporalLoRA(denoiser, r=4)
    with TemporalLoRA(VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM), r=3) as other:
        state = other.state(fresh(other, "a")[0])
    with pytest.raises(ValueError, match=r"is \(3, 64\) in the memory and \(4, 64\) here"):
        lora.theta(state)


def test_a_memory_of_other_layers_is_refused(denoiser):
    lora = TemporalLoRA(denoiser, r=4)
    state = lora.state(fresh(lora, "a")[0])
    state["unet.elsewhere.lora_A.weight"] = state.pop("unet.transformer_in.proj_in.lora_A.weight")
    with pytest.raises(ValueError, match=r"1 weights are missing.*proj_in.*1 are unknown.*elsewhe"):
        lora.theta(state)


def test_a_second_adapter_in_one_denoiser_is_refused(denoiser):
    TemporalLoRA(denoiser, r=4)
    with pytest.raises(ValueError, match="has a LoRA already"):
        TemporalLoRA(denoiser, r=4)


def test_a_network_without_temporal_layers_is_refused():
    with pytest.raises(
        ValueError, match="Backbone has no layers for LoRA targets 'temporal'; allowed: all"
    ):
        TemporalLoRA(Backbone())
    with pytest.raises(
        ValueError, match="Backbone has no layers for LoRA targets 'all'; give other"
    ):
        TemporalLoRA(Backbone(), targets="all")


def test_rank_zero_is_refused(denoiser):
    with pytest.raises(ValueError, match="the rank r is 0; it must be at least 1"):
        TemporalLoRA(denoiser, r=0)


def test_slow_weights_are_written_alone_while_a_memory_is_used(denoiser, tmp_path):
    weights = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    with TemporalLoRA(denoiser, r=4) as lora, lora.use(random_theta(lora, "a")):
        denoiser.save(tmp_path / "unet")
    again = VideoUNet.from_diffusers(tmp_path)
    assert again.settings() == denoiser.settings()
    assert all(torch.equal(t, weights[name]) for name, t in again.state_dict().items())
