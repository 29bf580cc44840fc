"""A world model as a folder: what goes in comes out, and nothing else is taken for one."""

import copy
import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.rng import stream

C, TEXT_DIM, PATCH, ACTIONS = 5, 7, 4, ["walk forward", "turn left"]
SCHEDULE = NoiseSchedule(num_train_timesteps=900, prediction_type="v_prediction")
INPUTS = (
    torch.randn(2, C, 6, 4, 8, generator=stream(0, "world-test")),
    torch.tensor([3, 700]),
)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def denoiser(seed=0, text_dim=TEXT_DIM, channels=C, **options):
    return VideoUNet("tiny", latent_channels=channels, text_dim=text_dim, seed=seed, **options)


def codec(seed=0, channels=C):
    frames = torch.rand(40, 3, 16, 24, generator=stream(seed, "world-test-frames"))
    return PCAPatchCodec(latent_channels=channels, patch=PATCH).fit(frames)


def table(actions=ACTIONS, text_dim=TEXT_DIM, seed=0):
    return ActionTable(actions, text_dim, seed)


def world_of(net=None, frames=None, text=None, schedule=SCHEDULE):
    return WorldModel(net or denoiser(), frames or codec(), text or table(), schedule, 3, 2)


@pytest.fixture(scope="module")
def world():
    return world_of()


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "model"
    world.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to damage."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    path = folder / "model.json"
    description = json.loads(path.read_text())
    description.pop("checksum", None)
    change(description)
    path.write_text(json.dumps(description))


@torch.no_grad()
def output(world):
    net, text = world.denoiser.eval(), world.text(["turn left", ""])
    return net(*INPUTS, text, world.num_context)


def test_what_was_saved_is_loaded_bit_for_bit(world, saved):
    again = WorldModel.load(saved)
    assert torch.equal(output(again), output(world))
    video = torch.rand(2, 3, 3, 8, 12, generator=stream(1, "world-test"))
    assert torch.equal(again.codec.encode(video), world.codec.encode(video))
    assert again.fingerprint() == world.fingerprint()
    assert (again.num_context, again.num_generated, again.schedule) == (3, 2, SCHEDULE)
    for name in ("codec", "text"):
        assert getattr(again, name).settings() == getattr(world, name).settings()
        assert getattr(again, name).fingerprint() == getattr(world, name).fingerprint()


def test_a_loaded_model_is_frozen_and_without_dropout(saved):
    again = WorldModel.load(saved)
    for part in (again.denoiser, again.codec, again.text):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_saving_twice_gives_equal_files(world, saved, tmp_path):
    world.save(tmp_path)
    files = sorted(p.relative_to(saved) for p in saved.rglob("*") if p.is_file())
    assert [str(f) for f in files] == [
        "codec.safetensors",
        "model.json",
        "text.safetensors",
        "unet/config.json",
        WEIGHTS,
    ]
    for file in files:
        assert (tmp_path / file).read_bytes() == (saved / file).read_bytes(), file


def test_the_size_of_training_frames_is_kept_and_held_against_others(folder):
    model = WorldModel.load(folder)
    assert model.frame_size is None, "folders of before do not say"
    model.check_frame_size((7, 9), "s.mp4", "fit it")
    edit(folder, lambda description: description.update(frame_size=[16, 24]))
    model = WorldModel.load(folder)
    model.save(folder)
    again = world_of()
    again.load_weights(folder)
    assert WorldModel.load(folder).frame_size == again.frame_size == (16, 24)
    again.check_frame_size((16, 24), "s.mp4", "fit it")
    with pytest.raises(ValueError, match=r"s\.mp4 has frames of 24x16 .* trained on 16x24; fit it"):
        again.check_frame_size((24, 16), "s.mp4", "fit it")
    for wrong in ([16], [16, 0], ["a", 3], 5):
        edit(folder, lambda description, size=wrong: description.update(frame_size=size))
        with pytest.raises(ValueError, match=r"model\.json is damaged"):
            WorldModel.load(folder)


def test_a_mask_channel_survives(tmp_path):
    masked = world_of(denoiser(mask_channel=True))
    masked.save(tmp_path)
    again = WorldModel.load(tmp_path)
    assert again.denoiser.mask_channel
    assert torch.equal(output(again), output(masked))
    text = again.text(["turn left", ""])
    with torch.no_grad():
        assert not torch.equal(again.denoiser(*INPUTS, text, 1), output(again))


def test_the_fingerprint_tells_weights_apart_and_looks_through_a_memory(world):
    other = world_of(copy.deepcopy(world.denoiser))
    assert other.fingerprint() == world.fingerprint()
    with TemporalLoRA(other.denoiser, r=2) as lora, lora.use(torch.ones(1, lora.num_weights)):
        assert other.fingerprint() == world.fingerprint()
    with torch.no_grad():
        next(other.denoiser.parameters()).view(-1)[0] += 1e-3
    assert other.fingerprint() != world.fingerprint()


