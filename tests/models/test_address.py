"""The address of a memory: motions of actions, recorded poses, and its place in model.json."""

import json

import pytest
import torch

from sfv.models.address import Address
from sfv.models.model_folder import checksum_of
from sfv.models.odometry import ActionOdometry
from sfv.models.world_model import WorldModel
from tests.world import ADDRESS, addressed_world

WALK = ("walk forward", "turn left", "walk backward", "walk forward")


def walked(address, actions=WALK, num_frames=2):
    """Poses of all frames, integrated chunk by chunk."""
    pose, found = address.origin(), []
    for action in actions:
        found.append(address.follow(action, num_frames, pose))
        pose = found[-1][-1]
    return torch.cat(found)


def in_the_world(poses, x=500.0, y=-70.0, yaw=130.0):
    """What a world records of such a walk: in its own frame of reference, with a height."""
    turn = torch.deg2rad(torch.tensor(yaw, dtype=torch.float64))
    ahead, left = poses[:, 0], poses[:, 1]
    return torch.stack(
        [
            x + ahead * turn.cos() - left * turn.sin(),
            y + ahead * turn.sin() + left * turn.cos(),
            torch.full_like(ahead, 3.0),
            (poses[:, 2] + yaw + 180) % 360 - 180,
        ],
        dim=1,
    )


def test_actions_are_integrated_a_motion_a_frame():
    poses = walked(ADDRESS)
    expected = ActionOdometry({a: tuple(map(float, m)) for a, m in ADDRESS.motions.items()})(
        [action for action in WALK for _ in range(2)], ADDRESS.origin()
    )
    torch.testing.assert_close(poses, expected)
    assert poses[3].tolist() == pytest.approx([24, 0, 60])
    assert poses[5].tolist() == pytest.approx([24 - 12, -24 * 0.75**0.5, 60]), (
        "backwards along 60 degrees"
    )


def test_recorded_poses_give_the_same_way_wherever_the_world_has_its_origin():
    poses = walked(ADDRESS)
    recorded = in_the_world(torch.cat([ADDRESS.origin()[None], poses]))
    pose = ADDRESS.origin()
    for i, action in enumerate(WALK):
        found = ADDRESS.follow(action, 2, pose, recorded[2 * i : 2 * i + 3])
        torch.testing.assert_close(found, poses[2 * i : 2 * i + 2], atol=1e-9, rtol=0)
        pose = found[-1]


def test_recorded_poses_stand_above_the_action():
    recorded = in_the_world(torch.tensor([[0.0, 0, 0], [1, 2, 10], [3, 4, 20]]).double())
    found = ADDRESS.follow("no such action", 2, ADDRESS.origin(), recorded)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2, 10], [3, 4, 20]]).double())


@pytest.mark.parametrize("num", [2, 4])
def test_recorded_poses_of_another_number_or_not_finite_are_errors(num):
    recorded = torch.zeros(num, 4, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"2 frames need 3 finite poses \(x, y, z, yaw\), .*leave them"
    ):
        ADDRESS.follow("turn left", 2, ADDRESS.origin(), recorded)
    recorded = torch.full((3, 4), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="2 frames need 3 finite poses"):
        ADDRESS.follow("turn left", 2, ADDRESS.origin(), recorded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": 0.0}, "ridge is 0.0; λ must be above 0"),
        ({"ridge": float("inf")}, "ridge is inf"),
        ({"motions": {"go": (1, 2)}}, r"the motion of 'go' is \(1.0, 2.0\); .*has 3 numbers"),
        (
            {"motions": {"go": (1, 2, float("nan"))}},
            r"motion of 'go' is \[1, 2, nan\]; allowed: finite",
        ),
    ],
)
def test_numbers_out_of_their_range_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        Address(**change)


def test_an_action_without_a_motion_is_named():
    with pytest.raises(
        ValueError, match=r"no motion is known for the action 'jump'; known: \['turn"
    ):
        ADDRESS.follow("jump", 2, ADDRESS.origin())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addressed") / "model"
    addressed_world().save(folder)
    return folder


def test_a_model_keeps_its_address(folder, tmp_path):
    assert json.loads((folder / "model.json").read_text())["address"]["key_size"] == 24
    found = WorldModel.load(folder)
    assert found.address == ADDRESS
    found.save(tmp_path / "again")
    content = [(place / "model.json").read_bytes() for place in (folder, tmp_path / "again")]
    assert content[0] == content[1]


def test_weights_bring_their_address_where_none_is_given(folder):
    model, own = addressed_world(), Address({"turn left": (0, 0, 9)})
    for given, expected in ((None, ADDRESS), (own, own)):
        model.address = given
        model.load_weights(folder)
        assert model.address == expected


@pytest.mark.parametrize(
    "change",
    [
        {"ridge": -1.0},
        {"motions": {"turn left": [1, 2]}},
        {"motions": 3},
        {"scales": None},
        {"heat": 1},
    ],
)
def test_an_address_that_is_none_makes_a_damaged_model(folder, change):
    path = folder / "model.json"
    before = path.read_text()
    description = json.loads(before)
    description["address"].update(change)
    description["checksum"] = checksum_of(description)
    path.write_text(json.dumps(description))
    try:
        with pytest.raises(ValueError, match=r"model\.json is damaged or was not written by sfv"):
            WorldModel.load(folder)
    finally:
        path.write_text(before)
