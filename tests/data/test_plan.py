from collections import Counter
from itertools import product

import numpy as np
import pytest

from sfv.data.plan import EpochPlan, LastBatch, Leg, Share, Topology
from sfv.data.schema import DOMAINS
from sfv.data.table import EpisodeTable
from sfv.data.windows import WindowTable, cut_table

SIZES = (3, 1, 7, 2, 12, 5)
"""Episodes in each shard."""


def make_table(
    sizes: tuple[int, ...] = SIZES, num_actions: int = 4, chunk: int = 3
) -> EpisodeTable:
    """Episodes of `num_actions` (one more or less) actions; every third shard is of another domain."""
    num = sum(sizes)
    counts = (num_actions + np.arange(num) % 3 - 1).astype(np.int32)
    shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return EpisodeTable(
        shard=shard,
        begin=np.arange(num) * 1000,
        end=np.arange(num) * 1000 + 1000,
        domain=(shard % 3 == 2).astype(np.uint8),
        num_actions=counts,
        action_stop=np.concatenate([np.arange(1, n + 1) * chunk for n in counts]).astype(np.int32),
    )


def make_plan(
    buckets: tuple[tuple[int, int], ...] = ((3, 3), (1, 2)), **settings: object
) -> EpochPlan:
    table = make_table()
    return EpochPlan(
        table, cut_table(table, buckets), **{"seed": 5, "shuffle_buffer": 20} | settings
    )


def shares(plan: EpochPlan, topology: Topology, legs: tuple[Leg, ...] = ()) -> list[Share]:
    return [plan.share(0, legs, topology, slot) for slot in range(topology.slots)]


def counted(shares: list[Share]) -> Counter[int]:
    return Counter(int(item) for share in shares for item in share.items)


