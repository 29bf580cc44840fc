import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from data_tools.files import encode_mp4
from sfv.cli import main
from sfv.data.datamodule import EpisodeDataModule
from sfv.data.schema import Action
from sfv.data.shards import Sample, write_shards
from sfv.models.inverse_dynamics import InverseDynamics, InverseReader, pose_changes
from sfv.training.fit import parse
from sfv.training.fit_inverse import InverseCLI
from sfv.training.inverse_dynamics import (
    InverseDynamicsLearner,
    held_out_accuracy,
    read_episode,
    spans_of,
)
from tests.data.make import HEIGHT, WIDTH, make_meta
from tests.metrics.scenes import sliding

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "experiments" / "configs" / "doom" / "inverse_dynamics.yaml"
ORDER = ("left", "stay", "right", "left")
STEP = {"left": 2.0, "right": -2.0, "stay": 0.0}
CHUNK = 4


def episode(key, poses=True, turn=0, **changes):
    """A walk whose frames show its actions, with poses that say the same."""
    texts = ORDER[turn:] + ORDER[:turn]
    actions = tuple(Action(t, i * CHUNK, (i + 1) * CHUNK) for i, t in enumerate(texts))
    places, y = [], 0.0
    for text in texts:
        for _ in range(CHUNK):
            y += STEP[text]
            places.append((0.0, y, 0.0, 0.0))
    meta = make_meta(key, actions=actions, num_frames=len(places), **changes)
    video = sliding([(text, CHUNK) for text in texts], HEIGHT, WIDTH)
    return dataclasses.replace(meta, poses=tuple(places) if poses else None), video


