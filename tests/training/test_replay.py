import pytest
import torch

from sfv.training.attempts import StaleAttempt, claim
from sfv.training.replay import Replay, ReplayItem, SlowBatch, collate, plan_batches


def items_of(num, width=5):
    return [
        ReplayItem(torch.full((1, 2, 3, 4, width), float(i)), f"a{i}", f"e/{i}", torch.zeros(6))
        for i in range(num)
    ]


def keys(items, batches):
    return [items[i].key for batch in batches for i in batch.items]


def plan(items, size=1, order="shuffled", share=0.0, seed=1, group=1):
    return plan_batches(items, size, order, share, seed, group)


def test_the_shuffled_order_is_a_function_of_seed_and_group():
    items = items_of(9)
    order = keys(items, plan(items))
    assert sorted(order) == [item.key for item in items]
    assert order == keys(items, plan(items)) != keys(items, plan(items, group=2))
    assert order != keys(items, plan(items, seed=2))


def test_the_chronological_order_is_that_of_learning():
    items = items_of(5)
    assert [b.items for b in plan(items, 2, "chronological")] == [(0, 1), (2, 3), (4,)]


def test_a_batch_holds_latents_of_one_size_and_every_item_comes_once():
    items = [*items_of(3), *items_of(4, width=7)]
    batches = plan(items, 2)
    assert sorted(i for b in batches for i in b.items) == list(range(7))
    assert sorted(len(b.items) for b in batches) == [1, 2, 2, 2]
    for batch in batches:
        assert len({items[i].latents.shape for i in batch.items}) == 1


def test_a_share_of_the_batches_is_plain():
    shares = [sum(b.plain for b in plan(items_of(400), share=s)) / 400 for s in (0.0, 0.25, 1.0)]
    assert shares[0] == 0.0 and shares[2] == 1.0
    assert 0.2 < shares[1] < 0.3


def fill(replay, group, num=3):
    replay.begin(group)
    for place in reversed(range(num)):  # courses of a batch are not learned in the replay's order
        theta = torch.arange(6) + place / 3
        replay.put(
            place, torch.full((1, 2, 3, 4, 5), float(place)), f"a{place}", f"e/{place}", theta
        )


@pytest.mark.parametrize("store", ["float32", "bfloat16", "disk"])
def test_a_saved_group_comes_back_exactly(tmp_path, store):
    replay, again = Replay(tmp_path, store), Replay(tmp_path, store)
    replay.rank = again.rank = 3
    fill(replay, 7)
    replay.save()
    again.load(7)
    assert [item.key for item in again.items] == ["e/0", "e/1", "e/2"]
    for item, other in zip(replay.items, again.items, strict=True):
        assert item.action == other.action
        assert torch.equal(item.latents, other.latents)
        assert item.theta().dtype == torch.float32
        assert torch.equal(item.theta(), other.theta())
    exact = torch.equal(again.items[1].theta(), torch.arange(6) + 1 / 3)
    assert exact == (store != "bfloat16")
    torch.testing.assert_close(again.items[1].theta(), torch.arange(6) + 1 / 3, rtol=1e-2, atol=0)


def test_what_ram_holds_of_a_memory(tmp_path):
    sizes = {}
    for store in ("float32", "bfloat16", "disk"):
        replay = Replay(tmp_path / store, store)
        fill(replay, 1)
        kept = [i.memory for i in replay.items if isinstance(i.memory, torch.Tensor)]
        sizes[store] = sum(tensor.nbytes for tensor in kept)
    assert sizes == {"float32": 3 * 24, "bfloat16": 3 * 12, "disk": 0}
    assert not (tmp_path / "float32").exists(), "nothing is written before a checkpoint asks for it"


def groups(folder):
    return sorted(int(path.name[-8:]) for path in (folder / "rank-00000").iterdir())


