import shutil
from dataclasses import replace

import numpy as np
import pytest

from data_tools.files import encode_mp4
from sfv.data.episodes import episodes
from sfv.data.shards import Sample, write_shards
from sfv.evaluation.benchmark.spec import BenchmarkError, find_benchmark
from sfv.evaluation.benchmark.walks import chosen_parts, load_walks
from tests.evaluation.benchmark.make import make_frames, make_walk


def test_walks_come_part_by_part_with_their_turn(made_up):
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-20", "return-12"])
    assert [walk.meta.id for walk in walks][:5] == [
        *(f"return-12-0{i}" for i in range(4)),
        "return-20-00",
    ]
    walk = walks[4]
    np.testing.assert_array_equal(walk.video.permute(0, 2, 3, 1).numpy(), make_frames(walk.meta))
    assert (walk.turn, walk.first_chunk, len(walk.video)) == (12, 4, 20)
    assert walk.revisits[0] == (10, 12) and len(walk.revisits) == 8


def test_revisits_whose_first_visit_is_generated_do_not_count(made_up):
    (walk, *_) = load_walks(find_benchmark(str(made_up)), made_up, ["return-12"])
    pairs = ((1, 3), (walk.turn, walk.turn + 1), (2, walk.turn))
    assert replace(walk, meta=replace(walk.meta, revisits=pairs)).revisits == [(2, walk.turn)]


def test_lengths_and_kinds_choose_parts(made_up):
    benchmark = find_benchmark(str(made_up))
    assert chosen_parts(benchmark, [300]) == ["return-20"]
    assert chosen_parts(benchmark) == ["return-12", "return-20"]
    doom = find_benchmark("doom-return")
    assert chosen_parts(doom, [100, 300], ["return"]) == ["return-104", "return-296"]
    assert chosen_parts(doom, None, "loop") == ["loop-152", "loop-296", "loop-1000"]
    with pytest.raises(BenchmarkError, match=r"no walks of kind fly; allowed: \['loop', 'return'"):
        chosen_parts(doom, None, ["return", "fly"])
    with pytest.raises(BenchmarkError, match=r"no walks of length 200; allowed: \[100, 300\]"):
        chosen_parts(benchmark, [100, 200])


def test_missing_data_tell_the_command_that_makes_them(tmp_path):
    with pytest.raises(BenchmarkError) as caught:
        load_walks(find_benchmark("doom-return"), tmp_path / "d", ["return-104"])
    assert f"`python -m data_tools.benchmark doom-return --out={tmp_path / 'd'}`" in str(
        caught.value
    )


def changed(made_up, folder, change):
    """A copy of the data in which the first walk was changed, its manifest not."""
    shutil.copytree(made_up, folder)
    shutil.rmtree(folder / "test")
    samples = [make_walk(meta.id) for meta, _ in episodes(made_up / "test")]
    write_shards(change(samples), folder / "test", "test")
    return folder


def other_pose(samples):
    first = samples[0]
    poses = ((7.0, 7.0, 7.0, 7.0), *first.meta.poses[1:])
    return [Sample(replace(first.meta, poses=poses), first.payload), *samples[1:]]


def other_pixel(samples):
    frames = make_frames(samples[0].meta)
    frames[3, 1, 1, 1] ^= 1
    return [Sample(samples[0].meta, encode_mp4(frames, 8.0)), *samples[1:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_pose, "return-12-00 is another walk than the manifest's"),
        (other_pixel, "the walk of episode return-12-00 is right, but its pictures differ"),
        (lambda samples: samples[1:], r"lacks 1 of made-up 1's 6 episodes \(return-12-00\)"),
    ],
)
def test_changed_data_are_refused(made_up, tmp_path, change, said):
    folder = changed(made_up, tmp_path / "changed", change)
    with pytest.raises(BenchmarkError, match=said):
        load_walks(find_benchmark(str(folder)), folder, ["return-12"])
