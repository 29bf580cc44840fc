import os
import pickle

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy

from sfv.training.checkpoints import (
    META,
    make_room,
    newest_checkpoint,
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
    put_in_place(path)
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
    with pytest.raises(pickle.UnpicklingError):
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
    path.replace(root / ".newest.ckpt.spare")  # cut between two renames
    assert read_meta(newest_checkpoint(tmp_path))["number"] == 1
    assert make_room(path) == part and not part.exists()
    assert read_meta(path)["number"] == 1, "put back before the next save"
    save(path, 3)
    assert read_meta(newest_checkpoint(tmp_path))["number"] == 3
    assert [entry.name for entry in root.iterdir()] == ["newest.ckpt"]


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
