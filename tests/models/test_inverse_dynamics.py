import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfv.models.inverse_dynamics import (
    InverseDynamics,
    InverseReader,
    inverse_losses,
    pose_changes,
)
from sfv.models.model_folder import INVERSE_FILE
from sfv.rng import stream
from sfv.storage.weight_files import write_tensors

ACTIONS = ("forward", "left", "right")


def model(**changes) -> InverseDynamics:
    sizes = {"side": 16, "widths": (8, 16), "hidden": 12, "pose_scale": (2.0, 3.0, 4.0, 5.0)}
    return InverseDynamics(ACTIONS, **{**sizes, **changes})


def frames(num: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(num, 3, height, width, generator=stream(0, "inverse-test", num))


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = model(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again, other = model(seed=1).state_dict(), model(seed=2).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["joined.weight"], other["joined.weight"])
    assert first["joined.weight"].std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.1)
    assert not any(value.is_meta for value in first.values())
    assert all(p.requires_grad for p in model().parameters())


def test_order_of_frames_matters_and_pose_is_scaled() -> None:
    net, pair = model(), frames(2)
    logits, pose = net(pair[:1], pair[1:])
    back, _ = net(pair[1:], pair[:1])
    assert logits.shape == (1, 3) and pose.shape == (1, 4) and not torch.allclose(logits, back)
    plain = model(pose_scale=(1, 1, 1, 1))(pair[:1], pair[1:])[1]
    torch.testing.assert_close(pose, plain * torch.tensor([2.0, 3.0, 4.0, 5.0]))


def test_pose_changes_are_seen_from_the_earlier_pose() -> None:
    poses = torch.tensor(
        [[0.0, 0, 0, 90], [0, 2, 0, 90], [-3, 2, 1, 90], [-3, 2, 1, 170], [-3, 2, 1, -175]]
    )
    expected = [[2.0, 0, 0, 0], [0, 3, 1, 0], [0, 0, 0, 80], [0, 0, 0, 15]]
    torch.testing.assert_close(pose_changes(poses), torch.tensor(expected), atol=1e-5, rtol=0)
    both = pose_changes(torch.stack([poses, poses.roll(1, 0)]))
    torch.testing.assert_close(both[0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_rows_without_a_pose_do_not_count_in_its_loss() -> None:
    logits = torch.randn(4, 3, generator=stream(0, "logits"))
    pose, scale = torch.ones(4, 4), torch.tensor([1.0, 2.0, 4.0, 0.5])
    change = torch.zeros(4, 4)
    change[1:3] = float("nan")
    action = torch.tensor([0, 2, 1, 1])
    losses = inverse_losses(logits, pose, action, change, scale)
    expected = F.smooth_l1_loss(pose[:2] / scale, torch.zeros(2, 4))
    torch.testing.assert_close(losses.pose, expected)
    torch.testing.assert_close(losses.action, F.cross_entropy(logits, action))
    assert inverse_losses(logits, pose, action, change * float("nan"), scale).pose == 0


def test_a_reader_reads_every_pair_at_any_size() -> None:
    net = model()
    reader = InverseReader(net)
    video = frames(7, 20, 24)
    probabilities = reader(video)
    small = F.interpolate(video, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits, pose = net(small[:-1], small[1:])
    torch.testing.assert_close(probabilities, logits.softmax(1))
    torch.testing.assert_close(reader.read(video)[1], pose)
    assert reader.resize.endswith("16x16") and reader.sha256 == net.fingerprint()


def test_saved_and_loaded_is_the_same_model(tmp_path: Path) -> None:
    net = model(seed=4)
    net.save(tmp_path / "model")
    loaded = InverseDynamics.load(tmp_path / "model")
    assert loaded.fingerprint() == net.fingerprint() != model(seed=5).fingerprint()
    pair = frames(2)
    torch.testing.assert_close(loaded(pair[:1], pair[1:]), net(pair[:1], pair[1:]))
    write_tensors(tmp_path / INVERSE_FILE, {"a": torch.zeros(1)}, {"format": "other"})
    with pytest.raises(ValueError, match="has the format 'other', expected"):
        InverseDynamics.load(tmp_path)


def test_actions_are_found_in_either_unicode_form() -> None:
    net = InverseDynamics(["go", "tra\u0301i"])
    assert net.index_of(["tr\u00e1i", "go", "tra\u0301i"]).tolist() == [1, 0, 1]


def test_bad_settings_and_actions_are_named() -> None:
    with pytest.raises(ValueError, match=r"side is 18 with 2 widths; each halves .* multiple of 4"):
        model(side=18)
    with pytest.raises(ValueError, match="four numbers above 0 are needed"):
        model(pose_scale=(1.0, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"actions are \['a', 'a'\]"):
        InverseDynamics(["a", "a"])
    with pytest.raises(ValueError, match=r"unknown actions \['jump'\]; this inverse model reads"):
        model().index_of(["left", "jump"])