def sample(key, **changes):
    meta, video = episode(key, **changes)
    frames = (video * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Sample(meta, encode_mp4(frames, meta.fps))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inverse")
    train = [sample(f"a-{i}", turn=i % 4, poses=i != 1) for i in range(4)]
    write_shards(train, folder / "train", "train")
    write_shards(
        [sample(f"v-{i}", turn=i, split="val", scene="hall") for i in range(2)],
        folder / "val",
        "val",
    )
    return folder


def flags(shards, out, **changes):
    given = {
        "config": CONFIG,
        "out": out,
        "model.network.init_args.actions": "[left, right, stay]",
        "model.network.init_args.side": 16,
        "model.network.init_args.widths": "[8, 16]",
        "model.network.init_args.hidden": 16,
        "data.train": shards / "train",
        "data.val": shards / "val",
        "data.num_generated": CHUNK,
        "data.batch_size": 4,
        "model.lr_scheduler.init_args.max_lr": 5.0e-3,
        "trainer.max_steps": 100,
        "trainer.val_check_interval": 20,
        "trainer.enable_progress_bar": "false",
        **changes,
    }
    return [f"--{name}={value}" for name, value in given.items()]


def test_windows_carry_the_poses_of_their_frames(shards):
    data = EpisodeDataModule(
        str(shards / "train"), num_context=1, num_generated=CHUNK, batch_size=12, shuffle_buffer=1,
        read="video", with_poses=True,
    )  # fmt: skip
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape[:2] == batch["poses"].shape[:2] == (12, 1 + CHUNK)
    for key, action, poses in zip(batch["keys"], batch["actions"], batch["poses"], strict=True):
        if key.startswith("a-1/"):
            assert poses.isnan().all()
        else:
            assert pose_changes(poses)[:, 1].tolist() == [STEP[action]] * CHUNK
    plain = EpisodeDataModule(
        str(shards / "train"), num_context=1, num_generated=CHUNK, read="video"
    )
    assert "poses" not in next(iter(plain.train_dataloader()))


def test_the_loss_takes_every_pair_under_its_windows_action():
    net = InverseDynamics(("left", "stay", "right"), side=16, widths=(8,), hidden=8)
    learner = InverseDynamicsLearner(net, pose_weight=0.5)
    meta, film = episode("a")
    windows = [slice(3, 8), slice(7, 12)]
    poses = torch.tensor(meta.poses)
    batch = {
        "video": torch.stack([(film[w] * 255).to(torch.uint8) for w in windows]),
        "poses": torch.stack([poses[w] for w in windows]),
        "actions": ["stay", "right"],
    }
    video = batch["video"].float() / 255
    loss, correct = learner._loss(batch, video)
    total, hits = [], []
    for w, action in zip(windows, ("stay", "right"), strict=True):
        frames = (film[w] * 255).to(torch.uint8).float() / 255
        logits, pose = net(frames[:-1], frames[1:])
        wanted = torch.full((4,), net.actions.index(action))
        total.append(torch.nn.functional.cross_entropy(logits, wanted))
        total[-1] = total[-1] + 0.5 * torch.nn.functional.smooth_l1_loss(
            pose, pose_changes(poses[w])
        )
        hits.append((logits.argmax(1) == wanted).float().mean())
    torch.testing.assert_close(loss, sum(total) / 2)
    torch.testing.assert_close(correct, sum(hits) / 2)
    without, _ = learner._loss({k: v for k, v in batch.items() if k != "poses"}, video)
    assert without < loss
    assert learner.training_step(batch, 0) == loss
    noisy = InverseDynamicsLearner(net, pose_weight=0.5, frame_noise=0.1)
    assert noisy.training_step(batch, 0) == noisy.training_step(batch, 0) != loss
    assert noisy.training_step(batch, 1) != noisy.training_step(batch, 0)
    with pytest.raises(ValueError, match="frame_noise is 2; allowed: 0 to 1"):
        InverseDynamicsLearner(net, frame_noise=2)


@pytest.mark.slow
def test_it_learns_to_read_true_walks_and_reports_held_out_maps(shards, tmp_path, capsys):
    assert main(["fit", "inverse_dynamics", *flags(shards, tmp_path / "out")]) == 0
    assert "action_accuracy" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    row = report["rows"]["true_video"]
    assert row["n"] == 2
    assert row["metrics"]["action_accuracy"]["value"] > 0.8
    assert row["metrics"]["action_accuracy_floor"]["value"] < 0.5
    assert row["metrics"]["turn_error"]["value"] < 2
    loaded = InverseDynamics.load(tmp_path / "out" / "model")
    assert report["settings"]["model"] == loaded.fingerprint()
    assert row["metrics"]["pair_accuracy"]["passport"]["network_sha256"] == loaded.fingerprint()
    assert list(report["rows"]) == ["true_video"]
    later = [*flags(shards, tmp_path / "out"), f"--test={shards / 'val'}"]
    assert main(["fit", "inverse_dynamics", *later]) == 0  # trained already: only measured
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert rows["true_video_test"]["metrics"] == rows["true_video"]["metrics"] == row["metrics"]


def test_the_shipped_config_constructs(shards, tmp_path):
    header, *_ = CONFIG.read_text().splitlines()
    assert header == f"# sfv fit inverse_dynamics --config {CONFIG.relative_to(ROOT)}"
    content = yaml.safe_load(CONFIG.read_text())
    cli = parse(flags(shards, tmp_path), InverseCLI, learner=InverseDynamicsLearner)
    assert cli.model.network.actions == ("left", "right", "stay")
    assert cli.datamodule.read == content["data"]["read"] == "video"
    assert cli.datamodule.num_context == 1 and cli.datamodule.with_poses


def test_reading_an_episode_counts_its_chunks_and_errors():
    meta, video = episode("a")
    net = InverseDynamics(("left", "stay", "right"), side=16, widths=(8,), hidden=8)
    torch.nn.init.zeros_(net.action_head.weight)
    torch.nn.init.zeros_(net.pose_head.weight)
    with torch.no_grad():
        net.action_head.bias[0] = 5.0  # reads "left" always, and no move
    found = read_episode(meta, video, InverseReader(net))
    assert found.chunks == 0.5 and found.chance == 0.5
    assert found.pairs == pytest.approx((3 + 4) / 15)
    assert found.move == pytest.approx(2.0 * (3 + 4 + 4) / 15, rel=1e-5) and found.turn == 0
    first = (Action("left", 0, 1), Action("left", 1, 16))
    assert spans_of(dataclasses.replace(meta, actions=first)) == [("left", 1, 16)]
    row = held_out_accuracy(InverseReader(net), [(meta, video), episode("b", poses=False)])
    assert row.n == 2 and row.metrics["move_error"].passport.count == 1
    with pytest.raises(ValueError, match="no episode to read"):
        held_out_accuracy(InverseReader(net), [])


def test_latents_are_refused(shards, tmp_path, capsys):
    code = main(
        ["fit", "inverse_dynamics", *flags(shards, tmp_path / "o", **{"data.read": "latents"})]
    )
    assert code == 2
    assert "the shards hold video" in capsys.readouterr().err
