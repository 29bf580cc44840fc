"""That the benchmark compares equal things and writes its table; how fast they are is not tested."""

import json

import pytest
import torch

from benchmarks import cpu_unet
from benchmarks.side_by_side import compare, in_turns


def test_both_sides_take_turns_and_the_first_repeat_is_not_counted():
    order = []
    mine, other = in_turns(lambda: order.append("a"), lambda: order.append("b"), repeats=3)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    assert len(mine) == len(other) == 3


def test_the_ratio_says_how_many_times_faster_ours_is(monkeypatch):
    """By a clock that each work moves on by its own seconds."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.side_by_side.perf_counter", lambda: now[0])

    def taking(*seconds):
        left = iter(seconds)

        def work():
            now[0] += next(left)

        return work

    row = compare(taking(90.0, 1.0, 2.0, 3.0), taking(70.0, 8.0, 10.0, 12.0), repeats=3)
    assert row == {
        "ratio": 5.0,
        "low": 4.0,
        "high": 8.0,
        "ours_seconds": 2.0,
        "theirs_seconds": 10.0,
    }


def test_unequal_networks_are_not_compared():
    ours, stock = cpu_unet.pair()
    cpu_unet.check_equal(ours, stock)
    with torch.no_grad():
        ours.unet.conv_out.bias += 0.1
    with pytest.raises(ValueError, match=r"differ in float32: mend sfv\.backbones\.cpu_layers"):
        cpu_unet.check_equal(ours, stock)


def test_only_the_unet_differs():
    ours, stock = cpu_unet.pair()
    assert {type(p).__name__ for p in ours.unet.attn_processors.values()} == {"CPUAttention"}
    assert {type(p).__name__ for p in stock.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    assert ours.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.slow
def test_the_quick_version_writes_its_table(tmp_path, capsys):
    path = tmp_path / "new" / "cpu_unet.json"
    cpu_unet.main(["--quick", "--json", str(path)])
    written = json.loads(path.read_text())
    assert written.keys() == {"ratios", "context"}
    names = ["fast step b1 bf16", "forward b1 bf16", "slow step b4 bf16"]
    assert sorted(written["ratios"]) == sorted(written["context"]["rows"]) == names
    assert all(ratio > 0 for ratio in written["ratios"].values())
    context = written["context"]
    assert (context["repeats"], context["preset"], context["threads"]) == (3, "tiny", 1)
    assert context["torch"] == torch.__version__ and context["cpu"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
