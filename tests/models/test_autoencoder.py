import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from sfv.models.autoencoder import KLVAECodec, PCAPatchCodec, _patch_moments
from sfv.rng import stream
from sfv.types import FrameCodec

B, T, HEIGHT, WIDTH = 2, 3, 12, 20


def pictures(num, height=HEIGHT, width=WIDTH):
    """Smooth colour pictures with a little grain: most of their variance is in few components."""
    generator = stream(0, "pictures", num)
    coarse = torch.rand(num, 3, 3, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="module")
def codec():
    return PCAPatchCodec(latent_channels=10, patch=4).fit(pictures(60))


@pytest.fixture(scope="module")
def video():
    return pictures(B * T).unflatten(0, (B, T))


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=5,
            norm_num_groups=4,
            scaling_factor=0.3,
        ).save_pretrained(folder / "vae")
    return folder


def test_latents_equal_a_plain_loop_over_patches(codec, video):
    latents = codec.encode(video)
    assert latents.shape == (B, 10, T, 3, 5)
    for b, frame, row, column in [(0, 0, 0, 0), (1, 2, 2, 4), (0, 1, 1, 3)]:
        patch = video[b, frame, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = codec.components @ (patch.flatten() - codec.mean) / codec.scale
        found = latents[b, :, frame, row, column]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_components_are_those_of_a_singular_value_decomposition(codec):
    frames = pictures(60)
    patches = frames.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
    centred = patches.double() - patches.double().mean(dim=0)
    _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
    overlap = (vectors[:10].float() * codec.components).sum(dim=1).abs()
    torch.testing.assert_close(overlap, torch.ones(10), rtol=0, atol=1e-3)
    deviation = (singular[:10] / len(centred) ** 0.5).float()
    white = PCAPatchCodec(latent_channels=10, patch=4).fit(frames, whitening=1.0)
    torch.testing.assert_close(white.scale, deviation.clamp(min=1 / 255), rtol=1e-4, atol=0)


@pytest.mark.parametrize("whitening", [0.0, 0.3, 1.0])
def test_latents_of_the_fitted_frames_have_zero_mean_and_unit_variance(whitening):
    codec = PCAPatchCodec(latent_channels=10, patch=4).fit(pictures(60), whitening)
    latents = codec.encode(pictures(60)[None])
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(10), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.square().mean(), torch.tensor(1.0), rtol=0, atol=1e-2)


def test_whitening_says_how_equal_the_channels_are():
    deviations = {}
    for whitening in (0.0, 0.5, 1.0):
        codec = PCAPatchCodec(latent_channels=6, patch=4).fit(pictures(60), whitening)
        deviations[whitening] = codec.encode(pictures(60)[None]).std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(deviations[1.0], torch.ones(6), rtol=0, atol=1e-2)
    shares = {w: d / d[0] for w, d in deviations.items()}
    torch.testing.assert_close(shares[0.5], shares[0.0].sqrt(), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match=r"whitening is 1.5; allowed: 0 to 1"):
        PCAPatchCodec().fit(pictures(60), whitening=1.5)


def test_components_below_one_grey_level_are_not_blown_up():
    colour = torch.rand(50, 3, 1, 1, generator=stream(0, "flat"))
    grain = 1e-4 * torch.randn(50, 3, 8, 8, generator=stream(1, "flat"))
    codec = PCAPatchCodec(latent_channels=6, patch=4).fit(colour + grain, whitening=1.0)
    deviation = codec.encode((colour + grain)[None]).std(dim=(0, 2, 3, 4))
    assert (deviation[3:] < 0.05 * deviation[0]).all()


def test_all_components_give_the_frame_back(video):
    codec = PCAPatchCodec(latent_channels=48, patch=4).fit(pictures(60))
    torch.testing.assert_close(codec.decode(codec.encode(video)), video, rtol=0, atol=1e-4)


def test_what_is_lost_is_the_variance_of_the_components_left_out():
    frames = pictures(60) * 0.5 + 0.25
    full = PCAPatchCodec(latent_channels=48, patch=4).fit(frames)
    lost = full.encode(frames[None]).var(dim=(0, 2, 3, 4), correction=0) * full.scale**2
    codec = PCAPatchCodec(latent_channels=10, patch=4).fit(frames)
    error = (codec.decode(codec.encode(frames[None])) - frames).square().mean()
    torch.testing.assert_close(error, lost[10:].sum() / 48, rtol=1e-3, atol=0)


def test_few_components_give_the_frame_back_nearly_and_within_range(codec, video):
    decoded = codec.decode(codec.encode(video))
    assert decoded.shape == video.shape
    assert (decoded - video).square().mean() < 0.05**2
    wild = codec.decode(50 * codec.encode(video))
    assert wild.min() == 0
    assert wild.max() == 1


def test_fit_in_several_passes_equals_fit_in_one(codec):
    frames = pictures(60)
    for one, many in zip(_patch_moments(frames, 4), _patch_moments(frames, 4, 7), strict=True):
        torch.testing.assert_close(one, many)


