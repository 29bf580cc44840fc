import math

import pytest
import torch

from sfv.fast.keys import FourierKeys, plane_bandwidths
from sfv.models.poses import Space
from sfv.rng import stream


def poses(num=50):
    generator = stream(0, "keys-test")
    drawn = torch.randn(2, num, 3, generator=generator, dtype=torch.float64)
    return drawn * torch.tensor([100.0, 100.0, 90.0], dtype=torch.float64)


def test_keys_have_length_one_in_float32():
    keys = FourierKeys([plane_bandwidths(96.0)], 128)(poses())
    assert keys.shape == (2, 50, 128) and keys.dtype == torch.float32
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(2, 50))


def test_products_of_many_features_are_the_kernel():
    keys = FourierKeys([plane_bandwidths(96.0, 20.0)], 40_000)
    p, q = poses()
    way = (p[:, :2] - q[:, :2]).square().sum(dim=1) / (2 * 96.0**2)
    turn = (1 - torch.cos(torch.deg2rad(p[:, 2] - q[:, 2]))) / math.radians(20.0) ** 2
    expected = torch.exp(-way - turn).float()
    torch.testing.assert_close((keys(p) * keys(q)).sum(dim=1), expected, rtol=0, atol=0.03)


def test_a_full_turn_is_the_same_address():
    keys = FourierKeys([plane_bandwidths(4.0)], 64)
    around = poses()[0] + torch.tensor([0.0, 0.0, 360.0], dtype=torch.float64)
    torch.testing.assert_close(keys(around), keys(poses()[0]))


def test_the_seed_alone_decides_the_features():
    def make(seed=0):
        return FourierKeys([(1.0, 2.0, 0.5)], 16, Space(3), seed)

    assert torch.equal(make().features, make().features)
    assert not torch.equal(make().features, make(1).features)
    assert make().state_dict() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([(1.0, 1.0)], 16), r"scales are \[\[1.0, 1.0\]\]; allowed: .* 4 bandwidths above 0"),
        (([(1.0, 1.0, 0.0, 1.0)], 16), "4 bandwidths above 0"),
        (([], 16), "at least one"),
        (([(1.0,) * 4], 15), "key_size is 15; with 1 scales it must be a multiple of 2"),
        (([(1.0,) * 4] * 3, 16), "with 3 scales it must be a multiple of 6"),
        (([(1.0,) * 4], 0), "key_size is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        FourierKeys(*given)


def test_bandwidths_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"way=0\.0, turn=20\.0"):
        plane_bandwidths(0.0)
