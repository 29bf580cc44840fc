import pytest
import torch

from sfv.models.inverse_dynamics import InverseDynamics, InverseReader
from sfv.planning.environment import Environment
from sfv.planning.episode import Player, PlaySettings
from sfv.planning.imagination import TrueImagination
from sfv.planning.tasks import SubGoal
from sfv.rng import stream
from tests.planning.make import CHUNK, MOVES, Meadow, meadow_task

BEHIND = (SubGoal(None, 1, "place_1", True), SubGoal(None, 0, "origin", True))


class Told(TrueImagination):
    """The engine's imagination, which notes what it was told."""

    def __init__(self, world):
        super().__init__(world)
        self.told = []

    def keep(self, action, imagined, seen):
        self.told.append((action, None if seen is None else seen.clone()))
        return super().keep(action, imagined, seen)


def play(goals=None, world=None, randomly=False, task=None, **settings):
    world, task = world or Meadow(), task or meadow_task()
    dreams = Told(world)
    player = Player(world, dreams, None, PlaySettings(**settings), randomly)
    return player.play(task, goals or task.script, "e"), dreams


def test_the_toy_world_follows_the_protocol():
    assert isinstance(Meadow(), Environment)


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_the_script_reaches_every_way_point(loop):
    played, dreams = play(loop=loop)
    assert [x for x, _ in played.positions] == [4.0, 6.0, 8.0, 6.0, 4.0]
    assert played.reached == {
        "a": (6.0, 0.0), "b": (8.0, 0.0), "place_1": (6.0, 0.0), "origin": (4.0, 0.0),
    }  # fmt: skip
    assert played.steps == 4 * CHUNK and not played.limited and played.right == [True, True]
    assert [seen is None for _, seen in dreams.told] == [loop == "open"] * 4
    assert torch.equal(torch.cat(played.imagined), torch.cat(played.real))


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_places_alone_are_found_by_imagining(loop):
    goals = (*meadow_task().script[:2], *BEHIND)
    played, _ = play(goals, loop=loop, method="imagine")
    assert played.chosen == ["east", "east", "west", "west"]
    assert played.reached["origin"] == (4.0, 0.0) and played.right == []


def test_places_alone_need_imagining():
    goals = (*meadow_task().script[:2], *BEHIND)
    with pytest.raises(ValueError, match=r"method act needs one"):
        play(goals)


def test_the_scripts_action_is_not_given_away_when_places_are_imagined():
    goals = (*meadow_task().script[:2], SubGoal("north", 1, "", True))
    played, _ = play(goals, method="imagine")
    assert played.chosen[2] == "west" and played.right == [False]


def test_looking_ahead_moves_nothing():
    world = Meadow()
    world.begin({"x": 3.0})
    dreams = TrueImagination(world)
    dreams.begin("e", torch.zeros(1, 3, 4, 4), None)
    ends = [chunk.state for chunk in dreams.imagine(world.actions)]
    assert ends == [(5.0, 0.0), (1.0, 0.0), (3.0, 2.0)] and world.save() == (3.0, 0.0)


def test_in_an_open_loop_the_engine_imagines_from_what_it_imagined():
    world = Meadow()
    world.begin({"x": 3.0})
    dreams = TrueImagination(world)
    dreams.begin("e", torch.zeros(1, 3, 4, 4), None)
    (chunk,) = dreams.imagine(["east"])
    dreams.keep("east", chunk, None)
    assert dreams.imagine(["east"])[0].state == (7.0, 0.0)
    dreams.keep("east", chunk, torch.zeros(2, 3, 4, 4))
    assert dreams.imagine(["east"])[0].state == (5.0, 0.0)


@pytest.mark.parametrize("match", ["mse", "lpips"])
def test_the_likest_end_is_the_place_itself(match):
    looks = torch.rand(3, 3, 64, 64, generator=stream(0, "looks"))
    world = Meadow()
    player = Player(world, TrueImagination(world), None, PlaySettings(match=match))
    unlike = player._unlike(looks, looks[1])
    assert unlike.argmin() == 1 and unlike[1] < 1e-5 < unlike[0]


def test_steps_are_read_pair_by_pair_or_by_majority():
    net = InverseDynamics(tuple(MOVES), side=16, widths=(8,), hidden=8, seed=1)
    video = torch.rand(8, 3, 16, 16, generator=stream(0, "read"))
    reader, world = InverseReader(net), Meadow()

    def read(how):
        player = Player(world, TrueImagination(world), reader, PlaySettings(read=how))
        return player._read(video)

    logits, changes = reader.read(video)
    each = [tuple(MOVES)[int(i)] for i in logits.argmax(dim=1)]
    assert [step.action for step in read("pair")] == each and len(set(each)) > 1
    majority = {step.action for step in read("chunk")}
    assert majority == {max(set(each), key=each.count)}
    assert [step.change for step in read("chunk")] == [tuple(c) for c in changes.tolist()]


def test_the_time_limit_ends_an_episode_within_a_chunk():
    played, dreams = play(max_steps=2 * CHUNK + 1)
    assert played.steps == 5 and played.limited and len(played.chosen) == 3
    assert len(dreams.told) == 2 and "origin" not in played.reached
    assert played.reached["place_1"] == (7.0, 0.0) == played.positions[-1]
    assert [len(chunk) for chunk in played.real] == [len(c) for c in played.imagined] == [2, 2, 1]


def test_a_shown_way_out_is_looked_at_and_not_planned():
    played, dreams = play(way_out="shown", loop="open")
    assert [seen is None for _, seen in dreams.told] == [False, False, True, True]
    assert len(played.imagined) == 2 and played.reached["a"] == (6.0, 0.0)


def test_random_choices_come_from_the_seed_alone():
    first, again = play(randomly=True)[0], play(randomly=True)[0]
    assert first.chosen == again.chosen and len(set(first.chosen)) > 1
    assert first.chosen != ["east", "east", "west", "west"]


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"max_steps": 0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="allowed: 1 or more"):
        PlaySettings(**settings)
