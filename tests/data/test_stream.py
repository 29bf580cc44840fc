import functools
import http.server
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import webdataset

from sfv.data.datamodule import EpisodeDataModule
from sfv.data.index import ShardError, find_shards
from sfv.data.plan import Topology
from sfv.data.shards import write_shards
from sfv.data.sources import ShardSource
from sfv.data.stream import BatchStream
from tests.data.make import CHUNK, latents_sample

NUM_EPISODES = 11
LENGTHS = [3 + i % 4 for i in range(NUM_EPISODES)]
NUM_WINDOWS = sum(LENGTHS) - NUM_EPISODES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    samples = [
        latents_sample(f"e-{i:03d}", LENGTHS[i], number=float(i)) for i in range(NUM_EPISODES)
    ]
    write_shards(samples, folder, "train", 3 * len(samples[0].payload))
    return folder


def make_stream(folder: Any, ranks: int = 1, rank: int = 0, **settings: Any) -> BatchStream[Any]:
    settings = {"batch_size": 2, "shuffle_buffer": 12, "seed": 3} | settings
    module = EpisodeDataModule(folder, num_context=CHUNK, num_generated=CHUNK, **settings)
    stream = module.train_dataloader()
    topology = Topology(ranks, stream.topology.workers, stream.topology.batch_size)
    return BatchStream(
        stream.library, stream.plan, stream.make, topology, rank, stream.num_workers,
        stream.max_skipped_share, restart=stream.restart,
    )  # fmt: skip


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["keys"]]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_saved_place_goes_on_with_the_very_next_batch(folder: Path, workers: int) -> None:
    whole = make_stream(str(folder), num_workers=workers)
    expected = [keys([batch]) for _ in range(2) for batch in whole]
    first = make_stream(str(folder), num_workers=workers)
    for stop in (1, 4, len(first), len(first) + 3):
        first = make_stream(str(folder), num_workers=workers)
        given: list[Any] = []
        while len(given) < stop:
            given += islice(first, stop - len(given))
        second = make_stream(str(folder), num_workers=workers)
        second.load_state_dict(first.state_dict())
        assert len(second) == len(whole)
        assert [keys([batch]) for batch in [*given, *second]] == expected[
            : stop + len(whole) - stop % len(whole)
        ]


