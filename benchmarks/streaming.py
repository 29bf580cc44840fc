"""Streaming windows of video from shards, against the decode bound and against other loaders.

python -m benchmarks.streaming [--quick] --json FILE

Doom walks are collected into video shards first (seconds). Every side reads the same episodes in this
process, decodes with the same PyAV code and delivers every window of an epoch in shuffled batches of 4.
LitData and torchcodec are measured where they are installed (`pip install --no-deps litdata`; torchcodec
needs the release made for the torch at hand, and FFmpeg's libraries).
"""

import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.side_by_side import Work, arguments, compare, machine, write_table
from data_tools.collect import doom
from data_tools.write_shards import pack
from sfv.data.datamodule import WindowMaker
from sfv.data.index import ShardIndex
from sfv.data.library import Library
from sfv.data.plan import EpochPlan, Leg, Topology
from sfv.data.schema import from_json
from sfv.data.shards import Sample, read_shard
from sfv.data.stages import collate, decode, decode_mp4
from sfv.data.stream import BatchStream
from sfv.data.windows import Bucket, Window, cut_table, windows

EPISODES, QUICK_EPISODES, CHUNKS, SIZE = 48, 6, 26, 64
BUCKET: Bucket = (8, 8)
BATCH, BUFFER = 4, 512
REPEATS, QUICK_REPEATS = 7, 2


def collect(folder: Path, episodes: int) -> ShardIndex:
    """Walks of 208 frames in shards of about eight."""
    walks = folder / "walks"
    doom.main(
        [
            f"--out={walks}",
            f"--episodes={episodes}",
            f"--chunks={CHUNKS}",
            f"--size={SIZE}",
            "--workers=1",
        ]
    )
    return pack([walks], folder / "shards", max_bytes=15_000_000)["train"]


def read_all(index: ShardIndex) -> list[Sample]:
    return [s for shard in index.shards for s in read_shard(index.folder / shard.name, shard)]


def stream_of(index: ShardIndex, buffer: int = BUFFER) -> BatchStream[Any]:
    library = Library([index])
    table = cut_table(library.table, [BUCKET])
    plan = EpochPlan(library.table, table, shuffle_buffer=buffer)
    return BatchStream(library, plan, WindowMaker(table, (BUCKET,)), Topology(1, 1, BATCH))


def ours(index: ShardIndex) -> Work:
    """One epoch of `sfv.data`: read, decode, cut, shuffle, batch."""
    stream = stream_of(index)
    return lambda: sum(len(batch["keys"]) for batch in stream)


def decode_bound(samples: Sequence[Sample]) -> Work:
    """Nothing but decoding the same bytes, which lie in memory already."""
    return lambda: sum(len(decode_mp4(sample.payload)) for sample in samples)


