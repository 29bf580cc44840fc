import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_tools.collect import libero
from data_tools.collect.libero_engine import INSTALL, Goal, goal_of, require_libero
from data_tools.collect.libero_film import grip_of, name_of
from data_tools.collect.runner import MissingEngine, collect
from data_tools.files import find_episodes
from data_tools.language import phrases
from sfv.data.schema import SchemaError

SETTINGS = libero.Settings("train", "libero_object", (0, 1), 64, 2, 0)


@pytest.mark.parametrize(
    ("state", "goal"),
    [
        ([["in", "milk_1", "basket_1_contain_region"]], Goal("in", "milk_1", "basket_1")),
        ([["On", "akita_black_bowl_1", "plate_1"]], Goal("on", "akita_black_bowl_1", "plate_1")),
        ([["turnon", "flat_stove_1"]], None),
        ([["on", "a_1", "b_1"], ["on", "c_1", "b_1"]], None),
    ],
)
def test_a_goal_of_one_thing_is_read(state: list[list[str]], goal: Goal | None) -> None:
    assert goal_of(state) == goal


def test_names_become_words() -> None:
    assert name_of("alphabet_soup_1") == "alphabet soup"
    assert name_of("akita_black_bowl_2") == "black bowl"
    for text in ("carry the alphabet soup to the basket", "place the black bowl on the plate"):
        assert len(phrases(text)) > 2


def test_a_bowl_is_taken_at_its_rim() -> None:
    box, bowl = (grip_of(Goal("on", thing, "plate_1"), 0.3, 2) for thing in ("box_1", "bowl_1"))
    assert box.at(np.zeros(3)) == (0.0, 0.0, 0.0)
    assert bowl.at(np.zeros(3))[1] > 0.03
    assert grip_of(Goal("on", "box_1", "plate_1"), 0.3, 4).close_frames * 4 >= 12


def test_held_out_tasks_and_starts_stand_in_the_test_split_alone() -> None:
    assert libero.tasks_of("train") == tuple(range(8)) and len(libero.tasks_of("test")) == 10
    starts = [start for split in libero.STARTS.values() for start in split]
    assert sorted(starts) == list(range(50))


def test_episodes_take_tasks_in_turn() -> None:
    found = [(SETTINGS.task_of(i), SETTINGS.start_of(i)) for i in range(4)]
    assert found == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert len({SETTINGS.episode_id(i) for i in range(80)}) == 80
    with pytest.raises(SchemaError, match=r"2 tasks have 40 starts each .* at most 80"):
        SETTINGS.episode_id(80)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": (9,)}, "--tasks 9: not a task of --split train; its tasks: "),
        ({"size": 63}, "--size 63"),
        ({"every": 3}, "--every 3: allowed are"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_missing_libero_gives_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_tools.collect.libero_engine.find_spec", lambda name: None)
    assert libero.main(["--out", str(tmp_path / "new")]) == 2
    assert INSTALL in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_task_is_filmed(tmp_path: Path) -> None:
    try:
        require_libero()
    except MissingEngine as error:
        pytest.skip(str(error))
    collect(SETTINGS, tmp_path, 1)
    ((meta, _),) = find_episodes([tmp_path])
    assert meta.actions[-1].raw["success"]
    assert "carry the alphabet soup to the basket" in [action.text for action in meta.actions]