@pytest.mark.parametrize(
    ("before", "after"), [((2, 0), (1, 0)), ((1, 0), (3, 0)), ((3, 0), (2, 0))]
)
def test_other_ranks_get_the_rest_of_the_epoch(
    folder: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    seen: list[str] = []
    states = []
    for rank in range(before[0]):
        stream = make_stream(str(folder), before[0], rank)
        seen += keys(islice(stream, 2))
        states.append(stream.state_dict())
    assert all(state == states[0] for state in states)
    lengths = set()
    for rank in range(after[0]):
        stream = make_stream(str(folder), after[0], rank)
        stream.load_state_dict(states[0])
        batches = list(stream)
        lengths.add(len(batches))
        seen += keys(batches)
    assert len(lengths) == 1
    counts = Counter(seen)
    assert len(counts) == NUM_WINDOWS and set(counts.values()) == {1}


@pytest.mark.slow
def test_other_workers_get_the_rest_of_the_epoch(folder: Path) -> None:
    first = make_stream(str(folder), num_workers=3)
    seen = keys(islice(first, 5))
    second = make_stream(str(folder), num_workers=2)
    second.load_state_dict(first.state_dict())
    counts = Counter(seen + keys(second))
    assert len(counts) == NUM_WINDOWS and set(counts.values()) == {1}


def test_the_state_is_small_and_plain(folder: Path) -> None:
    stream = make_stream(str(folder))
    list(islice(stream, 3))
    state = stream.state_dict()
    assert state["epoch"] == 0 and state["legs"] == [[1, 1, 2, 3]]
    assert len(repr(state)) < 200


def test_a_place_in_other_data_is_refused(folder: Path) -> None:
    state = make_stream(str(folder)).state_dict()
    with pytest.raises(ValueError, match=r"place in the data means nothing here.*init_from"):
        make_stream(str(folder), seed=4).load_state_dict(state)


def damaged(folder: Path, to: Path, count: int) -> Path:
    """Copy shards and spoil the latents of the first `count` episodes."""
    index = find_shards(folder)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.suffix == ".tar":
            rows = [i for i in range(count) if index.shards[index.table.shard[i]].name == path.name]
            for row in rows:
                place = content.index(b"\x93NUMPY", int(index.table.begin[row]))
                content[place : place + 6] = b"broken"
        (to / path.name).write_bytes(bytes(content))
    return to


def test_unreadable_episodes_are_counted_and_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = make_stream(str(damaged(folder, tmp_path, 2)), max_skipped_share=0.5, batch_size=1)
    with caplog.at_level(logging.WARNING, logger="sfv.data"):
        batches = list(stream)
    lost = sum(LENGTHS[:2]) - 2
    assert stream.skipped.windows == lost and len(stream.skipped.samples) == 2
    assert len(set(keys(batches))) == NUM_WINDOWS - lost
    assert len(batches) == len(stream)
    named = [r.getMessage() for r in caplog.records if r.getMessage().startswith("skipped: ")]
    assert len(named) == 2 and all("train-000000.tar, byte" in text for text in named)
    assert all("unreadable latents" in text for text in named)
    assert stream.state_dict()["skipped_windows"] == lost


def test_too_many_unreadable_episodes_stop_the_run(folder: Path, tmp_path: Path) -> None:
    stream = make_stream(str(damaged(folder, tmp_path, 4)), max_skipped_share=0.1)
    with pytest.raises(
        ShardError, match=r"windows of this epoch cannot be read, .*0\.1: .*check_sh"
    ):
        list(stream)


@pytest.mark.parametrize("seed", [3, 4])
def test_shards_come_through_a_pipe(folder: Path, seed: int) -> None:
    source = ShardSource(str(folder), f"pipe:cat {folder}/{{shard}}")
    piped = make_stream([source], seed=seed)
    assert [keys([b]) for b in piped] == [keys([b]) for b in make_stream(str(folder), seed=seed)]


def test_a_pipe_that_fails_is_named(folder: Path) -> None:
    source = ShardSource(str(folder), "pipe:head -c 100 /dev/zero # {shard}")
    with pytest.raises(ShardError, match=r"pipe:head .*train-00000"):
        list(make_stream([source]))
    with pytest.raises(ValueError, match=r"allowed is 'pipe:COMMAND' with \{shard\}"):
        ShardSource(str(folder), "cat {shard}")


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves files, and ranges of them where `ranges` is set."""

    ranges = True

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not self.ranges or not path.is_file():
            return super().do_GET()
        begin, last = map(int, wanted.groups())
        content = path.read_bytes()[begin : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def served(folder: Path, ranges: bool) -> Iterator[str]:
    handler = functools.partial(type("Handler", (Files,), {"ranges": ranges}), directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_shards_come_from_a_url(folder: Path) -> None:
    with served(folder, ranges=True) as url:
        assert keys(make_stream(url)) == keys(make_stream(str(folder)))
        with pytest.raises(ShardError, match=r"nothing/index\.json: cannot be read"):
            make_stream(f"{url}/nothing")
    with (
        served(folder, ranges=False) as url,
        pytest.raises(ShardError, match="the server knows no ranges: read through a command"),
    ):
        list(make_stream(url))


def test_webdataset_itself_reads_the_shards(folder: Path) -> None:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"e-{i:03d}" for i in range(NUM_EPISODES)]
    assert {"json", "latents.npy"} <= set(found[0])


@pytest.mark.parametrize("bad", [[0, 1], [4], [2, 3, 10]])
def test_a_run_stopped_beside_an_unreadable_batch_goes_on_as_if_it_had_not(
    folder: Path, tmp_path: Path, bad: list[int]
) -> None:
    index = find_shards(folder)
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        for row in [i for i in bad if index.shards[index.table.shard[i]].name == path.name]:
            content[content.index(b"\x93NUMPY", int(index.table.begin[row]))] = 0
        (tmp_path / path.name).write_bytes(bytes(content))
    settings = {"max_skipped_share": 1, "batch_size": 1, "shuffle_buffer": 1}
    whole = make_stream(str(tmp_path), **settings)
    expected = [keys([batch]) for batch in whole]
    assert whole.skipped.windows == whole.skipped.repeats == sum(LENGTHS[i] - 1 for i in bad)
    for stop in range(len(expected)):
        first, second = (make_stream(str(tmp_path), **settings) for _ in range(2))
        given = [keys([batch]) for batch in islice(first, stop)]
        second.load_state_dict(first.state_dict())
        assert given + [keys([batch]) for batch in second] == expected
        assert second.skipped.repeats == whole.skipped.repeats


def test_nothing_readable_at_all_is_an_error(folder: Path, tmp_path: Path) -> None:
    stream = make_stream(str(damaged(folder, tmp_path, NUM_EPISODES)), max_skipped_share=1)
    with pytest.raises(
        ShardError, match=r"nothing of 64 batches can be read: .*unreadable latents"
    ):
        list(stream)


def test_windows_that_come_twice_are_counted_and_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [make_stream(str(folder), ranks=4, rank=rank, batch_size=1) for rank in range(4)]
    with caplog.at_level(logging.WARNING, logger="sfv.data"):
        given = Counter(key for _ in range(2) for stream in streams for key in keys(stream))
    repeats = -NUM_WINDOWS % 4
    assert repeats and {stream.repeats for stream in streams} == {repeats}
    assert given.total() == 2 * (NUM_WINDOWS + repeats)
    (told,) = [r.getMessage() for r in caplog.records]
    assert told.startswith(f"{repeats} of {NUM_WINDOWS} windows come twice in this epoch")
    state = streams[0].state_dict()
    del state["repeated_windows"]  # as an older version wrote it
    streams[0].load_state_dict(state)