def batches(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    """What users of plain loaders write: decode, cut, a shuffle buffer, batches."""
    draw = np.random.default_rng(0)
    held: list[Window] = []
    ready: list[Window] = []
    for sample in samples:
        held += windows(sample.meta, decode(sample), *BUCKET)
        while len(held) > BUFFER:
            ready.append(held.pop(int(draw.integers(len(held)))))
            if len(ready) == BATCH:
                yield dict(collate(ready))
                ready = []
    ready += [held[i] for i in draw.permutation(len(held))]
    for start in range(0, len(ready), BATCH):
        yield dict(collate(ready[start : start + BATCH]))


def plain_webdataset(index: ShardIndex) -> Work:
    """WebDataset's own reader in front of the same decoder."""
    urls = [str(index.folder / shard.name) for shard in index.shards]

    def samples() -> Iterator[Sample]:
        for found in webdataset.WebDataset(urls, shardshuffle=len(urls)):
            yield Sample(from_json(found["json"]), found["mp4"])

    return lambda: sum(len(batch["keys"]) for batch in batches(samples()))


def lit_data(samples: Sequence[Sample], folder: Path) -> Work:
    """LitData's chunks of the same bytes in front of the same decoder."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    from sfv.data.schema import to_json

    folder.mkdir(exist_ok=True)
    writer = BinaryWriter(str(folder), chunk_bytes="15MB")
    for i, sample in enumerate(samples):
        writer[i] = {"json": to_json(sample.meta), "mp4": sample.payload}
    writer.done()
    writer.merge()
    dataset = StreamingDataset(str(folder), shuffle=True)

    def stored() -> Iterator[Sample]:
        for found in dataset:
            yield Sample(from_json(found["json"]), found["mp4"])

    return lambda: sum(len(batch["keys"]) for batch in batches(stored()))


def torchcodec(samples: Sequence[Sample]) -> Work:
    """The same episodes decoded whole by torchcodec, one thread."""
    from torchcodec.decoders import VideoDecoder

    def work() -> int:
        return sum(
            len(VideoDecoder(s.payload, num_ffmpeg_threads=1, seek_mode="approximate")[:])
            for s in samples
        )

    return work


def resume(index: ShardIndex, replay: bool) -> Work:
    """The first batch behind nine tenths of an epoch: by its place, or by going through all before."""
    whole = stream_of(index)
    skip = len(whole) * 9 // 10
    list(islice(whole, skip))
    state = whole.state_dict()

    def work() -> object:
        stream = stream_of(index)
        if not replay:
            stream.load_state_dict(state)
            return next(iter(stream))
        return next(islice(iter(stream), skip, None))

    return work


def peak_megabytes(index: ShardIndex, buffer: int) -> float:
    """Most memory that decoded episodes take at once in an epoch, 10^6 bytes."""
    stream = stream_of(index, buffer)
    most = 0
    for _ in stream:
        most = max(most, sum(frames.nbytes for _, frames in stream.library.needed()))
    return most / 1e6


def index_of_many(num: int) -> dict[str, float]:
    """Start-up on an index of `num` synthetic videos over num / 100 shards: seconds, megabytes."""
    from time import perf_counter

    from sfv.data.table import EpisodeTable

    counts = np.full(num, 26, dtype=np.int32)
    table = EpisodeTable(
        shard=np.repeat(np.arange(num // 100, dtype=np.int32), 100),
        begin=np.arange(num) * 10**6,
        end=np.arange(num) * 10**6 + 10**6,
        domain=(np.arange(num) % 5).astype(np.uint8),
        num_actions=counts,
        action_stop=np.tile(np.arange(1, 27, dtype=np.int32) * 8, num),
    )
    tracemalloc.start()
    began = perf_counter()
    plan = EpochPlan(table, cut_table(table, [(8, 8), (1, 7)]), shuffle_buffer=4096)
    share = plan.share(0, (), Topology(64, 4, 2), 17)
    seconds, (_, peak) = perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "videos": num, "windows": len(plan.windows), "windows of one slot": len(share.items),
        "seconds": round(seconds, 2), "peak_megabytes": round(peak / 1e6, 1),
    }  # fmt: skip


def resume_matrix(index: ShardIndex) -> dict[str, str]:
    """Windows seen of those expected when an epoch is cut after a third and goes on elsewhere."""
    plan = stream_of(index).plan
    sizes = [(1, 1), (2, 2), (4, 1), (3, 5), (8, 4)]
    found = {}
    for before, after in product(sizes, sizes):
        old, new = Topology(*before, BATCH), Topology(*after, BATCH)
        leg = Leg(old, plan.steps(0, (), old) // 3)
        seen: Counter[int] = Counter()
        for slot in range(old.slots):
            turns = leg.batches_of(slot % old.workers)
            seen.update(plan.share(0, (), old, slot).first(turns).tolist())
        for slot in range(new.slots):
            seen.update(plan.share(0, (leg,), new, slot).items.tolist())
        twice = seen.total() - len(seen)
        found[f"{before} to {after}"] = f"{len(seen)} of {len(plan.windows)}, {twice} twice"
    return found


def cases(
    index: ShardIndex, samples: list[Sample], folder: Path
) -> dict[str, tuple[Callable[[], Work], ...]]:
    """Pairs (ours, theirs), built when they are measured."""
    made: dict[str, tuple[Callable[[], Work], ...]] = {
        "against the decode bound": (lambda: ours(index), lambda: decode_bound(samples)),
        "against plain WebDataset": (lambda: ours(index), lambda: plain_webdataset(index)),
        "resume against replay": (lambda: resume(index, False), lambda: resume(index, True)),
    }
    if find_spec("litdata"):
        made["against LitData"] = (lambda: ours(index), lambda: lit_data(samples, folder / "lit"))
    if find_spec("torchcodec"):
        made["PyAV against torchcodec"] = (
            lambda: decode_bound(samples),
            lambda: torchcodec(samples),
        )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Collect, measure, write the table."""
    options = arguments(__doc__, argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = collect(folder, QUICK_EPISODES if options.quick else EPISODES)
        samples = read_all(index)
        repeats = QUICK_REPEATS if options.quick else REPEATS
        rows = {
            title: compare(mine(), theirs(), repeats)
            for title, (mine, theirs) in cases(index, samples, folder).items()
        }
        context = {
            **machine(),
            "repeats": repeats,
            "episodes": len(samples),
            "bytes": sum(len(sample.payload) for sample in samples),
            "windows": len(stream_of(index).plan.windows),
            "memory_megabytes": {b: peak_megabytes(index, b) for b in (1, 64, 512)},
            "resume_matrix": resume_matrix(index),
            "many": index_of_many(20_000 if options.quick else 200_000),
        }
    write_table(options.json, rows, context)
    print({key: context[key] for key in ("memory_megabytes", "many")})


if __name__ == "__main__":
    main()
