import math

import pytest
import torch
from torch import Tensor

from sfv.metrics.action_following import (
    ActionAccuracy,
    ActionReader,
    Swap,
    chance,
    read_chunks,
    score_swap,
    share_read,
    vote,
)
from sfv.metrics.suite import score_actions, score_swaps
from tests.metrics.scenes import Drift, sliding

LEFT, RIGHT, STAY = "left", "right", "stay"


def test_the_majority_decides_and_mean_probability_breaks_ties() -> None:
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.0, 1.0, 0.0]])
    assert vote(probabilities) == 0
    assert vote(probabilities[1:]) == 1
    assert vote(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.6, 0.0, 0.4]])) == 0


def test_a_chunk_is_read_from_the_pair_that_leads_into_it() -> None:
    video = sliding([(LEFT, 4), (RIGHT, 4), (STAY, 4)])
    spans = [(LEFT, 0, 4), (RIGHT, 4, 8), (STAY, 8, 12)]
    reader = Drift()
    assert read_chunks(video, spans, reader) == [LEFT, RIGHT, STAY]
    assert read_chunks(video, [(RIGHT, 4, 5)], reader) == [RIGHT]
    assert read_chunks(video, [(RIGHT, 7, 8), (STAY, 8, 9)], reader) == [RIGHT, STAY]
    assert read_chunks((video * 255).round().to(torch.uint8), spans, reader) == [LEFT, RIGHT, STAY]
    assert read_chunks(video, [], reader) == []


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((LEFT, 8, 13), "'left' in frames 8 to 13 of a video of 12 frames"),
        ((LEFT, 0, 1), "and a pair of frames to read"),
        (
            ("jump", 0, 4),
            r"'jump' is not known to the reader, which reads \['left', 'right', 'stay'",
        ),
    ],
)
def test_bad_chunks_are_named(span: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_chunks(sliding([(LEFT, 12)]), [span], Drift())


def test_shares_and_chance_against_all_orders() -> None:
    read, asked = [LEFT, LEFT, RIGHT, STAY], [LEFT, RIGHT, RIGHT, RIGHT]
    assert share_read(read, asked) == 0.5
    turned = [share_read(read[k:] + read[:k], asked) for k in range(4)]
    assert chance(read, asked) == pytest.approx(sum(turned) / 4)
    assert math.isnan(share_read([], [])) and math.isnan(chance([], []))


def test_class_averages_videos_and_leaves_out_those_without_chunks() -> None:
    video = sliding([(LEFT, 6), (RIGHT, 6)])
    first, second = ActionAccuracy(Drift()), ActionAccuracy(Drift())
    first.update(video[None], [[(LEFT, 0, 6), (LEFT, 6, 12)]])
    second.update(torch.stack([video, video]), [[(RIGHT, 6, 12)], []])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(0.75)
    assert first.undefined == 1
    assert isinstance(Drift(), ActionReader)


def test_scores_stand_beside_ceiling_and_floor() -> None:
    true = [
        sliding([(LEFT, 4), (RIGHT, 4), (LEFT, 4)]),
        sliding([(STAY, 4), (RIGHT, 4), (STAY, 4)]),
    ]
    asked = [[(LEFT, 0, 4), (RIGHT, 4, 8), (LEFT, 8, 12)], [(RIGHT, 4, 8), (STAY, 8, 12)]]
    made = [sliding([(LEFT, 4), (LEFT, 4), (LEFT, 4)]), true[1]]
    scores = score_actions(made, asked, Drift(), reference=true, context="none")
    assert scores["action_accuracy"].episodes == pytest.approx((2 / 3, 1.0))
    assert scores["action_accuracy_ceiling"].value == 1.0
    assert scores["action_accuracy_floor"].episodes == pytest.approx((2 / 3, 0.5))
    passport = scores["action_accuracy"].passport
    assert (passport.network, passport.context, passport.count) == ("drift", "none", 2)
    with pytest.raises(ValueError, match="episode 1: action 'jump' is not known"):
        score_actions(made, [asked[0], [("jump", 0, 4)]], Drift())


def _swap(made: str, swapped: str, asked: str = LEFT, other: str = RIGHT) -> Swap:
    before = sliding([(STAY, 3)], 40, 44)
    chunks = [_goes_on(before, action) for action in (made, swapped)]
    return Swap(before, asked, other, *chunks)


def _goes_on(before: Tensor, action: str) -> Tensor:
    return sliding([(STAY, 3), (action, 5)], 40, 44)[len(before) :]


def test_a_swap_is_obeyed_or_ignored() -> None:
    obeyed = score_swap(_swap(LEFT, RIGHT), Drift())
    assert (obeyed.obeyed, obeyed.kept, obeyed.read_asked) == (1, 0, 1) and obeyed.change > 0
    ignored = score_swap(_swap(LEFT, LEFT), Drift())
    assert (ignored.obeyed, ignored.kept, ignored.change) == (0, 1, 0)
    lost = score_swap(_swap(STAY, STAY), Drift())
    assert (lost.obeyed, lost.kept, lost.read_asked) == (0, 0, 0)
    with pytest.raises(ValueError, match="both chunks were made under 'left'"):
        score_swap(_swap(LEFT, LEFT, LEFT, LEFT), Drift())


def test_swaps_are_averaged_in_their_episode_first() -> None:
    scores = score_swaps(
        [[_swap(LEFT, RIGHT), _swap(LEFT, LEFT)], [_swap(LEFT, RIGHT)], []], Drift()
    )
    assert scores["swap_obeyed"].value == 0.75
    assert scores["swap_kept"].value == 0.25
    assert scores["swap_read"].value == 1
    assert scores["swap_obeyed"].passport.count == 2
    assert scores["swap_change"].passport.network == "lpips-0.1-alex"
    assert scores["swap_change"].passport.resize == "none"
