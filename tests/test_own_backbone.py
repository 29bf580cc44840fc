"""A backbone of a user's own, by its class path alone, through every verb that takes a model."""

import json

import pytest
import torch

from sfv.backbones.base import Backbone
from sfv.backbones.registry import find_backbone, name_of
from sfv.cli import main
from sfv.generation.settings import GenerationSettings
from sfv.models.world_model import WorldModel
from sfv.play.player import open_player
from sfv.play.starts import Start
from tests.training.make import make_data
from tests.training.test_fit import flags, short

CLASS = "examples.own_backbone.FrameTransformer"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("own") / "data", 16, 8, (2, 4), 8)


def own(data):
    """The shipped config with another backbone."""
    sizes = "latent_channels: 16, text_dim: 64, height: 2, width: 4, dim: 16"
    return [*flags(data), f"--model.denoiser={{class_path: {CLASS}, init_args: {{{sizes}}}}}"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    assert main(["fit", *own(data), *short(out)]) == 0
    return out


def test_fit_saves_it_and_every_reader_gets_it_back(run):
    said = json.loads((run / "model" / "model.json").read_text())
    assert said["denoiser"]["class"] == CLASS
    world = WorldModel.load(run)
    assert name_of(type(world.denoiser)) == CLASS
    assert world.fingerprint() == said["denoiser"]["fingerprint"]


def test_the_loop_trains_it_on_from_its_own_weights(run, data, tmp_path):
    loop = ["--slow_fast.lora.r=2", "--slow_fast.fast.num_steps=1", "--slow_fast.max_chunks=2"]
    more = [f"--model.init_from={run}", "--model.activation_checkpointing=true", *loop]
    steps = [f for f in short(tmp_path / "loop") if "batch" not in f and "val" not in f]
    assert main(["fit", *own(data), *more, *steps, "--trainer.limit_val_batches=0"]) == 0
    assert WorldModel.load(tmp_path / "loop").fingerprint() != WorldModel.load(run).fingerprint()


def test_rollout_and_play_adapt_its_layers(run, data, tmp_path):
    video = torch.rand(1, 8, 3, 16, 32)
    world = WorldModel.load(run)
    settings = GenerationSettings()
    with open_player(world, settings) as player:
        start = Start("visit", world.encode(video), 8)
        made = player.begin(start, player.strip(start.latents), "fast")
    assert {name.split(".lora_")[0] for name in made.memory.weights} == set(
        world.denoiser.fast_layers("temporal")
    )


def test_estimate_knows_its_size(data, capsys):
    assert main(["estimate", *own(data), "--device=cpu"]) == 0
    assert "GiB of one GPU at the largest moment" in capsys.readouterr().out


def test_a_class_that_nobody_trusts_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"model\.json names the backbone 'evil\.Net', which is not"
    ):
        find_backbone("evil.Net", tmp_path / "model.json")
    monkeypatch.setenv("SFV_TRUST", "json.JSONDecoder")
    with pytest.raises(ValueError, match=r"no subclass of sfv\.backbones\.base\.Backbone"):
        find_backbone("json.JSONDecoder", tmp_path / "model.json")


def test_trust_imports_the_class(monkeypatch):
    monkeypatch.setenv("SFV_TRUST", f"a.B,{CLASS}")
    assert issubclass(find_backbone(CLASS, "model.json"), Backbone)
