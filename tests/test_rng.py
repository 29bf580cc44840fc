import inspect
from itertools import combinations

import numpy as np
import pytest
import torch

from sfv.rng import seed_of, stream


def test_seeds_are_golden():
    """A change here changes every number of every run: then the version has to change too."""
    assert seed_of(0, "slow-noise") == 7813666940692904306
    assert seed_of(7, "sample-noise", "doom-test-00003", 11) == 408548823788954757
    assert seed_of(-1, "Φ") == 2056465643302426354


def test_draws_are_golden():
    draw = torch.randint(1_000_000, (4,), generator=stream(3, "slow-noise", 5, 0))
    assert draw.tolist() == [775561, 611224, 96238, 458528]


def test_equal_keys_give_equal_numbers_whatever_was_drawn_before():
    first = torch.rand(5, generator=stream(1, "slow-noise", 2, "episode"))
    torch.rand(3)
    stream(1, "slow-noise", 2, "other").initial_seed()
    assert torch.equal(torch.rand(5, generator=stream(1, "slow-noise", 2, "episode")), first)


def test_every_part_of_the_key_tells_streams_apart():
    """Also where plain joining would not: ("a", "bc") and ("ab", "c"), 1 and "1", their order."""
    keys = [
        (0, "noise"),
        (1, "noise"),
        (0, "fast-noise"),
        (0, "noise", 0),
        (0, "noise", 0, 0),
        (0, "noise", 1, 2),
        (0, "noise", 2, 1),
        (0, "noise", 12),
        (0, "noise", "12"),
        (0, "noise", "a", "bc"),
        (0, "noise", "ab", "c"),
        (0, "noise", "a', 'bc"),
    ]
    draws = {key: torch.rand(4, generator=stream(*key)) for key in keys}
    assert len({seed_of(*key) for key in keys}) == len(keys)
    for one, other in combinations(keys, 2):
        assert not torch.equal(draws[one], draws[other]), (one, other)


def test_seeds_fit_every_generator():
    """NumPy takes no negative seed, PyTorch none of 64 bits."""
    seeds = [seed_of(0, "range", key) for key in range(300)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    np.random.default_rng(seeds[0])


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    torch.rand(9, generator=stream(0, "slow-noise"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("key", [1.0, True, None, np.str_("a")])
def test_a_key_that_could_be_written_in_two_ways_is_refused(key):
    """`np.int64(3)` prints unlike `3`: a run that reads its keys from an array would differ."""
    unchecked = inspect.unwrap(seed_of)  # the type checks of tests would refuse it first
    with pytest.raises(
        TypeError, match=r"cannot name a stream of 'noise'; convert it with int\(\)"
    ):
        unchecked(0, "noise", key)
