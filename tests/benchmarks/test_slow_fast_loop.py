"""That both sides of the table train on as much; how long they take is not tested."""

import json

import pytest
import pytorch_lightning as pl

from benchmarks import slow_fast_loop


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loop_and_plain_learning_take_equally_many_steps(monkeypatch, tmp_path, batch_size):
    trainers = []
    make = slow_fast_loop.make_trainer

    def noted(steps: int, folder: object) -> pl.Trainer:
        trainers.append((make(steps, folder), steps))
        return trainers[-1][0]

    monkeypatch.setattr(slow_fast_loop, "make_trainer", noted)
    monkeypatch.setattr(slow_fast_loop, "SIZE", 2)
    monkeypatch.setattr(slow_fast_loop, "FRAMES", 1)
    size = slow_fast_loop.Size(2, 2, 1)
    settings = slow_fast_loop.replace(slow_fast_loop.SETTINGS, slow_batch_size=batch_size)
    slow_fast_loop.loop(size, settings, tmp_path)()
    slow_fast_loop.plain(size, batch_size, tmp_path)()
    wanted = -(-4 // batch_size)
    assert [(t.global_step, steps) for t, steps in trainers] == [(wanted, wanted)] * 2


@pytest.mark.slow
def test_the_quick_table_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(slow_fast_loop, "SIZE", 2)
    slow_fast_loop.main(["--quick", "--json", str(tmp_path / "x.json")])
    written = json.loads((tmp_path / "x.json").read_text())
    assert len(written["ratios"]) == 3
    stores = written["context"]["stores"]
    sizes = [stores[name]["ram_bytes_of_a_theta"] for name in ("float32", "bfloat16", "disk")]
    assert sizes[0] == 2 * sizes[1] > 0 == sizes[2]
