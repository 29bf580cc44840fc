import math

import pytest
import torch

from sfv.models.poses import PLANE, Plane, PoseSpace, Space, between
from sfv.rng import stream

SPACES = [PLANE, Space(3), Space(5)]


def drawn(space, *keys, num=7):
    generator = stream(0, "poses-test", *keys)
    return 40 * torch.randn(num, space.size, generator=generator, dtype=torch.float64)


def same(space, a, b):
    """Equal poses; -180 and 180 degrees are one."""
    torch.testing.assert_close(space.coordinates(a), space.coordinates(b), rtol=0, atol=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_motions_form_a_group(space):
    a, b, c = (drawn(space, i) for i in range(3))
    assert isinstance(space, PoseSpace)
    origin = torch.zeros_like(a)
    same(space, space.compose(space.inverse(a), a), origin)
    same(space, space.compose(a, space.inverse(a)), origin)
    same(space, space.compose(origin, a), a)
    same(space, space.compose(space.compose(a, b), c), space.compose(a, space.compose(b, c)))
    same(space, space.compose(a, between(space, a, b)), b)
    assert space.coordinates(a).shape == (7, space.num_coordinates)


def test_the_plane_is_three_by_three_matrices():
    def matrix(pose):
        x, y, yaw = pose.tolist()
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        return torch.tensor([[c, -s, x], [s, c, y], [0, 0, 1]], dtype=torch.float64)

    for a, b in zip(drawn(PLANE, 0), drawn(PLANE, 1), strict=True):
        torch.testing.assert_close(matrix(PLANE.compose(a, b)), matrix(a) @ matrix(b))
        torch.testing.assert_close(matrix(PLANE.inverse(a)), matrix(a).inverse())


@pytest.mark.parametrize("space", SPACES)
def test_integration_composes_motion_after_motion(space):
    start, motions = drawn(space, 0, num=2), torch.stack([drawn(space, 1), drawn(space, 2)])
    found = space.integrate(start, motions)
    here = start
    for frame in range(7):
        here = space.compose(here, motions[:, frame])
        same(space, found[:, frame], here)


def test_left_of_somebody_who_looks_left_is_behind_the_start():
    pose = torch.tensor([0.0, 0.0, 90.0], dtype=torch.float64)
    motion = torch.tensor([0.0, 2.0, 100.0], dtype=torch.float64)
    expected = torch.tensor([-2.0, 0.0, -170.0], dtype=torch.float64)
    torch.testing.assert_close(PLANE.compose(pose, motion), expected)


def test_what_of_a_recorded_pose_counts():
    recorded = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    assert Plane().from_recorded(recorded).tolist() == [[1.0, 2.0, 4.0]]
    assert Space(3).from_recorded(recorded).tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(ValueError, match="recorded poses have 4 numbers, this space has 5"):
        Space(5).from_recorded(recorded)
    with pytest.raises(ValueError, match="size of a space of poses is 0"):
        Space(0)
