"""A pipeline folder as it is published: its parts, its schedule, and what is refused before training."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.autoencoder import KLVAECodec
from sfv.models.text import CLIPText
from sfv.models.world_model import WorldModel
from sfv.storage.pretrained import download_command, local_folder, schedule_of
from tests.models.pipeline import CHANNELS, FACTOR, TEXT_DIM, write_pipeline

NAME = "some-lab/text-to-video"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("hub") / "pipeline")


def world(pipeline, **schedule):
    return WorldModel(
        VideoUNet("tiny", CHANNELS, TEXT_DIM, weights=str(pipeline)),
        KLVAECodec(pipeline),
        CLIPText(pipeline),
        NoiseSchedule(**schedule),
        2,
        3,
    )


def test_every_part_of_the_folder_is_taken(pipeline):
    """Each output equals that of the part in diffusers' own pipeline."""
    stock = DiffusionPipeline.from_pretrained(pipeline)
    model = world(pipeline)
    video = torch.rand(1, 5, 3, 4 * FACTOR, 6 * FACTOR, generator=torch.Generator().manual_seed(0))
    ids = stock.tokenizer("turn left", padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        latents = stock.vae.encode(video[0] * 2 - 1).latent_dist.mode() * 0.18215
        latents = latents.transpose(0, 1)[None]
        text = stock.text_encoder(ids["input_ids"]).last_hidden_state
        t = torch.tensor([31])
        predicted = stock.unet.eval()(latents, t, encoder_hidden_states=text).sample
        torch.testing.assert_close(model.codec.encode(video), latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.text(["turn left"]), text, rtol=0, atol=1e-5)
        found = model.denoiser.eval()(latents, t, text, 2)
    torch.testing.assert_close(found, predicted, rtol=0, atol=1e-4)
    assert torch.allclose(
        model.schedule.alphas_cumprod(), stock.scheduler.alphas_cumprod, atol=1e-6
    )


def test_a_name_of_the_hub_is_found_in_the_local_cache_alone(pipeline, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing is downloaded during a run") as raised:
        VideoUNet("tiny", CHANNELS, TEXT_DIM, weights=NAME)
    assert download_command(NAME) in str(raised.value)
    repository = tmp_path / "models--some-lab--text-to-video"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(pipeline, repository / "snapshots" / ("0" * 40))
    assert local_folder(NAME) == repository / "snapshots" / ("0" * 40)
    assert world(NAME).fingerprint() == world(pipeline).fingerprint()
    assert CLIPText(NAME).settings()["folder"] == NAME, "another machine's cache is elsewhere"


def test_loaded_weights_are_ready_to_train(pipeline):
    denoiser = VideoUNet("tiny", CHANNELS, TEXT_DIM, dropout=0.3, weights=str(pipeline))
    drops = [m for m in denoiser.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops and all(m.training and m.p == 0.3 for m in drops)
    assert all(p.requires_grad for p in denoiser.parameters())


def test_a_path_is_never_taken_for_a_name(tmp_path):
    assert local_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert local_folder("data/a/b").parts == ("data", "a", "b")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_timesteps", 500),
        ("beta_start", 0.001),
        ("beta_end", 0.02),
        ("beta_schedule", "linear"),
        ("prediction_type", "v_prediction"),
    ],
)
def test_a_schedule_that_differs_is_named_by_its_field(pipeline, field, value):
    with pytest.raises(ValueError, match=rf"trained with {field} .* schedule has {value}"):
        world(pipeline, **{field: value})


def test_a_unet_folder_alone_may_be_trained_on_any_schedule(pipeline):
    unet = VideoUNet("tiny", CHANNELS, TEXT_DIM, weights=str(pipeline / "unet"))
    schedule = NoiseSchedule(prediction_type="v_prediction")
    world = WorldModel(unet, KLVAECodec(pipeline), CLIPText(pipeline), schedule, 2, 3)
    assert unet.trained_schedule is None and world.schedule == schedule


def test_a_scheduler_with_what_we_cannot_do_is_refused(tmp_path):
    for change, message in (
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; sfv knows epsilon"),
        ({"trained_betas": [0.1]}, "trained_betas is given"),
    ):
        path = tmp_path / "scheduler" / "scheduler_config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            schedule_of(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config\.json: no schedule"):
        schedule_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3}, (1000, 3.0)),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, (1000, 1.0)),
        (
            {
                "_class_name": "UniPCMultistepScheduler",
                "prediction_type": "flow_prediction",
                "flow_shift": 5.0,
                "num_train_timesteps": 500,
            },
            (500, 5.0),
        ),
    ],
)
def test_a_scheduler_of_flow_is_read_as_flow(tmp_path, config, expected):
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    num, shift = expected
    assert schedule_of(tmp_path) == NoiseSchedule(
        num, prediction_type="flow_prediction", shift=shift
    )
    path.write_text(json.dumps({**config, "use_dynamic_shifting": True}))
    with pytest.raises(ValueError, match="sfv knows flow with a fixed shift"):
        schedule_of(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "small"}, "preset=tiny, but preset=small was asked for"),
        ({"latent_channels": 3}, "latent_channels=4, but latent_channels=3"),
        ({"text_dim": 1024}, "text_dim=12, but text_dim=1024"),
    ],
)
def test_weights_of_another_size_are_refused(pipeline, wrong, message):
    sizes = {"preset": "tiny", "latent_channels": CHANNELS, "text_dim": TEXT_DIM, **wrong}
    with pytest.raises(ValueError, match=message):
        VideoUNet(**sizes, weights=str(pipeline))