def test_a_saved_codec_is_the_same_codec(codec, video, tmp_path):
    codec.save(tmp_path / "codec.safetensors")
    loaded = PCAPatchCodec.load(tmp_path / "codec.safetensors")
    assert loaded.fingerprint() == codec.fingerprint()
    assert torch.equal(loaded.encode(video), codec.encode(video))
    by_file = PCAPatchCodec(tmp_path / "codec.safetensors", latent_channels=10, patch=4)
    assert by_file.fingerprint() == codec.fingerprint()
    again = PCAPatchCodec(**json.loads(json.dumps(codec.settings())))
    again.load_state_dict(codec.state_dict())
    assert again.fingerprint() == codec.fingerprint()


def test_fingerprint_tells_codecs_apart(codec):
    assert len(codec.fingerprint()) == 16
    int(codec.fingerprint(), 16)
    other = PCAPatchCodec(latent_channels=10, patch=4).fit(pictures(61))
    assert other.fingerprint() != codec.fingerprint()


def test_codecs_satisfy_the_protocol(codec, vae_folder):
    assert isinstance(codec, FrameCodec)
    assert isinstance(KLVAECodec(vae_folder), FrameCodec)
    assert codec.spatial_factor == KLVAECodec(vae_folder).spatial_factor == 4


def test_an_unfitted_codec_is_refused(video):
    with pytest.raises(ValueError, match=r"not fitted: call fit\(frames\) first"):
        PCAPatchCodec(latent_channels=10, patch=4).encode(video)


@pytest.mark.parametrize("size", [(10, 20), (12, 18)])
def test_frames_that_hold_no_whole_number_of_patches_are_refused(codec, vae_folder, size):
    video = torch.rand(B, T, 3, *size)
    message = f"frames are {size[0]}x{size[1]} pixels, .* multiples of 4: crop or resize"
    with pytest.raises(ValueError, match=message):
        codec.encode(video)
    with pytest.raises(ValueError, match=message):
        KLVAECodec(vae_folder).encode(video)
    with pytest.raises(ValueError, match=message):
        PCAPatchCodec(patch=4).fit(video[0])


def test_more_channels_than_pixels_are_refused():
    with pytest.raises(ValueError, match=r"latent_channels is 49; a patch of 4x4 .* 1 to 48"):
        PCAPatchCodec(latent_channels=49, patch=4)


def test_fitting_to_nothing_is_refused():
    with pytest.raises(ValueError, match="no frames to fit the codec to"):
        PCAPatchCodec(patch=4).fit(torch.rand(0, 3, 8, 8))


def test_a_file_of_other_sizes_is_refused(codec, tmp_path):
    codec.save(tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match=r"latent_channels=10, patch=4, but .*=16, patch=8 was"):
        PCAPatchCodec(tmp_path / "codec.safetensors")


def test_a_truncated_file_is_refused(codec, tmp_path):
    path = tmp_path / "codec.safetensors"
    codec.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        PCAPatchCodec.load(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no PCA patch codec: its format is None"):
        PCAPatchCodec.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors does not exist"):
        PCAPatchCodec.load(tmp_path / "absent.safetensors")


def test_kl_vae_equals_diffusers_frame_by_frame(vae_folder, video):
    codec = KLVAECodec(vae_folder, frames_per_call=4)
    stock = AutoencoderKL.from_pretrained(vae_folder / "vae").eval()
    latents = codec.encode(video)
    assert latents.shape == (B, 5, T, 3, 5)
    decoded = codec.decode(latents)
    assert decoded.shape == video.shape
    with torch.no_grad():
        for b, frame in [(0, 0), (1, 0), (1, 2)]:
            picture = video[b, frame][None] * 2 - 1
            expected = stock.encode(picture).latent_dist.mean[0] * 0.3
            torch.testing.assert_close(latents[b, :, frame], expected, rtol=1e-4, atol=1e-5)
            back = stock.decode(latents[b, :, frame][None] / 0.3).sample[0]
            expected = (back / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(decoded[b, frame], expected, rtol=1e-4, atol=1e-5)


def test_kl_vae_is_frozen_and_made_again_by_its_settings(vae_folder):
    codec = KLVAECodec(vae_folder, frames_per_call=3)
    assert not any(p.requires_grad for p in codec.parameters())
    again = KLVAECodec(**json.loads(json.dumps(codec.settings())))
    assert again.fingerprint() == codec.fingerprint()
    with torch.no_grad():
        again.vae.decoder.conv_in.bias += 1
    assert again.fingerprint() != codec.fingerprint()


def test_a_folder_without_vae_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no diffusers VAE: expected vae/config"):
        KLVAECodec(tmp_path)


def test_zero_frames_per_call_are_refused(vae_folder):
    with pytest.raises(ValueError, match="frames_per_call is 0; it must be at least 1"):
        KLVAECodec(vae_folder, frames_per_call=0)


def test_a_damaged_vae_is_refused(vae_folder, tmp_path):
    shutil.copytree(vae_folder, tmp_path / "copy")
    path = tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["quant_conv.bias"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"copy/vae lacks 1 weights .*quant_conv\.bias"):
        KLVAECodec(tmp_path / "copy")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"copy/vae holds no readable AutoencoderKL: .*truncated"):
        KLVAECodec(tmp_path / "copy")
