"""The sped-up U-Net against the stock one of diffusers, same weights."""

import pytest
import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.nn import functional as F

from sfv.backbones.cpu_layers import CPUAttention, TemporalConv, short_attention, speed_up_on_cpu
from sfv.backbones.video_unet import VideoUNet
from sfv.rng import stream

B, C, T, H, W = 2, 5, 7, 4, 6


@pytest.fixture(scope="module")
def inputs():
    generator = stream(0, "cpu-fast-test")
    return (
        torch.randn(B, C, T, H, W, generator=generator),
        torch.tensor([31, 874]),
        torch.randn(B, 3, 9, generator=generator),
    )


@pytest.fixture(scope="module")
def fast():
    """A U-Net whose every layer does something: diffusers starts its temporal ones at zero."""
    unet = VideoUNet("tiny", latent_channels=C, text_dim=9).unet
    generator = stream(1, "cpu-fast-test")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return unet


@pytest.fixture(scope="module")
def stock(fast):
    unet = UNet3DConditionModel.from_config(fast.config)
    unet.load_state_dict(fast.state_dict())
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return unet


def run(unet, inputs, half):
    """Output and gradients."""
    latents, timestep, text = inputs
    unet.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = unet(latents, timestep, text).sample
    output.float().square().mean().backward()
    return output.detach(), {name: p.grad.clone() for name, p in unet.named_parameters()}


def test_every_layer_that_can_be_sped_up_is(fast, stock):
    assert {type(p) for p in stock.attn_processors.values()} == {AttnProcessor2_0}
    assert {type(p) for p in fast.attn_processors.values()} == {CPUAttention}
    kinds = {type(m) for m in fast.modules() if isinstance(m, nn.Conv3d)}
    assert kinds == {TemporalConv}
    assert fast.state_dict().keys() == stock.state_dict().keys()


def test_output_and_gradients_in_float32(fast, stock, inputs):
    found, found_gradients = run(fast, inputs, half=False)
    expected, gradients = run(stock, inputs, half=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found_gradients[name], gradient, rtol=0, atol=1e-3 * scale)


def test_bfloat16_is_as_near_to_float32_as_the_stock_network(fast, stock, inputs):
    exact, gradients = run(stock, inputs, half=False)
    found, found_gradients = run(fast, inputs, half=True)
    expected, expected_gradients = run(stock, inputs, half=True)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert (found - exact).norm() < 1.3 * (expected - exact).norm()

    def distance(some):
        return sum(float((some[n] - gradients[n]).square().sum()) for n in gradients) ** 0.5

    assert distance(found_gradients) < 1.3 * distance(expected_gradients)


@pytest.mark.parametrize("lengths", [(7, 7), (7, 3), (5, 1), (40, 50), (33, 2)])
def test_short_attention_equals_that_of_pytorch(lengths):
    generator = stream(2, "cpu-fast-test")
    n, m = lengths
    query = torch.randn(2, 3, n, 8, generator=generator)
    key, value = torch.randn(2, 2, 3, m, 8, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(short_attention(query, key, value), expected)
    half = [x.bfloat16() for x in (query, key, value)]
    found = short_attention(*half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


def test_temporal_convolution_equals_the_stock_one():
    stock = nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0))
    layer = TemporalConv.sharing(stock)
    assert layer.weight is stock.weight
    x = torch.randn(2, 4, 5, 3, 7, generator=stream(3, "cpu-fast-test"))
    torch.testing.assert_close(layer(x), stock(x))
    strided = x.permute(0, 1, 2, 4, 3)
    torch.testing.assert_close(layer(strided), stock(strided))


def test_convolutions_over_pixels_are_left_alone():
    unet = UNet3DConditionModel.from_config(VideoUNet("tiny").unet.config)
    unet.conv_in = nn.Conv3d(16, 64, (1, 3, 3), padding=(0, 1, 1))
    speed_up_on_cpu(unet)
    assert type(unet.conv_in) is nn.Conv3d


@pytest.mark.parametrize("length", [9, 200])
@pytest.mark.parametrize("kind", ["plain", "cross", "mask", "normed", "residual", "rescaled"])
def test_every_variant_of_attention_equals_the_stock_processor(kind, length):
    options = {
        "normed": {"qk_norm": "layer_norm"},
        "residual": {"residual_connection": True},
        "rescaled": {"rescale_output_factor": 2.0},
    }.get(kind, {})
    attention = Attention(query_dim=12, heads=3, dim_head=8, **options).bfloat16()
    generator = stream(4, "cpu-fast-test", kind)
    states = torch.randn(2, length, 12, generator=generator).bfloat16()
    other = torch.randn(2, 4, 12, generator=generator).bfloat16() if kind == "cross" else None
    mask = None
    if kind == "mask":
        mask = torch.zeros(2, 1, length).bfloat16()
        mask[0, 0, :4] = -1e4
    expected = AttnProcessor2_0()(attention, states, other, mask)
    found = CPUAttention()(attention, states, other, mask)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.01)