def test_pickled_weights_are_refused_with_the_command_that_converts_them(pipeline, tmp_path):
    copy = shutil.copytree(pipeline, tmp_path / "copy")
    parts = {
        "unet": (VideoUNet.from_diffusers, "diffusion_pytorch_model"),
        "vae": (KLVAECodec, "diffusion_pytorch_model"),
        "text_encoder": (CLIPText, "model"),
    }
    for part, (load, name) in parts.items():
        (copy / part / f"{name}.safetensors").rename(copy / part / "old.bin")
        with pytest.raises(FileNotFoundError, match=r"python -c .import torch") as raised:
            load(copy)
        assert f"in {copy / part}" in str(raised.value)


def test_the_command_converts(pipeline, tmp_path):
    import re
    import subprocess
    import sys

    from safetensors.torch import load_file

    copy = shutil.copytree(pipeline, tmp_path / "copy")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(FileNotFoundError) as raised:
        VideoUNet.from_diffusers(copy)
    (code,) = re.findall(r'python -c "(.*)"', str(raised.value))
    subprocess.run([sys.executable, "-c", code], cwd=file.parent, check=True)
    assert (
        VideoUNet.from_diffusers(copy).settings() == VideoUNet.from_diffusers(pipeline).settings()
    )


def test_the_full_size_by_its_names_and_adapted_layers():
    """Published facts of ModelScopeT2V: names, 1.41B weights; Θ of rank 32 on its temporal transformers."""
    with torch.device("meta"):
        denoiser = VideoUNet("modelscope")
    names = set(denoiser.unet.state_dict())
    assert sum(p.numel() for p in denoiser.parameters()) == 1_411_233_860
    for name in (
        "conv_in.weight",
        "transformer_in.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.0.temp_attentions.1.transformer_blocks.0.ff.net.0.proj.weight",
        "down_blocks.2.temp_convs.0.conv4.3.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "up_blocks.3.temp_attentions.2.proj_out.weight",
    ):
        assert name in names
    temporal = TemporalLoRA(denoiser, r=32)
    # Twelve linear layers each: q, k, v, out twice; the feed-forward layer's two; in and out. Sixteen
    # blocks are as wide inside as outside, the first is 512 wide inside and 320 outside.
    widths = [*[320] * 5, *[640] * 5, *[1280] * 6]
    assert len(temporal.layers) == 12 * (len(widths) + 1)
    assert temporal.num_weights == 32 * (34 * sum(widths) + 30 * 512 + 2 * (512 + 320))


def as_variants(pipeline, folder, *variants):
    """A copy whose weights are there under these names alone."""
    copy = shutil.copytree(pipeline, folder)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = copy / part / f"{stem}.safetensors"
        for variant in variants:
            shutil.copy(plain, plain.with_name(f"{stem}.{variant}.safetensors"))
        plain.unlink()
    return copy


def test_a_single_variant_is_loaded_as_float32_and_said(pipeline, tmp_path, caplog):
    copy = as_variants(pipeline, tmp_path / "one", "fp16")
    unet = VideoUNet.from_diffusers(copy)
    assert {p.dtype for p in unet.parameters()} == {torch.float32}
    assert "has fp16 weights alone" in caplog.text
    expected = VideoUNet.from_diffusers(pipeline).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in unet.state_dict().items())
    assert torch.equal(CLIPText(copy)(["left"]), CLIPText(pipeline)(["left"]))


def test_sharded_weights_are_loaded_plain_or_as_a_variant(pipeline, tmp_path):
    unet = VideoUNet.from_diffusers(pipeline).unet
    for name, variant in (("plain", None), ("half", "fp16")):
        folder = tmp_path / name / "unet"
        unet.save_pretrained(folder, max_shard_size="200KB", variant=variant)
        assert len(list(folder.glob("*-of-*.safetensors"))) > 1
        found = VideoUNet.from_diffusers(tmp_path / name).state_dict()
        assert all(
            torch.equal(found[f"unet.{key}"], value) for key, value in unet.state_dict().items()
        )


def test_of_two_variants_none_is_chosen(pipeline, tmp_path):
    copy = as_variants(pipeline, tmp_path / "two", "fp16", "non_ema")
    with pytest.raises(FileNotFoundError, match="has the variants fp16, non_ema and no plain"):
        VideoUNet.from_diffusers(copy)
    (copy / "unet" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has weights, but no config\.json: copy it too"):
        VideoUNet.from_diffusers(copy)