def test_an_older_model_is_replaced_and_other_files_stay(world, folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").write_text("stale")
    newer = world_of(denoiser(seed=5), text=table(seed=5))
    newer.save(folder)
    assert torch.equal(output(WorldModel.load(folder)), output(newer))
    assert not torch.equal(output(newer), output(world))
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list((folder / "unet").iterdir())) == 2
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_foreign_folder_is_refused_and_kept(world, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds thesis\.tex, which is not a world model"):
        world.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_model_with_layers_of_peft_inside_is_not_saved_over_an_older_one(world, folder):
    learning = world_of(copy.deepcopy(world.denoiser))
    target = "transformer_in.proj_in"
    inject_adapter_in_model(LoraConfig(r=2, target_modules=[target]), learning.denoiser.unet)
    with pytest.raises(ValueError, match=r"holds fast weights: call their remove\(\) before"):
        learning.save(folder)
    assert torch.equal(output(WorldModel.load(folder)), output(world))


@contextmanager
def full_disk(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_model(world, folder):
    newer = world_of(denoiser(seed=5))
    with full_disk(100_000), pytest.raises(OSError, match=r"cannot write \S+/model \(.*make room"):
        newer.save(folder)
    assert torch.equal(output(WorldModel.load(folder)), output(world))
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_folder_without_model_is_refused(tmp_path):
    message = r"holds no world model \(no model\.json\); give the folder of a finished run"
    with pytest.raises(FileNotFoundError, match=message):
        WorldModel.load(tmp_path)


def test_another_format_is_refused(folder):
    edit(folder, lambda d: d.update(format="sfv.model/9"))
    with pytest.raises(
        ValueError, match=r"has format 'sfv.model/9'; this version reads 'sfv.model/1'"
    ):
        WorldModel.load(folder)


@pytest.mark.parametrize("name", ["codec", "text"])
def test_a_model_file_cannot_choose_other_code(folder, name):
    edit(folder, lambda d: d[name].update({"class": "subprocess.Popen"}))
    message = rf"model\.json names the class 'subprocess\.Popen' as its {name}; allowed: PCAPatch"
    with pytest.raises(ValueError, match=message):
        WorldModel.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("codec"), "KeyError: 'codec'"),
        (lambda d: d.pop("num_generated"), "KeyError: 'num_generated'"),
        (lambda d: d["denoiser"].pop("fingerprint"), "KeyError: 'fingerprint'"),
        (lambda d: d["schedule"].update(heat=1), "unexpected keyword argument 'heat'"),
        (lambda d: d["codec"]["settings"].update(heat=1), "the settings of its codec make no PCA"),
        (lambda d: d["codec"].pop("settings"), "the settings of its codec make no PCA"),
    ],
)
def test_a_model_file_that_lacks_or_adds_something_is_refused(folder, change, message):
    edit(folder, change)
    with pytest.raises(
        ValueError, match=rf"model\.json is damaged or was not written by.*{message}"
    ):
        WorldModel.load(folder)


@pytest.mark.parametrize("text", ["", '{"format": "sfv.mod', "[]", "3"])
def test_a_cut_off_model_file_is_named(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"/model/model\.json is damaged"):
        WorldModel.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("codec.safetensors", r"/model/codec\.safetensors is truncated"),
        ("text.safetensors", r"/model/text\.safetensors is truncated"),
        (WEIGHTS, "/model/unet holds no readable UNet3D.* truncated"),
        (
            "unet/config.json",
            r"/model/unet/config\.json is damaged: it is not the one of model\.json",
        ),
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_truncated_file_is_named(folder, name, message, keep):
    path = folder / name
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=message):
        WorldModel.load(folder)


@pytest.mark.parametrize("name", ["codec.safetensors", "text.safetensors", WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
        WorldModel.load(folder)


def test_a_model_that_is_not_finite_is_neither_saved_nor_loaded(folder, tmp_path):
    broken = world_of()
    with torch.no_grad():
        broken.denoiser.unet.conv_in.bias[2] = torch.nan
    message = r"1 of \d+ numbers of conv_in\.bias are NaN or infinite"
    with pytest.raises(ValueError, match=rf"unet is not written: {message}"):
        broken.save(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.bias"][2] = torch.inf
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf"model/unet cannot be used: {message}"):
        WorldModel.load(folder)


@pytest.mark.parametrize("name", ["codec.safetensors", "text.safetensors", WEIGHTS])
def test_a_flipped_bit_in_weights_is_found_and_the_file_is_named(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    named = "copy unet/ of .* again" if name == WEIGHTS else rf"{name} is damaged: its checksum"
    with pytest.raises(ValueError, match=named):
        WorldModel.load(folder)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model.json", b'"num_context": 3', b'"num_context": 1'),
        ("unet/config.json", b'"norm_eps": 1e-05', b'"norm_eps": 1e-03'),
    ],
)
def test_a_flipped_bit_in_numbers_is_found_and_the_file_is_named(folder, name, old, new):
    path = folder / name
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=rf"{name} is damaged: it.*Copy or write the folder again"):
        WorldModel.load(folder)


