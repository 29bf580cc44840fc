"""The scripts that the pages show run, and say what the pages say."""

import importlib
import re
from pathlib import Path

import pytest


def printed(name, capsys):
    importlib.import_module(f"examples.{name}").main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_tour_learns_every_chunk_of_a_filmed_walk(capsys):
    out = printed("tour", capsys)
    chunks = re.findall(r"^chunk (\d), (\w+ \w+) *: .* down by (\S+), drift (\S+)$", out, re.M)
    assert [int(number) for number, *_ in chunks] == [2, 3, 4, 5]
    assert all(float(gain) > 0 for _, _, gain, _ in chunks)
    drifts = [float(drift) for *_, drift in chunks]
    assert drifts == sorted(drifts) and drifts[0] > 0
    assert "Φ is what it was" in out


def test_the_tour_is_as_long_as_its_page_says():
    source = Path(importlib.import_module("examples.tour").__file__).read_text()
    body = source.partition("\nCHUNK")[2]
    code = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 60


def test_a_codec_of_ones_own_is_saved_and_loaded(capsys, monkeypatch):
    from sfv.models import world_model

    monkeypatch.setattr(world_model, "PARTS", {**world_model.PARTS})
    monkeypatch.setattr(importlib.import_module("examples.own_codec"), "PARTS", world_model.PARTS)
    assert "(1, 3, 2, 8, 8) -> (1, 2, 3, 64, 64)" in printed("own_codec", capsys)


def test_a_backbone_of_ones_own_learns_slowly_and_fast(capsys):
    out = printed("own_backbone", capsys)
    assert float(re.search(r"slow loss after 200 steps: (\S+)", out)[1]) < 1
    gain = re.search(r"down by (\S+), drift (\S+), undone: False", out)
    assert float(gain[1]) > 0 and float(gain[2]) > 0
