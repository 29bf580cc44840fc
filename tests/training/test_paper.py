"""The paper's configs: its numbers, and its path from a pipeline folder to a trained model, shrunken.

The configs name 1.7B public weights, so here they are parsed, and run with
a small folder of the same layout.
"""

import shutil
from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml

from data_tools import encode_latents, encode_text
from sfv.cli import main
from sfv.data.datamodule import EpisodeDataModule
from sfv.data.shards import write_shards
from sfv.estimate.config import read_plan
from sfv.evaluation.evaluate import evaluate
from sfv.fast.settings import RULES
from sfv.models.autoencoder import KLVAECodec
from sfv.models.latents_codec import LatentsCodec
from sfv.models.text import CLIPText
from sfv.models.world_model import WorldModel
from sfv.training.encode import encode
from sfv.training.fit import parse
from tests.data.make import CHUNK, video_sample
from tests.models.pipeline import CHANNELS, TEXT_DIM, write_pipeline

ROOT = Path(__file__).parents[2]
PAPER = sorted((ROOT / "experiments" / "configs" / "paper").glob("*.yaml"))
FIT = [p for p in PAPER if p.read_text().startswith("# sfv fit")]
EVALUATE = [p for p in PAPER if p.read_text().startswith("# sfv evaluate")]
FOLDER = ROOT / "experiments" / "configs" / "paper"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A pipeline, shards of video, latents and texts made with it; `unet-alone` lacks its VAE and text."""
    root = tmp_path_factory.mktemp("paper")
    pipeline = write_pipeline(root / "pipeline")
    for split, keys in (("train", "abc"), ("val", "d")):
        samples = [video_sample(f"{key}-0", split=split, scene=f"{split}-yard") for key in keys]
        write_shards(samples, root / "shards" / split, split)
    out = ["--shards", str(root / "shards"), "--out", str(root / "latents")]
    klvae = ["--codec=klvae", "--codec-folder", str(pipeline)]
    assert encode_latents.main([*out, *klvae]) == 0
    shards = [str(root / "latents" / split) for split in ("train", "val")]
    table = root / "latents" / "text.safetensors"
    clip = ["--encoder=clip", "--folder", str(pipeline)]
    assert encode_text.main([*shards, "--out", str(table), *clip]) == 0
    for part in ("unet", "scheduler"):
        shutil.copytree(pipeline / part, root / "unet-alone" / part)
    return root


def small(config, weights):
    """A paper config for one CPU and the small pipeline."""
    return [
        f"--config={FOLDER / config}.yaml",
        "--model.denoiser.init_args.preset=tiny",
        f"--model.denoiser.init_args.latent_channels={CHANNELS}",
        f"--model.denoiser.init_args.text_dim={TEXT_DIM}",
        *([] if weights is None else [f"--model.denoiser.init_args.weights={weights}"]),
        f"--model.num_context={CHUNK}",
        f"--model.num_generated={CHUNK}",
        "--data.buckets=null",
        "--data.batch_size=1",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.num_nodes=1",
        "--trainer.strategy=auto",
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false",
    ]


def from_latents(root):
    return [
        f"--data.train={root / 'latents' / 'train'}",
        f"--data.val={root / 'latents' / 'val'}",
        f"--model.codec.init_args.file={root / 'latents' / 'codec.json'}",
        f"--model.text.init_args.file={root / 'latents' / 'text.safetensors'}",
    ]


@pytest.fixture(scope="module")
def trained(places):
    """Two slow steps from latents, where neither a VAE nor a text model can be found."""
    hidden = places / "hidden"
    (places / "pipeline").rename(hidden)
    try:
        arguments = [*small("slow", places / "unet-alone"), *from_latents(places)]
        assert main(["fit", *arguments, f"--out={places / 'run'}"]) == 0
    finally:
        hidden.rename(places / "pipeline")
    return places / "run" / "model"


@pytest.mark.slow
def test_training_from_latents_needs_no_vae_and_no_text_model(places, trained):
    """The folder it starts from has neither. What it saves finds both again, and decodes."""
    world = WorldModel.load(trained)
    assert isinstance(world.codec, KLVAECodec) and isinstance(world.text, CLIPText)
    assert world.codec.decode(torch.zeros(1, CHANNELS, 1, 2, 3)).shape == (1, 1, 3, 8, 12)
    start = WorldModel.load(trained).denoiser.from_diffusers(places / "unet-alone")
    moved = [
        (a - b).abs().max()
        for a, b in zip(world.denoiser.parameters(), start.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-4, "two Adam steps of 5e-6 from the pretrained weights"


@pytest.mark.slow
def test_the_loop_goes_on_from_there(places, trained):
    loop = [f"--model.init_from={trained}", f"--out={places / 'loop'}", "--trainer.precision=32"]
    arguments = [*small("slow_fast", None), *from_latents(places), *loop]
    assert main(["fit", *arguments, "--slow_fast.lora.r=2", "--slow_fast.precision=32"]) == 0
    assert (places / "loop" / "model" / "model.json").is_file()


@pytest.mark.slow
def test_training_from_video_takes_every_part_of_the_folder(places):
    parts = [
        f"--model.codec.init_args.folder={places / 'pipeline'}",
        f"--model.text.init_args.folder={places / 'pipeline'}",
        f"--data.train={places / 'shards' / 'train'}",
        f"--data.val={places / 'shards' / 'val'}",
        f"--out={places / 'video'}",
    ]
    assert main(["fit", *small("slow_from_video", places / "pipeline"), *parts]) == 0
    assert isinstance(WorldModel.load(places / "video" / "model").codec, KLVAECodec)
    with pytest.raises(ValueError, match=r"nothing encodes it: add the callback sfv\.training"):
        parse([*small("slow_from_video", places / "pipeline"), *parts, "--trainer.callbacks=null"])


def test_video_is_encoded_to_the_latents_of_the_shards(places):
    def first(kind, **settings):
        settings = {"num_context": 1, "num_generated": CHUNK, "shuffle_buffer": 1, **settings}
        return next(
            iter(EpisodeDataModule(str(places / kind / "val"), **settings).train_dataloader())
        )

    batch = first("shards", read="video")
    encode(KLVAECodec(places / "pipeline"), batch)
    expected = first("latents")
    assert batch["keys"] == expected["keys"]
    assert "video" not in batch
    torch.testing.assert_close(batch["latents"], expected["latents"], rtol=2e-3, atol=2e-3)


def test_what_the_shards_hold_must_be_what_is_read(places):
    sizes = {"num_context": CHUNK, "num_generated": CHUNK}
    with pytest.raises(ValueError, match=r"hold latents, but data\.read is video"):
        EpisodeDataModule(str(places / "latents" / "train"), read="video", **sizes)
    with pytest.raises(ValueError, match=r"training reads latents: run"):
        EpisodeDataModule(str(places / "shards" / "train"), **sizes)
    with pytest.raises(ValueError, match=r"the slow-fast loop learns from latents"):
        EpisodeDataModule(str(places / "shards" / "train"), read="video", mode="episodes", **sizes)


def test_the_codec_of_latents_says_who_made_them(places, tmp_path):
    file = places / "latents" / "codec.json"
    codec, real = LatentsCodec(file), KLVAECodec(places / "pipeline")
    assert codec.fingerprint() == real.fingerprint()
    assert (codec.latent_channels, codec.spatial_factor) == (CHANNELS, real.spatial_factor)
    with pytest.raises(ValueError, match=r"it cannot decode: set model\.codec to KLVAECodec"):
        codec.decode(torch.zeros(1, CHANNELS, 1, 2, 3))
    with pytest.raises(FileNotFoundError, match=r"make it with data_tools\.encode_latents"):
        LatentsCodec(tmp_path / "no.json")
    for wrong in ("{", "{}", file.read_text().replace("codec/1", "codec/9")):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(ValueError, match="does not describe a codec, or is damaged"):
            LatentsCodec(tmp_path / "wrong.json")


def test_weights_that_are_not_there_stop_a_run_before_training(places, capsys):
    arguments = [*small("slow", "some-lab/no-such-model"), *from_latents(places)]
    assert main(["fit", *arguments, f"--out={places / 'none'}"]) == 2
    printed = capsys.readouterr().err
    assert "hf download some-lab/no-such-model" in printed
    assert not (places / "none").exists()


@pytest.mark.parametrize("config", FIT, ids=lambda path: path.stem)
def test_fit_configs_hold_the_papers_numbers(config):
    """Parsed only: the weights they name are not here."""
    plan = read_plan([f"--config={config}"])
    found, trainer = plan.config.model, plan.config.trainer
    assert config.read_text().startswith(f"# sfv fit --config {config.relative_to(ROOT)}\n# ")
    assert found.denoiser.init_args.preset == "modelscope"
    assert found.optimizer.class_path == "torch.optim.Adam"
    assert found.optimizer.init_args.lr == 5e-6
    assert plan.batch_size * plan.accumulate * trainer.devices * trainer.num_nodes == 128
    assert plan.num_frames == found.num_context + found.num_generated == 32
    assert all(sum(pair) <= 32 for pair in plan.config.data.buckets or [])
    assert found.schedule.prediction_type == "epsilon"
    assert (found.schedule.beta_start, found.schedule.beta_end) == (0.00085, 0.012)
    assert not found.denoiser.init_args.mask_channel
    loop = plan.slow_fast
    assert (loop is None) == (config.stem != "slow_fast")
    if loop is not None:
        assert (loop.lora.r, loop.lora.targets) == (32, "temporal")
        assert (loop.fast.learning_rate, loop.fast.optimizer, loop.fast.rule) == (
            1e-4,
            "adam",
            "pair",
        )


@pytest.mark.parametrize("config", EVALUATE, ids=lambda path: path.stem)
def test_evaluations_hold_the_papers_numbers(config):
    assert config.read_text().startswith(f"# sfv evaluate --config {config.relative_to(ROOT)}\n# ")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(evaluate)
    found = parser.instantiate_classes(parser.parse_args([f"--config={config}"]))
    lora, fast = found.generation.lora, found.generation.fast
    assert (lora.r, lora.targets) == (32, "temporal")
    assert (fast.learning_rate, fast.optimizer) == (1e-4, "adam")
    assert found.out.name == config.stem


OURS = {"both_ways", "clean_context", "retrace"}
"""Rules that the paper does not have."""


def test_every_row_of_the_ablations_has_its_config():
    """Table 4: its four rules, and none; Table 2: with and without the loop."""
    contents = {p.stem.removeprefix("ablation_"): yaml.safe_load(p.read_text()) for p in EVALUATE}
    rules = {name: c["generation"].get("fast", {}).get("rule") for name, c in contents.items()}
    assert set(rules.values()) == {*RULES, None} - OURS
    assert rules["no_local_rule"] == "whole_history"
    assert rules["no_chunk_input"] == "single_frame"
    assert rules["text_style"] == "text_style"
    assert contents["no_temp_lora"]["rows"] == ["none"]
    by_fit = {p.stem: yaml.safe_load(p.read_text())["out"] + "/model" for p in FIT}
    assert contents["no_loop"]["model"] == contents["full"]["model"] == by_fit["slow"]
    assert contents["loop"]["model"] == by_fit["slow_fast"]


def test_the_size_of_latents_is_found_in_video_too(places):
    """16 x 24 pixels, eight of them a latent position, as with the public VAE."""
    config = FOLDER / "slow_from_video.yaml"
    plan = read_plan([f"--config={config}", f"--data.train={places / 'shards' / 'train'}"])
    assert plan.latents == (4, 2, 3)
    assert plan.frozen == 4 * (83_653_863 + 340_387_840)
