"""Ways out that are shown, and visits with one memory or another."""

import pytest
import torch

from sfv.generation.rollout import Request
from sfv.play.session import Visit
from tests.play.test_session import begin, drive

pytestmark = pytest.mark.slow
KINDS = [("player", "fast"), ("addressed_player", "fast"), ("addressed_player", "temp_lora")]


def walk(player, visit):
    """Show all of the way out."""
    for _ in visit.start.shown:
        visit.add(visit.here, player.make(player.task_to_show(visit, visit.here), lambda _: None))
    return visit.here


@pytest.mark.parametrize(("name", "memory"), KINDS)
def test_what_is_shown_is_learned_as_a_rollout_learns_it(request, starts, name, memory):
    """True frames in both panels, and the chunk after them is the one of `sfv rollout --shown`."""
    player, start = request.getfixturevalue(name), starts[1]
    visit = begin(player, start, memory)
    end = walk(player, visit)
    (number,) = drive(player, visit, "turn right")
    shown = torch.cat(list(start.shown), dim=2)
    for row in ("none", memory):
        wanted = Request("yard", start.latents, start.actions[:3], shown, predict_shown=False)
        chunks = list(player.rollouts[row].stream(wanted))
        assert torch.equal(visit.node(number).made.latents[row], chunks[2].generated)
        for node, true in zip(visit.path(end)[1:], start.shown, strict=True):
            assert node.made.shown and torch.equal(node.made.latents[row], true)
    assert visit.node(end).made.strips["none"] == visit.node(end).made.strips[memory]
    assert visit.node(end).made.learned.loss == chunks[1].learned.loss
    assert visit.node(end).made.memory.header.num_chunks == 2


@pytest.mark.parametrize(("name", "memory"), KINDS)
def test_going_back_into_the_way_and_on_equals_going_on(request, starts, name, memory):
    """Each node keeps the memory of then, whatever was made since."""
    player = request.getfixturevalue(name)
    visit = begin(player, starts[1], memory)
    walk(player, visit)
    (first,) = drive(player, visit, "turn right")
    visit.rewind(1)
    (other,) = drive(player, visit, "turn right")
    visit.rewind(2)
    again = player.make(player.task(visit, 2, "turn right"), lambda _: None)
    first, other = visit.node(first).made, visit.node(other).made
    assert torch.equal(again.latents[memory], first.latents[memory])
    assert not torch.equal(again.latents[memory], other.latents[memory])
    for name, tensor in first.memory.weights.items():
        assert torch.equal(again.memory.weights[name], tensor)


def test_without_memory_one_panel_is_made_and_it_is_the_first(player, starts):
    plain, both = (begin(player, starts[1], memory) for memory in ("none", "fast"))
    for visit in (plain, both):
        walk(player, visit)
        drive(player, visit, "turn right")
    (made, other) = (visit.node(3).made for visit in (plain, both))
    assert (plain.rows, both.rows) == (("none",), ("none", "fast"))
    assert list(made.strips) == ["none"] and made.strips["none"] == other.strips["none"]
    assert made.memory is made.learned is None
    assert list(player.memories.items()) == [("fast", "temp_lora"), ("none", None)]


def test_a_model_with_an_address_offers_both_kinds_of_memory(addressed_player, starts):
    kinds = {"fast": "addressed", "temp_lora": "temp_lora", "none": None}
    assert addressed_player.memories == kinds
    root = addressed_player.begin(starts[0], b"", "fast")
    held = sum(4 * t.numel() for t in root.memory.weights.values())
    assert addressed_player.num_memory_bytes(starts[0]) >= held


def test_what_cannot_be_shown_is_refused(player, starts):
    visit = begin(player, starts[0])
    with pytest.raises(ValueError, match="the way out of this start has 0 chunks"):
        player.task_to_show(visit, 0)
    visit = Visit(starts[1], visit.node(0).made, 9)
    walk(player, visit)
    with pytest.raises(ValueError, match="has 2 chunks; all have been shown"):
        player.task_to_show(visit, 2)
