import numpy as np
import pytest

from data_tools.cutting import CutSettings, in_chunks, piece_meta, pieces, resample, source_rate
from sfv.data.objects import SceneObject
from sfv.data.schema import Action, SchemaError, validate
from sfv.media.fit import fit_frame
from tests.data.make import make_meta


def at(rate: float, count: int) -> np.ndarray:
    return 7.5 + np.arange(count) / rate


@pytest.mark.parametrize(
    ("rate", "count", "fps"), [(30, 301, 8), (8, 40, 8), (24, 100, 10), (5, 9, 12)]
)
def test_each_new_frame_is_the_nearest_in_time(rate: float, count: int, fps: float) -> None:
    times = at(rate, count)
    picked = resample(times, fps)
    assert len(picked) == int((count - 1) / rate * fps + 1e-6) + 1
    for new, old in enumerate(picked):
        distance = np.abs(times - (times[0] + new / fps))
        assert distance[old] == pytest.approx(distance.min(), abs=1e-9)


def test_an_uneven_clock_is_followed() -> None:
    times = np.array([0, 0.1, 0.2, 0.9, 1.0, 1.1, 2.0])
    assert resample(times, 2).tolist() == [0, 2, 4, 5, 6]


def test_no_piece_spans_a_cut_or_breaks_a_limit() -> None:
    settings = CutSettings(min_frames=4, max_frames=10)
    planned, left_out = pieces(at(8, 50), [13, 16, 40], 8, settings)
    assert [(p[0], p[-1]) for p in planned] == [(0, 9), (16, 25), (26, 35), (36, 39), (40, 49)]
    assert left_out == 3 + 3  # the rest of the first shot, and the second


def test_pieces_hold_whole_chunks() -> None:
    settings = CutSettings(min_frames=4, max_frames=11, chunk_frames=4)
    planned, left_out = pieces(at(8, 30), [15], 8, settings)
    assert [(p[0], p[-1]) for p in planned] == [(0, 7), (8, 11), (15, 22), (23, 26)]
    assert left_out == 30 - 24


def test_actions_poses_and_revisits_follow_the_frames() -> None:
    poses = tuple((float(i), 0.0, 0.0, 0.0) for i in range(12))
    meta = make_meta(poses=poses, revisits=((2, 6), (4, 8), (0, 11)))
    piece = np.array([2, 4, 6, 8])
    cut = piece_meta(meta, piece, 3)
    assert cut.id == "a-000-0003" and cut.num_frames == 4
    assert [(a.text, a.start, a.stop) for a in cut.actions] == [
        ("walk forward", 0, 1), ("turn left", 1, 2), ("walk backward", 2, 4),
    ]  # fmt: skip
    assert cut.poses == (poses[2], poses[4], poses[6], poses[8])
    assert cut.revisits == ((0, 2), (1, 3))
    validate(cut)


def test_actions_of_one_text_stay_apart() -> None:
    twice = (Action("turn left", 0, 3, {"a": 1}), Action("turn left", 3, 12, {"a": 2}))
    cut = piece_meta(make_meta(actions=twice), np.arange(1, 7), 0)
    assert [(a.raw, a.start, a.stop) for a in cut.actions] == [({"a": 1}, 0, 2), ({"a": 2}, 2, 6)]


def test_a_repeated_frame_counts_once_as_a_revisit() -> None:
    cut = piece_meta(make_meta(revisits=((0, 2),)), np.array([0, 0, 1, 1, 2, 2]), 0)
    assert cut.revisits == ((0, 4),)
    assert [(a.start, a.stop) for a in cut.actions] == [(0, 6)]


def test_a_chunk_takes_the_action_of_most_frames() -> None:
    actions = (Action("a", 0, 5), Action("b", 5, 7), Action("c", 7, 12))
    chunks = in_chunks(actions, 4)
    assert [(a.text, a.start, a.stop) for a in chunks] == [("a", 0, 4), ("b", 4, 8), ("c", 8, 12)]


def test_crop_keeps_the_middle_and_averages() -> None:
    frame = np.zeros((8, 20, 3), dtype=np.uint8)
    frame[:, 6:10], frame[:, 10:14] = 100, 200
    frame[1::2] += 20
    small = fit_frame(frame, 4, 4, "crop")
    assert small.shape == (4, 4, 3)
    assert (small[:, :2] == 110).all() and (small[:, 2:] == 210).all()


def test_pad_keeps_all_of_the_frame() -> None:
    frame = np.full((8, 32, 3), 90, dtype=np.uint8)
    small = fit_frame(frame, 16, 16, "pad")
    assert (small[6:10] == 90).all() and (small[:6] == 0).all() and (small[10:] == 0).all()


def test_a_frame_of_the_wanted_size_is_untouched() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for fit in ("crop", "pad"):
        assert np.array_equal(fit_frame(frame, 16, 24, fit), frame)


def test_small_frames_grow() -> None:
    frame = np.full((9, 16, 3), 7, dtype=np.uint8)
    assert fit_frame(frame, 32, 32, "crop").shape == (32, 32, 3)
    assert fit_frame(frame, 32, 32, "pad")[16, 16, 0] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_frames": 9, "max_frames": 8}, "--min-frames 9 --max-frames 8"),
        ({"chunk_frames": 1000}, "--chunk-frames 1000"),
        ({"height": 8, "width": 64}, "--size 8 64: at least 16"),
        ({"height": 64}, "give height and width"),
        ({"fps": 0.5}, "--fps 0.5"),
        ({"cut_threshold": -1.0}, "--cut-threshold -1.0"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        CutSettings(**change)


def test_things_follow_the_frames() -> None:
    boxes = tuple((i, 0, i + 1, 1) for i in range(12))
    puck = SceneObject("puck", None, boxes, ((0.0, 0.0, 1.0), None) * 6, ((4, 2), (11, 2)))
    (cut,) = piece_meta(make_meta(objects=(puck,)), np.arange(2, 10, 2), 0).objects
    assert cut.boxes == (boxes[2], boxes[4], boxes[6], boxes[8]) and cut.without == ((1, 0),)
    assert cut.places == ((0.0, 0.0, 1.0),) * 4


def test_a_frame_that_is_held_lasts_until_it_is_left() -> None:
    times = np.arange(10) / 10
    assert len(resample(times, 10, stop=1.0)) == 10
    assert len(resample(times, 10, stop=5.9)) == 59
    assert resample(times, 10, stop=5.9)[-1] == 9
    slides = np.array([0.0, 0.1, 3.0, 3.1])  # two shots; the last frame of the first is held
    planned, left_out = pieces(slides, [2], 10, CutSettings(min_frames=1), stop=3.2)
    assert [len(piece) for piece in planned] == [30, 2] and left_out == 0


@pytest.mark.parametrize(
    ("times", "stated", "rate"),
    [
        (np.arange(20) / 10, 10.0, 10.0),
        (np.arange(20) / 10, 20 / 6.9, 10.0),  # the last frame is held for five seconds
        (np.arange(20) * 1001 / 30000, 30000 / 1001, 30000 / 1001),
        (np.arange(20) / 12.5, None, 12.5),
        (np.zeros(1), 5.0, 5.0),
        (np.zeros(1), None, None),
    ],
)
def test_the_rate_is_that_of_the_time_stamps(times, stated, rate) -> None:
    assert source_rate(times, stated) == pytest.approx(rate)
