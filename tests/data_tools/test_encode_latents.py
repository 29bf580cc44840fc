import json
from pathlib import Path

import pytest
import torch

from data_tools import encode_latents
from data_tools.write_shards import pack
from sfv.data.datamodule import EpisodeDataModule
from sfv.data.episodes import episodes
from sfv.data.index import ShardError, find_shards
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel


@pytest.fixture(scope="module")
def shards(
    return_walks: Path, explore_walks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    pack([return_walks, explore_walks], folder)
    return folder


@pytest.fixture(scope="module")
def latents(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    args = f"--shards {shards} --out {folder} --channels 12 --patch 4 --fit-frames 80 --workers 1"
    assert encode_latents.main(args.split()) == 0
    return folder


def test_latents_are_what_the_codec_makes_of_the_video(shards: Path, latents: Path) -> None:
    codec = PCAPatchCodec.load(latents / "codec.safetensors")
    pairs = zip(episodes(shards / "test"), episodes(latents / "test"), strict=True)
    for (video_meta, video), (meta, given) in pairs:
        assert meta.id == video_meta.id and meta.actions == video_meta.actions
        assert meta.encoding.codec == codec.fingerprint()
        assert given.shape == (12, 56, 8, 8)
        expected = codec.encode(video[None])[0]
        assert (given - expected).abs().max() < 0.01 * expected.abs().max()


def test_the_codec_restores_held_out_video(shards: Path, latents: Path) -> None:
    codec = PCAPatchCodec.load(latents / "codec.safetensors")
    told = encode_latents.held_out_psnr(shards, codec)
    assert list(told) == ["test"]
    errors = [
        (codec.decode(given[None])[0] - video).square().mean(dim=(1, 2, 3))
        for (_, video), (_, given) in zip(
            episodes(shards / "test"), episodes(latents / "test"), strict=True
        )
    ]
    over_all_frames = float(-10 * torch.cat(errors).log10().mean())
    assert told["test"] == pytest.approx(over_all_frames, abs=0.5)


def test_the_fit_sees_the_training_split_alone(shards: Path) -> None:
    with pytest.raises(ShardError, match="is split 'test'; a codec is fitted on 'train' alone"):
        encode_latents.fit_codec(find_shards(shards / "test"))


def test_the_fit_depends_on_the_seed_alone(shards: Path) -> None:
    train = find_shards(shards / "train")
    first = encode_latents.fit_codec(train, 6, 8, 40, seed=1).fingerprint()
    torch.manual_seed(7)
    assert encode_latents.fit_codec(train, 6, 8, 40, seed=1).fingerprint() == first
    assert encode_latents.fit_codec(train, 6, 8, 40, seed=2).fingerprint() != first


def test_a_given_codec_is_used_as_it_is(
    shards: Path, latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = latents / "codec.safetensors"
    args = f"--shards {shards} --out {tmp_path} --codec-file {codec} --workers 1"
    assert encode_latents.main(args.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["codec"] == PCAPatchCodec.load(codec).fingerprint()
    assert report["episodes"] == {"train": 4, "test": 4}
    assert find_shards(tmp_path / "test").shards == find_shards(latents / "test").shards


def test_the_codec_of_a_world_model_is_used(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = f"--shards {shards} --out {tmp_path} --codec-model reference --workers 1"
    assert encode_latents.main(args.split()) == 0
    made = PCAPatchCodec.load(tmp_path / "codec.safetensors").fingerprint()
    assert json.loads(capsys.readouterr().out)["codec"] == made
    assert made == WorldModel.load("reference").codec.fingerprint()
    codec = tmp_path / "codec.safetensors"
    assert encode_latents.main(f"{args} --codec-file {codec}".split()) == 2
    assert "--codec-file and --codec-model name 2 codecs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--codec klvae", "--codec klvae needs --codec-folder"),
        ("--codec klvae --codec-file c.safetensors", "--codec klvae needs --codec-folder"),
        ("--codec klvae --codec-folder f --codec-model reference", "--codec-model and --codec-folder"),
        ("--codec-folder f", "--codec-folder is a VAE's: give --codec klvae with it"),
    ],
)  # fmt: skip
def test_flags_that_name_no_codec_or_several_are_refused(
    tmp_path: Path, flags: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = f"--shards {tmp_path} --out {tmp_path / 'x'} --workers 1 {flags}"
    assert encode_latents.main(args.split()) == 2
    assert said in capsys.readouterr().err


def test_the_loader_reads_them(latents: Path) -> None:
    codec = PCAPatchCodec.load(latents / "codec.safetensors").fingerprint()
    module = EpisodeDataModule(str(latents / "train"), codec_fingerprint=codec, batch_size=3)
    batch = next(iter(module.train_dataloader()))
    assert batch["latents"].shape == (3, 12, 16, 8, 8)
    assert 0.5 < batch["latents"].std() < 2


def test_shards_of_latents_are_not_encoded_twice(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = latents / "codec.safetensors"
    args = f"--shards {latents} --out {tmp_path} --codec-file {codec} --workers 1"
    assert encode_latents.main(args.split()) == 2
    assert "holds latents, encoding needs video shards" in capsys.readouterr().err


def test_an_empty_folder_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        encode_latents.main(
            ["--shards", str(tmp_path), "--out", str(tmp_path / "x"), "--workers=1"]
        )
        == 2
    )
    assert "write_shards makes the folder" in capsys.readouterr().err
