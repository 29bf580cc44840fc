"""The Wan transformer as a backbone: what it is told, saved, and adapted by Θ."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from sfv.backbones.wan import WanTransformer
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.world_model import WorldModel
from sfv.rng import stream
from sfv.types import Reading
from tests.world import addressed_world, tiny_wan

B, C, P, G, H, W = 2, 5, 3, 2, 4, 6


def drawn(name, *shape):
    return torch.randn(*shape, generator=stream(0, "wan", name))


def inputs():
    return drawn("z", B, C, P + G, H, W), torch.tensor([700.0, 200.0]), drawn("c", B, 3, 7)


@torch.no_grad()
def test_it_is_diffusers_transformer_with_context_at_timestep_0():
    network = tiny_wan(reads_memory=False).eval()
    latents, timestep, text = inputs()
    stock = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=C,
        out_channels=C,
        text_dim=7,
        freq_dim=256,
        ffn_dim=16,
        num_layers=1,
    ).eval()
    stock.load_state_dict(network.transformer.state_dict())
    steps = torch.tensor([[0.0] * P * H * W + [t] * G * H * W for t in (700.0, 200.0)])
    expected = stock(latents, steps, text, return_dict=False)[0]
    assert torch.equal(network(latents, timestep, text, P), expected)
    plain = stock(latents, timestep[:, None].expand(-1, steps.shape[1]), text, return_dict=False)[0]
    assert torch.equal(network(latents, timestep, text, 0), plain)
    assert not torch.allclose(plain, expected, atol=1e-3)


@torch.no_grad()
def test_it_reads_its_memory():
    """Both ways: through the input channels, and through the prior."""
    network = tiny_wan().eval()
    latents, timestep, text = inputs()
    r, u = drawn("r", B, C, G, H, W), torch.full((B, G), 0.2)
    without = network(latents, timestep, text, P)
    with network.memory_input.use(Reading(r, u)):
        known = network(latents, timestep, text, P)
    with network.memory_input.use(Reading(r, torch.ones(B, G))):
        unknown = network(latents, timestep, text, P)
    assert not torch.allclose(known, without, atol=1e-2)
    assert not torch.allclose(unknown, without, atol=1e-5), "r is told also where u is 1"
    assert torch.equal(network(latents, timestep, text, P), without)


def test_a_new_network_says_what_the_prior_says():
    network = WanTransformer(C, 7, 1, 2, 8, ffn_dim=16, patch=2, reads_memory=True)
    latents, timestep, text = inputs()
    _, prior = network.memory_input.prepare(latents, timestep, P)
    assert torch.equal(network(latents, timestep, text, P), prior.apply(torch.zeros_like(latents)))


@pytest.mark.parametrize("reads_memory", [False, True])
def test_the_seed_decides_the_weights_and_nothing_else_draws(reads_memory):
    torch.manual_seed(1)
    first = tiny_wan(reads_memory).state_dict()
    state = torch.get_rng_state()
    second = tiny_wan(reads_memory).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@torch.no_grad()
def test_a_model_that_reads_a_memory_is_saved_and_loaded_bit_for_bit(tmp_path):
    model = addressed_world()
    model.denoiser.memory_input.gain.mul_(0.9)
    model.denoiser.memory_input.is_calibrated.fill_(True)
    model.save(tmp_path / "model")
    again = WorldModel.load(tmp_path / "model")
    assert again.address == model.address
    assert again.fingerprint() == model.fingerprint()
    assert (tmp_path / "model" / "transformer" / "config.json").is_file()
    latents, timestep, text = inputs()
    said = Reading(drawn("r", B, C, G, H, W), torch.tensor([[0.1, 0.2], [0.3, 1.0]]))
    with model.denoiser.memory_input.use(said), again.denoiser.memory_input.use(said):
        ours, theirs = (m.denoiser(latents, timestep, text, P) for m in (model, again))
    assert torch.equal(ours, theirs)
    assert again.denoiser.memory_input.is_calibrated


@pytest.mark.parametrize(("targets", "layers"), [("temporal", 4), ("attention", 8), ("all", 10)])
def test_targets_name_the_layers_of_every_block(targets, layers):
    network = WanTransformer(C, 7, 3, 2, 8, ffn_dim=16, patch=1)
    names = network.fast_layers(targets)
    assert len(names) == 3 * layers
    assert all(isinstance(network.get_submodule(name), torch.nn.Linear) for name in names)
    assert len(network.blocks()) == 3


def test_other_targets_and_sizes_are_errors():
    with pytest.raises(ValueError, match="no LoRA targets 'spatial'; allowed: temporal, att"):
        tiny_wan().fast_layers("spatial")
    with pytest.raises(ValueError, match=r"WanTransformer got \{'patch': 0\}; every size must"):
        WanTransformer(patch=0)
    network = WanTransformer(C, 7, 1, 2, 8, ffn_dim=16, patch=4)
    latents, timestep, text = inputs()
    with pytest.raises(ValueError, match=r"latents of 4x6 cells do not divide into patches of 4"):
        network(latents, timestep, text, P)
    with pytest.raises(ValueError, match=r"text tokens are 3 wide, this denoiser takes 7"):
        network(latents, timestep, text[:, :, :3], P)


@torch.no_grad()
def test_a_fresh_temporal_lora_changes_nothing_and_another_does():
    network = tiny_wan().eval()
    latents, timestep, text = inputs()
    before = network(latents, timestep, text, P)
    with TemporalLoRA(network, r=2, alpha=2.0) as lora:
        fresh = lora.fresh(stream(0, "wan", "theta"))
        with lora.use(fresh[None]):
            assert torch.equal(network(latents, timestep, text, P), before)
        with lora.use((fresh + 0.1 * drawn("theta", lora.num_weights))[None]):
            assert not torch.allclose(network(latents, timestep, text, P), before, atol=1e-4)
    assert torch.equal(network(latents, timestep, text, P), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "v_prediction"}, "needs flow matching, .* set it to flow_prediction"),
        (
            {"num_train_timesteps": 500},
            "at 1000 timesteps, .*num_train_timesteps is 500; set it to",
        ),
    ],
)
def test_a_schedule_that_the_prior_does_not_hold_for_is_refused(change, message):
    world = addressed_world()
    schedule = type(world.schedule)(**{"prediction_type": "flow_prediction", **change})
    with pytest.raises(ValueError, match=message):
        WorldModel(world.denoiser, world.codec, world.text, schedule, 3, 2)
