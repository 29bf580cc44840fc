import numpy as np
import pytest
import torch

from sfv.data.stages import decode
from sfv.data.windows import Bucket, WindowError, check_buckets, cut, windows
from tests.data.make import CHUNK, TEXTS, latents_sample, make_video, video_sample


def plain_cut(lengths: list[list[int]], buckets: list[Bucket]) -> list[tuple[int, int, int, int]]:
    """(episode, action, start, bucket) by a plain loop."""
    found = []
    for episode, actions in enumerate(lengths):
        begin = 0
        for action, length in enumerate(actions):
            stop, place = begin + length, max(begin, min(b[0] for b in buckets))
            while True:
                fitting = [b for b in buckets if b[0] <= place and place + b[1] <= stop]
                if not fitting:
                    break
                best = max(fitting, key=lambda b: (b[1], b[0]))
                found.append((episode, action, place, buckets.index(best)))
                place += best[1]
            begin = stop
    return found


@pytest.mark.parametrize(
    "buckets", [[(4, 4)], [(4, 4), (1, 3)], [(2, 7), (5, 3), (5, 7), (1, 2)], [(9, 1)]]
)
def test_the_cut_of_an_index_equals_a_plain_loop(buckets: list[Bucket]) -> None:
    rng = np.random.default_rng(3)
    lengths = [rng.integers(1, 15, rng.integers(1, 6)).tolist() for _ in range(40)]
    stops = np.concatenate([np.cumsum(actions) for actions in lengths]).astype(np.int32)
    table = cut(np.array([len(actions) for actions in lengths], dtype=np.int32), stops, buckets)
    columns = (table.episode, table.action, table.start, table.bucket)
    expected = plain_cut(lengths, buckets)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    generated = sum(buckets[b][1] for *_, b in expected)
    assert table.unused_frames + generated <= sum(map(sum, lengths))


def test_frames_that_no_window_generates_are_counted() -> None:
    table = cut(np.array([2], dtype=np.int32), np.array([10, 17], dtype=np.int32), [(2, 3)])
    assert table.start.tolist() == [2, 5, 10, 13] and table.unused_frames == 2 + 1


@pytest.mark.parametrize("buckets", [[], [(3, 3), (3, 3)], [(3, 0)]])
def test_buckets_that_mean_nothing_are_refused(buckets: list[Bucket]) -> None:
    with pytest.raises(WindowError, match=r"allowed is a list of different \[num_context, num_gen"):
        check_buckets(buckets)


def test_a_window_is_context_then_the_actions_frames() -> None:
    sample = latents_sample("a-000", num_chunks=4)
    cut = windows(sample.meta, decode(sample), 2, CHUNK)
    assert [window.key for window in cut] == ["a-000/00003", "a-000/00006", "a-000/00009"]
    assert [window.action for window in cut] == list(TEXTS[1:4])
    times = [(window.frames[0, :, 0, 0] * 16).tolist() for window in cut]
    assert times == [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8], [7, 8, 9, 10, 11]]


def test_video_windows_run_along_the_first_axis() -> None:
    sample = video_sample("a-000", 3)
    first, second = windows(sample.meta, decode(sample), 1, CHUNK)
    video = torch.from_numpy(make_video("a-000", 9)).permute(0, 3, 1, 2)
    assert torch.equal(first.frames, video[2:6]) and torch.equal(second.frames, video[5:9])


def test_a_long_context_leaves_out_the_first_actions() -> None:
    sample = latents_sample("a-000", num_chunks=4)
    cut = windows(sample.meta, decode(sample), 4, CHUNK)
    assert [window.key for window in cut] == ["a-000/00006", "a-000/00009"]


@pytest.mark.parametrize(
    ("num_context", "num_generated", "message"),
    [
        (10, CHUNK, r"'a-000': no window of 10 \+ 3 frames fits \(it has 12 frames in 4 actions"),
        (2, 4, r"no window of 2 \+ 4 frames .*actions of at most 3\); lower"),
        (0, CHUNK, r"buckets are \[\[0, 3\]\]; .*each at least 1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    num_context: int, num_generated: int, message: str
) -> None:
    sample = latents_sample("a-000", num_chunks=4)
    with pytest.raises(WindowError, match=message):
        windows(sample.meta, decode(sample), num_context, num_generated)
