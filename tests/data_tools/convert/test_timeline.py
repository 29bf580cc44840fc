import pytest

from data_tools.convert.recording import Details, Samples, Span
from data_tools.convert.timeline import Layout, Stretch, lay_out, within

FPS = 10


def cut(spans, duration=2.0, samples=(), **changes):
    layout = Layout(**{"fps": FPS, "chunk_frames": 4, "min_chunks": 1, **changes})
    return lay_out(Details(tuple(Span(*span) for span in spans), samples), duration, layout)


def said(stretch: Stretch):
    return [(a.text, stretch.first + a.start, stretch.first + a.stop) for a in stretch.actions]


def test_an_action_that_starts_inside_another_interrupts_it():
    (stretch,), left_out = cut([("stir", 0.0, 2.0), ("take salt", 0.4, 1.2)])
    assert said(stretch) == [
        ("stir", 0, 4), ("take salt", 4, 8), ("take salt", 8, 12), ("stir", 12, 16), ("stir", 16, 20),
    ]  # fmt: skip
    assert left_out == {}


def test_order_in_the_file_does_not_matter_but_the_later_start_does():
    spans = [("a", 0.0, 1.2), ("b", 0.8, 2.0)]
    assert cut(spans)[0] == cut(spans[::-1])[0]
    assert [text for text, *_ in said(cut(spans)[0][0])] == ["a", "a", "b", "b", "b"]


def test_time_without_an_action_splits_and_is_counted():
    stretches, left_out = cut([("a", 0.0, 0.8), ("b", 1.1, 2.0)])
    assert [said(s) for s in stretches] == [
        [("a", 0, 4), ("a", 4, 8)],
        [("b", 11, 15), ("b", 15, 19)],
    ]
    assert left_out == {
        "frames without an action": 3,
        "frames after a stretch's last whole chunk": 1,
    }


def test_time_without_an_action_can_be_filled():
    (stretch,), left_out = cut([("a", 0.8, 1.2)], filler="look around")
    assert [text for text, *_ in said(stretch)] == ["look around", "look around", "a"] + 2 * [
        "look around"
    ]
    assert stretch.first == 0 and left_out == {}


def test_a_chunk_gets_the_action_with_most_frames_and_of_equals_the_later():
    (stretch,), _ = cut([("a", 0.0, 0.3), ("b", 0.3, 0.6), ("c", 0.6, 0.8)], duration=0.8)
    assert [text for text, *_ in said(stretch)] == ["a", "c"]


def test_an_action_that_gets_no_chunk_is_counted():
    _, left_out = cut([("a", 0.0, 2.0), ("blink", 0.5, 0.6)])
    assert left_out == {"actions that are no chunk's longest": 1}


def test_short_stretches_are_left_out_and_counted():
    stretches, left_out = cut([("a", 0.0, 0.5), ("b", 1.0, 2.0)], min_chunks=2)
    assert [said(s) for s in stretches] == [[("b", 10, 14), ("b", 14, 18)]]
    assert left_out == {
        "frames without an action": 5,
        "frames after a stretch's last whole chunk": 3,
        "frames of stretches with too few chunks": 4,
        "actions that are no chunk's longest": 1,
    }


def test_long_stretches_become_several_episodes():
    stretches, left_out = cut([("a", 0.1, 2.0)], max_chunks=2, min_chunks=1)
    assert [(s.first, s.num_frames) for s in stretches] == [(1, 8), (9, 8)]
    assert left_out["frames after a stretch's last whole chunk"] == 3


def test_the_videos_end_cuts_and_drops_actions():
    (stretch,), left_out = cut([("a", 0.0, 1.0), ("b", 1.0, 9.0), ("c", 2.0, 3.0)])
    assert stretch.num_frames == 20
    assert left_out == {"actions beyond the video's end": 1, "actions cut at the video's end": 1}


@pytest.mark.parametrize(
    "span", [("a", 1.0, 1.0), ("a", 1.0, 0.5), (" ", 0.0, 1.0), ("a", -2.0, -1.0)]
)
def test_actions_without_length_or_text_are_counted(span):
    stretches, left_out = cut([span, ("b", 0.0, 2.0)])
    assert {a.text for s in stretches for a in s.actions} == {"b"}
    assert left_out == {"actions without a length or a text": 1}


def test_no_action_at_all_gives_nothing():
    assert cut([]) == ([], {"frames without an action": 20})
    assert cut([], duration=0.0) == ([], {})


def test_float_noise_moves_no_frame():
    """A float32 time stamp of frame 7, 0.7 s, is 0.69999999 or 0.70000005."""
    for noise in (-3e-8, 3e-8):
        (stretch,), _ = cut([("a", 0.7 + noise, 1.5 + noise)], duration=1.5 + noise)
        assert (stretch.first, stretch.num_frames) == (7, 8)


def test_samples_are_those_that_lead_to_the_frames():
    times = tuple(i / 20 for i in range(40))
    samples = Samples("keys", times, tuple(range(40)))
    assert within(samples, 4, 8, FPS) == [6, 7, 8, 9, 10, 11, 12, 13]
    assert within(samples, 0, 2, FPS) == [0, 1]
    (stretch,), _ = cut([("a", 0.0, 2.0, {"id": 3})], samples=(samples,))
    kept = [number for action in stretch.actions for number in action.raw["samples"]["keys"]]
    assert kept == list(range(38)), "each once; what follows the last frame leads to none"
    assert stretch.actions[0].raw["annotation"] == {"id": 3}


def test_text_is_put_on_one_line():
    (stretch,), _ = cut([("turn \n  left ", 0.0, 2.0)])
    assert stretch.actions[0].text == "turn left" and stretch.actions[0].raw is None
