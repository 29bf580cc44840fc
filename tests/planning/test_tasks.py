import json
from dataclasses import replace

import pytest

from sfv.planning.sub_goals import FromFile, Script
from sfv.planning.tasks import (
    SubGoal,
    check_sub_goals,
    load_tasks,
    save_tasks,
    shipped,
    sub_goal_from,
)
from tests.planning.make import MOVES, meadow_task, meadow_tasks


@pytest.mark.parametrize("name", ["doom-retrace", "metaworld-return"])
def test_shipped_tasks_are_whole(name):
    found = load_tasks(name)
    assert name in shipped() and len(found.tasks) == 20 and found.chunk_frames == 8
    for task in found.tasks:
        named = [goal.waypoint for goal in task.script if goal.waypoint]
        assert named == [point.name for point in task.waypoints]
        assert any(point.earlier for point in task.waypoints)
        assert [goal.back for goal in task.script] == sorted(goal.back for goal in task.script)


def test_the_way_back_of_doom_leads_to_earlier_places_in_reverse():
    for task in load_tasks("doom-retrace").tasks:
        at = {point.name: point.position for point in task.waypoints}
        assert at["a_again"] == pytest.approx(at["a"], abs=0.01)
        back = [goal.place for goal in task.script if goal.back]
        assert back == list(range(len(back) - 1, -1, -1))


def test_a_file_comes_back_as_it_was_written(tmp_path):
    made = meadow_tasks(tmp_path / "t.json")
    found = load_tasks(str(tmp_path / "t.json"))
    assert found == made and len(found.sha256) == 16


def test_an_edited_file_is_refused(tmp_path):
    path = tmp_path / "t.json"
    meadow_tasks(path)
    content = json.loads(path.read_text())
    content["tasks"][0]["waypoints"][0]["position"] = [0.0, 0.0]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was edited"):
        load_tasks(str(path))


@pytest.mark.parametrize("text", ["[]", "{", '{"format": "sfv.tasks/1"}', '{"format": "other"}'])
def test_what_is_no_file_of_tasks_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=r"t\.json: is no file of tasks") as error:
        load_tasks(str(tmp_path / "t.json"))
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="doom-retrace"):
        load_tasks("nowhere")


def test_tasks_of_one_name_are_refused(tmp_path):
    made = meadow_tasks(tmp_path / "t.json")
    save_tasks(replace(made, tasks=(made.tasks[0], made.tasks[0])), tmp_path / "u.json")
    with pytest.raises(ValueError, match="has 2 tasks, 1 of them"):
        load_tasks(str(tmp_path / "u.json"))


@pytest.mark.parametrize("name", ["../out", "/tmp/x", "a/b", "..", ""])
def test_a_task_that_names_files_elsewhere_is_refused(tmp_path, name):
    made = meadow_tasks(tmp_path / "t.json")
    save_tasks(replace(made, tasks=(replace(made.tasks[0], id=name),)), tmp_path / "u.json")
    with pytest.raises(ValueError, match=r"u\.json: task .* cannot become part of a file's name"):
        load_tasks(str(tmp_path / "u.json"))


@pytest.mark.parametrize(
    ("goals", "fault"),
    [
        ([], "no sub-goals"),
        ([SubGoal("fly")], "'fly' is unknown"),
        ([SubGoal("east"), SubGoal(None, 2)], "sub-goal 1: place 2 lies ahead; allowed: 0 to 1"),
        ([SubGoal("east", waypoint="c")], "waypoint 'c' is unknown"),
    ],
)
def test_sub_goals_that_cannot_be_followed_are_named(goals, fault):
    with pytest.raises(ValueError, match=fault):
        check_sub_goals(goals, meadow_task(), tuple(MOVES))


@pytest.mark.parametrize(
    "content", [{"action": 3}, {"action": None}, {"action": "east", "place": True}]
)
def test_a_sub_goal_of_the_wrong_kind_is_refused(content):
    with pytest.raises(ValueError, match=r"allowed|give one"):
        sub_goal_from(content)


def test_sub_goals_from_a_file(tmp_path):
    path = tmp_path / "goals.json"
    path.write_text(json.dumps({"walk-0": [{"action": "north"}, {"action": None, "place": 0}]}))
    found = FromFile(path).plan(meadow_task(), tuple(MOVES))
    assert found == [SubGoal("north"), SubGoal(None, 0)]
    assert Script().plan(meadow_task(), ()) == list(meadow_task().script)
    with pytest.raises(ValueError, match="task walk-9 is not in it"):
        FromFile(path).plan(meadow_task("walk-9"), ())
