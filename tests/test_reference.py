"""The reference checkpoint: its recipe's steps fit together, and the one that is shipped has learned."""

import argparse
from importlib import import_module

import pytest
import torch
import yaml

import data_tools.collect.doom
import data_tools.write_shards
import sfv.cli
from experiments import reference
from experiments.pack_reference import MOST_BYTES
from sfv.diffusion.sampler import SamplerSettings
from sfv.generation.episodes import load_episodes
from sfv.generation.rollout import Request, Rollout
from sfv.media.reader import read_frames
from sfv.metrics.frame import psnr
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.models.model_folder import REFERENCE, SHIPPED
from sfv.models.world_model import WorldModel


def test_every_step_reads_what_the_steps_before_it_wrote(capsys):
    assert reference.main(["--dry-run"]) == 0
    assert capsys.readouterr().out.count("$ python -m ") == len(reference.commands()) == 9
    out = str(reference.OUT)
    names = ("slow", "slow_noisy", "slow_contextless", "slow_fast")
    configs = [yaml.safe_load((reference.CONFIGS / f"{name}.yaml").read_text()) for name in names]
    assert [config["out"] for config in configs] == [f"{out}/{name}" for name in names]
    starts = [config["model"].get("init_from") for config in configs]
    assert starts == [None, *(f"{out}/{name}/model" for name in names[:-1])]
    for config in configs:
        assert config["model"]["codec"]["init_args"]["file"] == f"{out}/latents/codec.safetensors"
        assert [config["data"][s] for s in ("train", "val")] == [
            f"{out}/latents/train",
            f"{out}/latents/val",
        ]


def test_the_tools_know_their_flags(monkeypatch):
    """Each tool parses its step's flags; none of them runs."""

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(vars(parse(self, args, namespace)))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    for _, module, *arguments in reference.commands():
        if module.startswith("data_tools."):
            with pytest.raises(Parsed) as parsed:
                import_module(module).main(arguments)
            assert parsed.value.args[0]["resume"] is True


def test_a_step_that_fails_stops_the_others(monkeypatch, capfd):
    monkeypatch.setattr(reference, "commands", lambda: [["-c", "exit(3)"], ["-c", "print(1)"]])
    assert reference.main([]) == 3
    said = capfd.readouterr()
    assert "the same command again goes on" in said.err and "\n1\n" not in said.out


def test_the_shipped_checkpoint_is_the_one_of_its_card():
    world = WorldModel.load(REFERENCE)
    card = (SHIPPED / "README.md").read_text()
    assert world.frame_size == read_frames(SHIPPED / "start.mp4").shape[1:3] == (64, 64)
    assert "64x64 pixels" in card
    assert world.fingerprint() in card and world.codec.fingerprint() in card
    assert set(InverseDynamics.load(REFERENCE).actions) == set(world.text.actions) - {""}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Real walks on levels that the checkpoint was not trained on."""
    folder = tmp_path_factory.mktemp("walks")
    collect = ["--split=val", "--walk=return", "--chunks=7", "--episodes=4", "--seed=3"]
    assert data_tools.collect.doom.main([f"--out={folder / 'episodes'}", *collect]) == 0
    pack = [str(folder / "episodes"), f"--out={folder / 'shards'}"]
    assert data_tools.write_shards.main(pack) == 0
    return load_episodes(folder / "shards" / "val", WorldModel.load(REFERENCE), 4)


@pytest.mark.slow
def test_the_shipped_checkpoint_has_learned_how_the_world_moves(walks):
    """Better than a still picture, and than what it makes of another action."""
    world = WorldModel.load(REFERENCE)
    rollout = Rollout(world, SamplerSettings("ddim", 8), None, precision="bf16")
    found = {"right": [], "wrong": [], "still": []}
    for walk in walks:
        for i in range(0, len(walk.actions), 2):
            context, true = slice(8 * i, 8 * i + 8), walk.video[None, 8 * i + 8 : 8 * i + 16]
            start = walk.latents[:, :, context]
            others = [a for a in world.text.settings()["actions"] if a and a != walk.actions[i]]
            for name, action in (("right", walk.actions[i]), ("wrong", others[i % 3])):
                (chunk,) = rollout.run(f"{walk.meta.id} {i}", start, [action])
                video = world.codec.decode(chunk.generated).clamp(0, 1)
                found[name].append(float(psnr(video, true).mean()))
            still = walk.video[None, context][:, -1:].expand_as(true)
            found["still"].append(float(psnr(still, true).mean()))
    right, wrong, still = (sum(values) / len(values) for values in found.values())
    assert right > wrong + 0.3
    assert right > still


@pytest.mark.slow
def test_one_command_makes_a_first_video(tmp_path):
    flags = ["--generation.sampler.num_inference_steps=1", "--generation.fast.num_steps=1"]
    assert sfv.cli.main(["rollout", f"--out={tmp_path / 'walk'}", *flags]) == 0
    assert sorted(p.name for p in (tmp_path / "walk").glob("*.mp4")) == [
        "start-fast.mp4",
        "start-none.mp4",
    ]


@pytest.mark.slow
def test_long_walks_keep_their_contrast_better_from_context_than_from_pure_noise(walks):
    """Pure noise reads as grey at the last timestep; every chunk would be flatter than the one before."""
    world = WorldModel.load(REFERENCE)
    requests = [Request(walk.meta.id, walk.latents[:, :, :8], walk.actions[:6]) for walk in walks]
    contrast = {}
    for start in ("context", "noise"):
        rollout = Rollout(world, SamplerSettings("ddim", 8, start=start), None, precision="bf16")
        last = [chunks[-1].generated for chunks in rollout.run_many(requests)]
        contrast[start] = float(world.codec.decode(torch.cat(last)).std(dim=(1, 2, 3, 4)).mean())
    assert contrast["context"] > 1.1 * contrast["noise"]