@pytest.mark.parametrize("store", ["float32", "disk"])
def test_the_files_of_the_newest_checkpoints_stay(tmp_path, store):
    replay = Replay(tmp_path, store, keep=2)
    for group in (1, 2, 3):
        fill(replay, group)
        replay.save()
        replay.save()
    assert groups(tmp_path) == [3], "two checkpoints were made on it"
    fill(replay, 4)
    replay.save()
    fill(replay, 5)
    assert groups(tmp_path) == ([3, 4, 5] if store == "disk" else [3, 4])


def test_a_group_that_is_not_there_says_what_to_do(tmp_path):
    replay = Replay(tmp_path, "disk")
    fill(replay, 4)  # items, but no index: the phase was cut off
    with pytest.raises(FileNotFoundError, match=r"group-00000004 is not there.*keep_replays"):
        Replay(tmp_path, "disk").load(4)


def test_files_of_a_run_that_was_cut_off_are_not_taken_for_new_ones(tmp_path):
    old, new, read = (Replay(tmp_path) for _ in range(3))
    fill(old, 2, num=3)
    old.save()
    fill(new, 2, num=1)
    new.save()
    read.load(2)
    assert len(read) == 1


def test_a_batch_has_its_memories_unless_it_is_plain():
    items = items_of(3)
    batch = collate(items, SlowBatch((2, 0)), 3)
    assert batch["keys"] == ["e/2", "e/0"] and batch["actions"] == ["a2", "a0"]
    assert batch["latents"][:, 0, 0, 0, 0].tolist() == [2.0, 0.0]
    assert batch["num_context"] == 3 and batch["memory"].shape == (2, 6)
    assert collate(items, SlowBatch((1,), plain=True), 3)["memory"] is None


def test_an_attempt_that_was_overtaken_removes_and_replaces_no_replay(tmp_path):
    """Stopped, overtaken, woken: the newer attempt's checkpoint still has its replay."""
    first = claim(tmp_path)
    old = Replay(tmp_path / "replay", keep=1, check=first.check)
    fill(old, 1)
    old.save()
    fill(old, 2)
    second = claim(tmp_path)
    new = Replay(tmp_path / "replay", keep=1, check=second.check)
    new.load(1)
    for act in (old.save, old._prune, lambda: old.begin(1), lambda: old.begin(3)):
        with pytest.raises(StaleAttempt):
            act()
    disk = Replay(tmp_path / "replay", "disk", check=first.check)
    with pytest.raises(StaleAttempt):
        disk.put(0, torch.zeros(1, 2, 3, 4, 5), "a", "e/0", torch.zeros(6))
    new.save()
    Replay(tmp_path / "replay").load(1)
    assert groups(tmp_path / "replay") == [1]


def test_going_on_keeps_the_replay_of_the_checkpoint_before(tmp_path):
    """Which is what is left when the newest one is damaged."""
    replay = Replay(tmp_path, "disk")
    for group in (1, 2, 3):
        fill(replay, group)
        replay.save()
    again = Replay(tmp_path, "disk")
    again.load(2)  # the newer checkpoint was lost
    again.begin(3)
    assert groups(tmp_path) == [2]
    for group in (3, 4):
        fill(again, group)
        again.save()
    last = Replay(tmp_path, "disk")
    last.load(4)
    last.begin(5)
    assert groups(tmp_path) == [3, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", b"{", r"index\.json is damaged"),
        ("index.json", b"[]", r"index\.json is damaged"),
        ("index.json", b'{"items": 2}', r"group-00000001 holds 3 items, its index\.json says 2"),
        ("item-00001.safetensors", b"", r"item-00001\.safetensors is truncated"),
        ("item-00002.safetensors", None, r"holds 2 items, its index\.json says 3"),
    ],
)
def test_a_damaged_replay_is_named(tmp_path, name, content, message):
    replay = Replay(tmp_path)
    fill(replay, 1)
    replay.save()
    path = tmp_path / "rank-00000" / "group-00000001" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Replay(tmp_path).load(1)
