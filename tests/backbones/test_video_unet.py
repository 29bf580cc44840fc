import json

import pytest
import torch
from diffusers import UNet3DConditionModel

from sfv.backbones.video_unet import PRESETS, VideoUNet
from sfv.rng import stream
from sfv.types import Denoiser

B, C, T, H, W, NUM_TOKENS, TEXT_DIM, NUM_CONTEXT = 2, 5, 7, 4, 6, 3, 9, 4


@pytest.fixture(scope="module")
def denoiser():
    return VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = stream(0, "denoiser-test")
    return (
        torch.randn(B, C, T, H, W, generator=generator),
        torch.tensor([31, 874]),
        torch.randn(B, NUM_TOKENS, TEXT_DIM, generator=generator),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline folder with the tiny U-Net of another seed."""
    folder = tmp_path_factory.mktemp("pipeline")
    unet = VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM, seed=4).unet
    unet.save_pretrained(folder / "unet")
    return folder


def test_modelscope_is_the_public_configuration():
    """`unet/config.json` of ModelScopeT2V 1.7B, field by field, and its number of parameters."""
    with torch.device("meta"):
        denoiser = VideoUNet("modelscope")
    public = {
        "act_fn": "silu",
        "attention_head_dim": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "down_block_types": (*["CrossAttnDownBlock3D"] * 3, "DownBlock3D"),
        "downsample_padding": 1,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 32,
        "up_block_types": ("UpBlock3D", *["CrossAttnUpBlock3D"] * 3),
    }
    assert {key: denoiser.unet.config[key] for key in public} == public
    assert sum(p.numel() for p in denoiser.parameters()) == 1_411_233_860


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_the_sizes_of_its_row(preset):
    with torch.device("meta"):
        denoiser = VideoUNet(preset)
        row = PRESETS[preset]
        size = row.sample_size
        latents = torch.empty(1, row.out_channels, 3, size, size)
        text = torch.empty(1, 2, row.cross_attention_dim)
        output = denoiser(latents, torch.empty(1, dtype=torch.int64), text, 1)
    assert isinstance(denoiser, Denoiser)
    assert output.shape == latents.shape


def test_output_is_that_of_the_unet_of_diffusers(denoiser, inputs):
    latents, timestep, text = inputs
    stock = UNet3DConditionModel.from_config(denoiser.unet.config).eval()
    stock.load_state_dict(denoiser.unet.state_dict())
    for module in stock.modules():
        assert not isinstance(module, torch.nn.Dropout) or not module.training
    with torch.no_grad():
        expected = stock(latents, timestep, encoder_hidden_states=text).sample
    torch.testing.assert_close(denoiser(*inputs, NUM_CONTEXT), expected)


def test_every_input_reaches_the_output(denoiser, inputs):
    latents, timestep, text = inputs
    before = denoiser(*inputs, NUM_CONTEXT)
    assert not torch.equal(denoiser(latents, timestep + 50, text, NUM_CONTEXT), before)
    assert not torch.equal(denoiser(latents, timestep, text + 1, NUM_CONTEXT), before)
    changed = latents.clone()
    changed[1, :, 0] += 1
    after = denoiser(changed, timestep, text, NUM_CONTEXT)
    assert not torch.equal(after[1, :, -1], before[1, :, -1]), "frames do not see each other"
    torch.testing.assert_close(after[0], before[0])


def test_weights_depend_on_the_seed_alone():
    torch.rand(3)
    state = torch.random.get_rng_state()
    one = VideoUNet("tiny", seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    same, other = VideoUNet("tiny", seed=1).state_dict(), VideoUNet("tiny", seed=2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["unet.conv_in.weight"], other["unet.conv_in.weight"])


def test_training_mode_draws_nothing_from_the_global_generator(inputs):
    denoiser = VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM).train()
    state = torch.random.get_rng_state()
    denoiser(*inputs, NUM_CONTEXT)
    assert torch.equal(torch.random.get_rng_state(), state)
    rates = {m.p for m in VideoUNet("tiny", dropout=0.2).modules() if type(m).__name__ == "Dropout"}
    assert rates == {0.2}


def test_mask_channel_tells_context_frames_apart(inputs):
    denoiser = VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM, mask_channel=True).eval()
    seen = []
    denoiser.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        denoiser(*inputs, NUM_CONTEXT)
    mask = seen[0][:, C]
    assert seen[0].shape == (B, C + 1, T, H, W)
    assert torch.equal(seen[0][:, :C], inputs[0])
    assert (mask[:, :NUM_CONTEXT] == 1).all()
    assert (mask[:, NUM_CONTEXT:] == 0).all()


def test_from_diffusers_gives_the_saved_weights(saved, inputs):
    expected = VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM, seed=4).eval()
    for folder in (saved, saved / "unet"):
        loaded = VideoUNet.from_diffusers(folder).eval()
        assert (loaded.latent_channels, loaded.text_dim) == (C, TEXT_DIM)
        assert loaded.settings() == expected.settings()
        with torch.no_grad():
            assert torch.equal(loaded(*inputs, NUM_CONTEXT), expected(*inputs, NUM_CONTEXT))


def test_a_mask_channel_added_to_saved_weights_changes_nothing_and_survives(
    saved, inputs, tmp_path
):
    plain = VideoUNet.from_diffusers(saved).eval()
    masked = VideoUNet.from_diffusers(saved, mask_channel=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(masked(*inputs, NUM_CONTEXT), plain(*inputs, NUM_CONTEXT))
        masked.unet.conv_in.weight[:, C] += 1
        expected = masked(*inputs, NUM_CONTEXT)
        masked.save(tmp_path)
        again = VideoUNet.from_diffusers(tmp_path).eval()
        assert again.mask_channel
        assert torch.equal(again(*inputs, NUM_CONTEXT), expected)


def test_settings_make_the_same_denoiser_again():
    denoiser = VideoUNet("tiny", latent_channels=C, text_dim=TEXT_DIM, mask_channel=True)
    again = VideoUNet(**json.loads(json.dumps(denoiser.settings())))
    again.load_state_dict(denoiser.state_dict())
    assert again.settings() == denoiser.settings()


def test_a_folder_without_unet_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no diffusers U-Net: expected unet/config"):
        VideoUNet.from_diffusers(tmp_path)


def test_a_folder_with_pickled_weights_is_refused(saved, tmp_path):
    (tmp_path / "config.json").write_text((saved / "unet" / "config.json").read_text())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="must be converted to safetensors first"):
        VideoUNet.from_diffusers(tmp_path)


def test_a_unet_of_unknown_sizes_is_refused(tmp_path):
    UNet3DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        attention_head_dim=8,
    ).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"block_out_channels=\[32, 32\].*tiny, small, modelscope"):
        VideoUNet.from_diffusers(tmp_path)


def test_latents_of_another_codec_are_refused(denoiser, inputs):
    latents, timestep, text = inputs
    with pytest.raises(ValueError, match="latents have 4 channels, this denoiser takes 5"):
        denoiser(latents[:, :4], timestep, text, NUM_CONTEXT)


def test_text_of_another_encoder_is_refused(denoiser, inputs):
    latents, timestep, text = inputs
    with pytest.raises(ValueError, match="text tokens are 8 wide, this denoiser takes 9"):
        denoiser(latents, timestep, text[..., :8], NUM_CONTEXT)