@pytest.mark.parametrize(("ranks", "workers"), [*product((1, 2, 3, 8), (1, 2, 5))])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_window_once_and_equally_many_batches(
    ranks: int, workers: int, batch_size: int
) -> None:
    plan, topology = make_plan(), Topology(ranks, workers, batch_size)
    given = shares(plan, topology)
    assert {len(share.sizes) for share in given} == {plan.steps(0, (), topology) // workers}
    counts = counted(given)
    assert set(counts) == set(range(len(plan.windows)))
    assert sum(counts.values()) - len(counts) == sum(share.repeated for share in given)
    if batch_size > 1:
        assert set(counts.values()) == {1}
    assert max(int(share.sizes.max()) for share in given) <= batch_size


@pytest.mark.parametrize("last_batch", ["short", "pad", "drop"])
def test_a_batch_holds_one_bucket(last_batch: LastBatch) -> None:
    plan = make_plan(last_batch=last_batch)
    for share in shares(plan, Topology(2, 2, 4)):
        for batch in share.batches():
            assert len(set(plan.windows.bucket[plan.order(0)[batch]].tolist())) == 1


@pytest.mark.parametrize("last_batch", ["pad", "drop"])
def test_batches_of_one_size(last_batch: LastBatch) -> None:
    plan = make_plan(last_batch=last_batch)
    given = shares(plan, Topology(3, 1, 4))
    assert {int(size) for share in given for size in share.sizes} == {4}
    counts, num = counted(given), len(plan.windows)
    if last_batch == "pad":
        assert len(counts) == num
        assert sum(counts.values()) == num + sum(share.repeated for share in given) > num
    else:
        assert set(counts.values()) == {1} and num - 3 * 8 <= len(counts) < num


def test_more_slots_than_windows_repeat_some() -> None:
    plan = make_plan(buckets=((9, 3),))
    num, topology = len(plan.windows), Topology(2 * len(plan.windows), 1, 4)
    given = shares(plan, topology)
    assert {len(share.sizes) for share in given} == {1}
    counts = counted(given)
    assert len(counts) == num and sum(share.repeated for share in given) == topology.slots - num


def test_a_window_moves_no_farther_than_the_buffer() -> None:
    plan = make_plan(shuffle_buffer=10)
    share = plan.share(0, (), Topology(1, 1, 1), 0)
    moved = np.arange(len(share.items)) - share.items
    assert 1 < np.abs(moved).max() <= 10


def test_a_buffer_of_one_keeps_the_stored_order() -> None:
    share = make_plan(buckets=((3, 3),), shuffle_buffer=1).share(0, (), Topology(1, 1, 4), 0)
    assert share.items.tolist() == list(range(len(share.items)))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    plan = make_plan()
    first, second = plan.order(0).tolist(), plan.order(1).tolist()
    assert first != second and sorted(first) == sorted(second) == list(range(len(plan.windows)))
    assert make_plan().order(1).tolist() == second
    assert make_plan(seed=6).order(1).tolist() != second


def test_each_part_of_an_epoch_holds_the_domains_in_proportion() -> None:
    plan = make_plan()
    domain = plan.episodes.domain[plan.windows.episode[plan.order(0)]].astype(float)
    halves = np.array_split(domain, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.05 < domain.mean()


def test_weights_are_passes_over_a_domain() -> None:
    plan = make_plan(weights={DOMAINS[0]: 2, DOMAINS[1]: 0.5})
    domain = plan.episodes.domain[plan.windows.episode]
    counts = Counter(plan.order(0).tolist())
    assert {counts[int(i)] for i in np.flatnonzero(domain == 0)} == {2}
    others = [counts[int(i)] for i in np.flatnonzero(domain == 1)]
    assert sum(others) == round(len(others) / 2) and max(others) == 1
    again = Counter(plan.order(1).tolist())
    assert [again[int(i)] for i in np.flatnonzero(domain == 1)] != others


@pytest.mark.parametrize("weights", [{"moon": 1.0}, {DOMAINS[0]: -1.0}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"weights: .*allowed are domains .* number >= 0"):
        make_plan(weights=weights)
    with pytest.raises(ValueError, match="every domain has weight 0"):
        make_plan(weights=dict.fromkeys(DOMAINS, 0.0))


TOPOLOGIES = [Topology(1, 1, 4), Topology(2, 3, 2), Topology(4, 1, 3), Topology(3, 2, 5)]


def had(plan: EpochPlan, leg: Leg, legs: tuple[Leg, ...] = ()) -> Counter[int]:
    """What all ranks got in `leg`: their workers deliver in turns."""
    seen: Counter[int] = Counter()
    for slot, share in enumerate(shares(plan, leg.topology, legs)):
        worker, workers = slot % leg.topology.workers, leg.topology.workers
        seen.update(share.first(len(range(worker, leg.steps, workers))).tolist())
    return seen


@pytest.mark.parametrize(("before", "after"), [*product(TOPOLOGIES, TOPOLOGIES)])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_another_topology_sees_the_rest_exactly_once(
    before: Topology, after: Topology, steps: int
) -> None:
    plan, leg = make_plan(), Leg(before, steps)
    seen = had(plan, leg) + counted(shares(plan, after, (leg,)))
    assert set(seen) == set(range(len(plan.windows)))
    assert set(seen.values()) == {1}


def test_a_third_topology_goes_on_behind_two() -> None:
    plan, first, second = make_plan(), Leg(TOPOLOGIES[1], 4), Leg(TOPOLOGIES[0], 3)
    seen = had(plan, first) + had(plan, second, (first,))
    assert seen.total() > 0 and set(seen.values()) == {1}
    left = counted(shares(plan, TOPOLOGIES[2], (first, second)))
    assert set(seen + left) == set(range(len(plan.windows)))
    assert set((seen + left).values()) == {1}


@pytest.mark.parametrize("last_batch", ["short", "pad", "drop"])
@pytest.mark.parametrize("topology", [*TOPOLOGIES, Topology(8, 4, 1), Topology(99, 3, 2)])
@pytest.mark.parametrize("legs", [(), (Leg(Topology(2, 3, 2), 3),)])
def test_repeats_are_what_the_shares_give_twice(
    last_batch: LastBatch, topology: Topology, legs: tuple[Leg, ...]
) -> None:
    plan = make_plan(last_batch=last_batch)
    given = counted(shares(plan, topology, legs))
    repeats = plan.repeats(0, legs, topology)
    assert repeats == sum(share.repeated for share in shares(plan, topology, legs))
    if last_batch != "drop":
        assert repeats == given.total() - len(given)


@pytest.mark.parametrize(
    ("slots", "batch_size", "repeats"),
    [((8, 4), 1, 23), ((8, 1), 1, 7), ((7, 1), 1, 0), ((1, 5), 1, 4), ((1, 1), 1, 0), ((8, 4), 4, 0)],
)  # fmt: skip
def test_the_repeats_that_the_docs_promise(
    slots: tuple[int, int], batch_size: int, repeats: int
) -> None:
    table = make_table((1001,))
    first = np.arange(1001, dtype=np.int32)  # a window each, as the slow-fast loop takes episodes
    windows = WindowTable(first, 0 * first, 0 * first + 3, np.zeros(1001, dtype=np.uint8), 0)
    plan = EpochPlan(table, windows, seed=1, shuffle_buffer=50)
    assert plan.repeats(0, (), Topology(*slots, batch_size)) == repeats
