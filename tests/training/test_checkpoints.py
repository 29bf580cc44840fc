import os
import pickle
import re
import struct

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy

from sfv.training.attempts import FencedCheckpointIO, claim
from sfv.training.checkpoints import (
    META,
    check_sums,
    keep_previous,
    make_room,
    newest_checkpoint,
    previous_of,
    put_in_place,
    read_meta,
    read_shards,
    write_shards,
)
from sfv.training.fit import check_strategy
from sfv.training.sharded_strategy import ShardedStrategy
from sfv.training.state_names import (
    flat_names,
    flat_optimizer,
    named,
    numbered,
    optimizer_state,
    split_names,
)
from tests.training.make import make_trainer

WEIGHTS = {"a.b/c": torch.arange(6.0).view(2, 3), "step": torch.tensor(4.0)}


def save(path, number=0):
    """A finished checkpoint folder."""
    part = make_room(path)
    write_shards(part, WEIGHTS)
    torch.save({"number": number}, part / META)
    put_in_place(part, path)
    return path


def read(path):
    found = {name: torch.zeros_like(value) for name, value in WEIGHTS.items()}
    read_shards(path, found)
    return found


def test_shards_come_back(tmp_path):
    found = read(save(tmp_path / "newest.ckpt"))
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_a_tensor_of_another_shape_or_name_is_refused(tmp_path):
    path = save(tmp_path / "newest.ckpt")
    with pytest.raises(ValueError, match=r"a.b/c is \(2, 3\) there and \(3, 2\) here. Use the pre"):
        read_shards(path, {"a.b/c": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"d is absent there and \(3, 2\) here"):
        read_shards(path, {"d": torch.zeros(3, 2)})


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return (os.system, (self.command,))


def test_a_folder_that_somebody_hands_us_runs_no_code(tmp_path):
    path, proof = save(tmp_path / "newest.ckpt"), tmp_path / "ran"
    evil = pickle.dumps(Evil(f"touch {proof}"))
    index = (path / ".metadata").read_bytes()
    for damaged in (evil, index[:40], b""):
        (path / ".metadata").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"metadata is damaged or was not .* nothing in it was"
        ):
            read(path)
    (path / ".metadata").write_bytes(index)
    torch.save({"x": Evil(f"touch {proof}")}, path / META)
    with pytest.raises(ValueError, match=r"newest\.ckpt is damaged or was not .*meta\.pt: "):
        read_meta(path)
    assert not proof.exists()
    pickle.loads(evil)
    assert proof.exists(), "the trap itself works"


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    root = tmp_path / "checkpoints"
    assert newest_checkpoint(tmp_path) is None
    root.mkdir()
    for name, when in (("old.ckpt", 100), ("new.ckpt", 200)):
        (root / name).write_bytes(b"")
        os.utime(root / name, (when, when))
    (root / "half.ckpt").mkdir()
    (root / "half.ckpt" / "__0_0.distcp").write_bytes(b"")
    assert newest_checkpoint(tmp_path) == root / "new.ckpt"
    save(root / "shards.ckpt")
    os.utime(root / "shards.ckpt" / META, (300, 300))
    assert newest_checkpoint(tmp_path) == root / "shards.ckpt"
    os.utime(root / "shards.ckpt" / META, (150, 150))
    assert newest_checkpoint(tmp_path) == root / "new.ckpt"


def test_a_save_that_is_cut_anywhere_leaves_a_complete_checkpoint(tmp_path, monkeypatch):
    root = tmp_path / "checkpoints"
    path = save(root / "newest.ckpt", 1)
    write_shards(make_room(path), WEIGHTS)  # cut before the last file
    assert read_meta(newest_checkpoint(tmp_path))["number"] == 1
    part = make_room(path)
    write_shards(part, WEIGHTS)
    torch.save({"number": 2}, part / META)
    keep_previous(path)  # cut between two renames
    assert read_meta(newest_checkpoint(tmp_path))["number"] == 1
    assert make_room(path) == part and not part.exists()
    save(path, 3)
    assert read_meta(newest_checkpoint(tmp_path))["number"] == 3
    assert read_meta(previous_of(path))["number"] == 1
    os.utime(previous_of(path) / META)  # as copying may leave it
    assert newest_checkpoint(tmp_path) == path
    assert len(list(root.iterdir())) == 2


def test_an_attempt_that_was_thought_dead_writes_to_a_folder_of_its_own(tmp_path):
    path = tmp_path / "newest.ckpt"
    old, new = make_room(path, 1), make_room(path, 2)
    for part, number in ((new, 2), (old, 1)):
        write_shards(part, {"a": torch.tensor(float(number))})
    torch.save({"number": 2}, new / META)
    put_in_place(new, path)
    found = {"a": torch.zeros(())}
    read_shards(path, found)
    assert found["a"] == 2


CHECKPOINT = {"state_dict": WEIGHTS, "optimizer_states": [{"state": {0: {"m": torch.ones(3)}}}]}


@pytest.mark.parametrize("before", ["file", "folder"])
def test_a_file_takes_the_place_of_a_file_or_a_folder_which_stays_as_the_one_before(
    tmp_path, before
):
    """A sharded run that goes on in one process saves files where it had folders."""
    io, path = FencedCheckpointIO(claim(tmp_path)), tmp_path / "checkpoints" / "newest.ckpt"
    if before == "folder":
        save(path)
    else:
        io.save_checkpoint(CHECKPOINT, path)
    for step in range(2):
        assert previous_of(path).is_dir() == (step == 1 and before == "folder")
        io.save_checkpoint({**CHECKPOINT, "global_step": step}, path)
    assert io.load_checkpoint(path)["global_step"] == 1
    assert io.load_checkpoint(previous_of(path))["global_step"] == 0
    assert newest_checkpoint(tmp_path) == path


