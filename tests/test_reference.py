"""The reference checkpoint: its recipe's steps fit together, and the one that is shipped has learned."""

import argparse
from importlib import import_module

import pytest
import torch
import yaml

import data_tools.collect.doom
import data_tools.collect.doom_mazes
import data_tools.write_shards
import sfv.cli
from experiments import reference
from experiments.pack_reference import MOST_BYTES
from sfv.diffusion.sampler import SamplerSettings
from sfv.generation.episodes import load_episodes, num_outbound
from sfv.generation.rollout import Request, Rollout
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.media.reader import read_frames
from sfv.metrics.frame import psnr
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.models.model_folder import REFERENCE, SHIPPED, SHOWN
from sfv.models.world_model import WorldModel


def test_every_step_reads_what_the_steps_before_it_wrote(capsys):
    assert reference.main(["--dry-run"]) == 0
    assert capsys.readouterr().out.count("$ python -m ") == len(reference.commands()) == 6
    out = str(reference.OUT)
    config = yaml.safe_load((reference.CONFIGS / "loop.yaml").read_text())
    assert config["out"] == f"{out}/loop"
    assert config["model"]["codec"]["init_args"]["file"] == f"{out}/latents/codec.safetensors"
    data = [config["data"][split] for split in ("train", "val")]
    assert data == [f"{out}/latents/train", f"{out}/latents/val"]


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


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_is_the_one_of_its_card(name):
    world, folder = WorldModel.load(name), SHIPPED[name]
    card = (folder / "README.md").read_text()
    assert world.frame_size == read_frames(folder / SHOWN).shape[1:3] == (64, 64)
    assert "64x64 pixels" in card
    assert world.fingerprint() in card and world.codec.fingerprint() in card
    assert set(InverseDynamics.load(name).actions) == set(world.text.actions) - {""}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES


def walks_of(folder, collect, name, *arguments):
    """Real walks that a checkpoint was not trained on."""
    flags = ["--split=val", "--walk=return", "--chunks=7", "--episodes=4", "--seed=3", *arguments]
    assert collect.main([f"--out={folder / 'episodes'}", *flags]) == 0
    pack = [str(folder / "episodes"), f"--out={folder / 'shards'}"]
    assert data_tools.write_shards.main(pack) == 0
    return load_episodes(folder / "shards" / "val", WorldModel.load(name), 4)


@pytest.fixture(scope="module")
def doom_walks(tmp_path_factory):
    return walks_of(tmp_path_factory.mktemp("doom"), data_tools.collect.doom, "reference-doom")


@pytest.fixture(scope="module")
def maze_walks(tmp_path_factory):
    plain = ("--look=plain", "--mazes=4")
    folder = tmp_path_factory.mktemp("mazes")
    return walks_of(folder, data_tools.collect.doom_mazes, REFERENCE, *plain)


@pytest.mark.slow
def test_the_reference_remembers_the_way_out(maze_walks):
    """Shown the way out, it finds its way back with memory, and not without or with another's."""
    world = WorldModel.load(REFERENCE)
    settings = GenerationSettings(SamplerSettings("ddim", 4), precision="bf16", videos_at_once=4)
    turn = 8 * (1 + num_outbound(maze_walks[0].meta))
    true = torch.stack([walk.video[turn:] for walk in maze_walks])
    found = {}
    for row in ("none", "fast"):
        with rollout_of(world, row, settings) as rollout:
            requests = [
                Request(
                    walk.meta.id,
                    walk.latents[:, :, :8],
                    walk.actions,
                    walk.latents[:, :, 8:turn],
                    predict_shown=False,
                )
                for walk in maze_walks
            ]
            made = rollout.run_many(requests)
        ends = torch.cat([torch.cat([chunk.kept for chunk in chunks], dim=2) for chunks in made])
        back = world.decode(ends[:, :, -true.shape[1] :])
        found[row] = float(psnr(back, true).mean())
        found[f"{row} of another"] = float(psnr(back.roll(1, 0), true).mean())
    assert found["fast"] > found["none"] + 3
    assert found["fast"] > found["fast of another"] + 6


@pytest.mark.slow
def test_the_doom_checkpoint_has_learned_how_the_world_moves(doom_walks):
    """Better than a still picture, and than what it makes of another action."""
    world = WorldModel.load("reference-doom")
    rollout = Rollout(world, SamplerSettings("ddim", 8), None, precision="bf16")
    found = {"right": [], "wrong": [], "still": []}
    for walk in doom_walks:
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
        "shown-fast.mp4",
        "shown-none.mp4",
    ]


@pytest.mark.slow
def test_long_walks_keep_their_contrast_better_from_context_than_from_pure_noise(doom_walks):
    """Pure noise reads as grey at the last timestep; every chunk would be flatter than the one before."""
    world = WorldModel.load("reference-doom")
    requests = [
        Request(walk.meta.id, walk.latents[:, :, :8], walk.actions[:6]) for walk in doom_walks
    ]
    contrast = {}
    for start in ("context", "noise"):
        rollout = Rollout(world, SamplerSettings("ddim", 8, start=start), None, precision="bf16")
        last = [chunks[-1].generated for chunks in rollout.run_many(requests)]
        contrast[start] = float(world.codec.decode(torch.cat(last)).std(dim=(1, 2, 3, 4)).mean())
    assert contrast["context"] > 1.1 * contrast["noise"]