def test_missing_weights_are_not_filled_with_random_numbers(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["conv_in.bias"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"unet lacks 1 weights .*\(first: conv_in\.bias\)"):
        WorldModel.load(folder)


def test_a_swapped_codec_is_refused(folder, tmp_path):
    other = codec(seed=1)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other", folder / "codec.safetensors")
    with pytest.raises(
        ValueError,
        match=rf"trained with codec PCAPatchCodec \w+, but PCAPatchCodec {other.fingerprint()} was "
        "given or found; use the codec that the model was trained with",
    ):
        WorldModel.load(folder)


def test_a_codec_file_of_another_size_is_refused(folder, tmp_path):
    codec(channels=6).save(tmp_path / "other")
    shutil.copy(tmp_path / "other", folder / "codec.safetensors")
    message = r"codec\.safetensors has another shape .*components is \(6, 48\) there and \(5, 48\)"
    with pytest.raises(ValueError, match=message):
        WorldModel.load(folder)


def test_a_swapped_denoiser_is_refused(folder):
    """Also what a kill between two renames of `save` leaves: files of two models."""
    denoiser(seed=3).save(folder / "unet")
    message = r"was trained with denoiser VideoUNet \w+, but VideoUNet"
    with pytest.raises(ValueError, match=message):
        WorldModel.load(folder)
    with pytest.raises(ValueError, match=message):
        world_of().load_weights(folder)


def test_another_vocabulary_is_refused(folder):
    edit(folder, lambda d: d["text"]["settings"].update(actions=["walk forward", "turn right"]))
    with pytest.raises(ValueError, match=r"trained with text ActionTable \w+, but ActionTable \w+"):
        WorldModel.load(folder)


def test_weights_are_taken_over(world, saved):
    other = world_of(denoiser(seed=2), text=table(seed=2))
    assert not torch.equal(output(other), output(world))
    other.load_weights(saved)
    assert torch.equal(output(other), output(world))
    assert all(p.requires_grad for p in other.denoiser.parameters()), "it is there to be trained"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: world_of(frames=codec(seed=1)), r"trained with codec PCAPatchCodec \w+, but PCA"),
        (lambda: world_of(text=table(["turn left"])), r"trained with text ActionTable \w+, but"),
        (
            lambda: world_of(denoiser(mask_channel=True)),
            r"unet has another shape .*unet\.conv_in\.weight is \(64, 5, 3, 3\) there and \(64, 6, 3",
        ),
        (
            lambda: world_of(schedule=NoiseSchedule()),
            r"trained to predict v_prediction, but this model's schedule has prediction_type epsilon",
        ),
    ],
)
def test_weights_of_another_kind_of_model_are_refused(saved, make, message):
    other = make()
    before = output(other)
    with pytest.raises(ValueError, match=message) as caught:
        other.load_weights(saved)
    assert "\n" not in str(caught.value)
    assert torch.equal(output(other), before)


def test_parts_that_do_not_fit_are_refused():
    message = (
        "takes 5 latent channels, but the codec makes 6; set the denoiser's latent_channels to"
    )
    with pytest.raises(ValueError, match=message):
        world_of(frames=codec(channels=6))
    message = "takes text of width 7, but the text encoder makes 9; set the denoiser's text_dim to"
    with pytest.raises(ValueError, match=message):
        world_of(text=table(text_dim=9))


def test_a_codec_that_is_not_fitted_is_refused():
    with pytest.raises(ValueError, match=r"this PCAPatchCodec is not fitted: call fit\(frames\)"):
        world_of(frames=PCAPatchCodec(latent_channels=C, patch=PATCH))


@pytest.mark.parametrize("counts", [(0, 2), (3, 0)])
def test_windows_without_frames_are_refused(counts):
    with pytest.raises(ValueError, match=r"num_context is \d, num_generated is \d; both must be"):
        WorldModel(denoiser(), codec(), table(), SCHEDULE, *counts)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("denoiser", r"backbones\.base\.Backbone"),
        ("codec", r"types\.FrameCodec"),
        ("text", r"types\.TextEncoder"),
    ],
)
def test_a_part_of_another_kind_is_refused(world, name, protocol):
    parts = {"denoiser": world.denoiser, "codec": world.codec, "text": world.text}
    parts[name] = nn.Identity()
    message = rf"{name} is a Identity, which is no sfv\.{protocol}; "
    with pytest.raises(ValueError, match=message):
        WorldModel(**parts, schedule=SCHEDULE, num_context=3, num_generated=2)


def test_a_part_that_could_not_be_saved_is_refused_before_training(world):
    class Text(nn.Module):
        text_dim = TEXT_DIM

        def fingerprint(self):
            return ""

    with pytest.raises(
        ValueError, match="is a Text, which could not be saved: it lacks settings and"
    ):
        world_of(world.denoiser, world.codec, Text())
