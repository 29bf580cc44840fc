"""That all sides deliver the same windows and the benchmark writes its table; speed is not tested."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import streaming
from sfv.data.shards import write_shards
from tests.data.make import video_sample

pytestmark = pytest.mark.slow


def test_a_plain_loader_delivers_the_same_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "BUCKET", (3, 3))
    monkeypatch.setattr(streaming, "BUFFER", 5)
    samples = [video_sample(f"e-{i}", 3 + i) for i in range(4)]
    index = write_shards(samples, tmp_path, "train", max_bytes=2 * len(samples[0].payload))
    plain = Counter(k for batch in streaming.batches(iter(samples)) for k in batch["keys"])
    mine = Counter(k for batch in streaming.stream_of(index) for k in batch["keys"])
    assert plain == mine and set(mine.values()) == {1}
    num = len(mine)
    assert streaming.ours(index)() == streaming.plain_webdataset(index)() == num
    assert streaming.decode_bound(samples)() == sum(s.meta.num_frames for s in samples)


def test_the_benchmark_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "find_spec", lambda name: None)
    streaming.main(["--quick", "--json", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table["ratios"]) == {
        "against the decode bound", "against plain WebDataset", "resume against replay",
    }  # fmt: skip
    assert table["context"]["windows"] == 6 * 25
    matrix = table["context"]["resume_matrix"]
    assert len(matrix) == 25 and set(matrix.values()) == {"150 of 150, 0 twice"}
    assert table["context"]["many"]["windows"] == 20_000 * 26