def flipped(content):
    place = content.index(struct.pack("<3f", 1.0, 2.0, 3.0))
    return content[: place + 3] + bytes([content[place + 3] ^ 64]) + content[place + 4 :]


DAMAGES = {
    "cut": lambda content: content[: len(content) * 2 // 3],
    "empty": lambda content: b"",
    "text": lambda content: b"<html>404</html>" * 9,
    "flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_the_one_before_is_offered(tmp_path, damage):
    io, path = FencedCheckpointIO(None), tmp_path / "checkpoints" / "newest.ckpt"
    io.save_checkpoint(CHECKPOINT, path)
    path.write_bytes(damage(path.read_bytes()))
    message = rf"^checkpoint {path} is damaged or was not written by sfv \(.*\); "
    with pytest.raises(ValueError, match=message + "no earlier one is left: begin again"):
        io.load_checkpoint(path)
    path.unlink()
    io.save_checkpoint({**CHECKPOINT, "global_step": 1}, path)
    io.save_checkpoint({**CHECKPOINT, "global_step": 2}, path)
    path.write_bytes(damage(path.read_bytes()))
    offer = rf"to go on from the one before, {previous_of(path)}, remove .* \(rm -r {path}\)"
    with pytest.raises(ValueError, match=message + offer) as caught:
        io.load_checkpoint(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    assert io.load_checkpoint(newest_checkpoint(tmp_path))["global_step"] == 1


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "sums-00000.json", META])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
def test_a_damaged_folder_is_named_with_its_file(tmp_path, name, damage):
    path = save(tmp_path / "newest.ckpt")
    torch.save({"param_groups": []}, path / META)
    if damage == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes(DAMAGES[damage]((path / name).read_bytes()))
    if (damage, name) == ("missing", "sums-00000.json"):  # as those of older versions
        check_sums(path)
        return
    with pytest.raises(ValueError, match=rf"newest\.ckpt is damaged .*{re.escape(name)}"):
        check_sums(path)
        read_meta(path)


def test_a_flipped_bit_in_shards_is_found(tmp_path):
    path = save(tmp_path / "newest.ckpt")
    shards = path / "__0_0.distcp"
    shards.write_bytes(flipped(shards.read_bytes()))
    with pytest.raises(ValueError, match=r"__0_0\.distcp has another checksum"):
        check_sums(path)
    check_sums(path, part=0, parts=2)  # the index; the other process looks at the shards


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        ("state_dict/w", {"state_dict": {"w": torch.tensor([1.0, torch.nan])}}),
        ("averaged_state/w", {"averaged_state": {"w": torch.tensor(torch.inf)}}),
        (
            "optimizer_states/0/state/3/m",
            {"optimizer_states": [{"state": {3: {"m": torch.tensor([-torch.inf])}}}]},
        ),
    ],
)
def test_a_checkpoint_that_is_not_finite_is_neither_written_nor_read(tmp_path, place, bad):
    io, path = FencedCheckpointIO(None), tmp_path / "newest.ckpt"
    fine = {**CHECKPOINT, "callbacks": {"best": torch.tensor(torch.inf)}}
    io.save_checkpoint(fine, path)
    message = rf"1 of \d numbers of {place} are NaN or infinite"
    with pytest.raises(
        ValueError, match=rf"newest\.ckpt of slow step None is not written: {message}"
    ):
        io.save_checkpoint(bad, path)
    assert io.load_checkpoint(path).keys() == fine.keys()
    torch.save(bad, path)
    with pytest.raises(ValueError, match=rf"newest\.ckpt is damaged .*{message}"):
        io.load_checkpoint(path)


def test_an_optimizers_state_keeps_its_weights_under_all_names():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = torch.optim.Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 1.0}])
    (weights[0] + 2 * weights[2]).sum().backward()  # one has no state
    optimizer.step()
    state = optimizer.state_dict()
    by_name = named(state, ["x.y", "b", "a/c"])
    assert by_name["param_groups"][1]["params"] == ["b", "a/c"] and by_name["state"].keys() == {
        "x.y",
        "a/c",
    }
    flat = flat_names("weights", {"w": weights[1]}) | flat_optimizer(0, by_name)
    back = optimizer_state(split_names(flat), 0, by_name["param_groups"])
    assert numbered(back) == state
    assert split_names(flat)["weights"].keys() == {"w"}


def test_strategies_that_could_not_save_are_refused():
    check_strategy(make_trainer(1, strategy=ShardedStrategy(), devices=2))
    check_strategy(make_trainer(1, strategy="ddp", devices=2))
    with pytest.raises(ValueError, match=r"strategy is ModelParallelStrategy; .*ShardedStrategy"):
        check_strategy(make_trainer(1, strategy=ModelParallelStrategy(), devices=2))
    trainer = make_trainer(1, [EMAWeightAveraging()], strategy=ShardedStrategy(), devices=2)
    with pytest.raises(ValueError, match=r"cannot average shards; .* sfv.training.ema.EMA"):
        check_strategy(trainer)
