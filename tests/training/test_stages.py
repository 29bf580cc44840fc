import json

import pytest

from sfv.demo.stages import Pipeline, Stage


class Log:
    """Stages that write a file and remember that they ran."""

    def __init__(self):
        self.ran = []

    def stage(self, name, needs=(), fail=None, **settings):
        def run(part):
            self.ran.append(name)
            (part / "made.txt").write_text(json.dumps(settings))
            if fail is not None:
                raise fail

        return Stage(name, f"make {name}", settings, run, needs)


def quiet(_):
    pass


def run(folder, *stages):
    pipeline = Pipeline(folder, quiet)
    return [pipeline.run(stage) for stage in stages]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("disk on fire")])
def test_an_interrupted_stage_leaves_nothing_under_its_name_and_is_redone(tmp_path, error):
    log = Log()
    with pytest.raises(type(error)):
        run(tmp_path, log.stage("first"), log.stage("second", fail=error))
    assert (tmp_path / "first" / "made.txt").exists()
    assert not (tmp_path / "second").exists()
    (tmp_path / "second.part" / "left-over.txt").write_text("half a file")
    run(tmp_path, log.stage("first"), log.stage("second"))
    assert log.ran == ["first", "second", "second"]
    assert [p.name for p in (tmp_path / "second").iterdir()] == ["made.txt"]
    assert not (tmp_path / "second.part").exists()


def test_an_interrupted_stage_keeps_the_result_of_its_other_settings(tmp_path):
    """A stage that is redone replaces the old folder only when it is whole."""
    log = Log()
    run(tmp_path, log.stage("first", steps=1))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, log.stage("first", steps=2, fail=KeyboardInterrupt()))
    assert json.loads((tmp_path / "first" / "made.txt").read_text()) == {"steps": 1}
    run(tmp_path, log.stage("first", steps=1))
    assert log.ran == ["first", "first"], "the old result still counts for the old settings"


def test_finished_stages_are_kept_and_say_so(tmp_path):
    log, said = Log(), []
    run(tmp_path, log.stage("first", steps=1))
    pipeline = Pipeline(tmp_path, said.append)
    folder = pipeline.run(log.stage("first", steps=1))
    assert folder == tmp_path / "first"
    assert log.ran == ["first"]
    assert said == ["[first] kept: make first"]
    assert pipeline.seconds.keys() == {"first"}


def test_changed_settings_redo_a_stage_and_what_builds_on_it(tmp_path):
    log = Log()

    def stages(steps, size):
        return (
            log.stage("data", size=size),
            log.stage("train", ("data",), steps=steps),
            log.stage("report", ("train",)),
            log.stage("extra"),
        )

    run(tmp_path, *stages(1, 64))
    assert log.ran == ["data", "train", "report", "extra"]
    log.ran.clear()
    run(tmp_path, *stages(2, 64))
    assert log.ran == ["train", "report"]
    log.ran.clear()
    run(tmp_path, *stages(2, 32))
    assert log.ran == ["data", "train", "report"]
    assert json.loads((tmp_path / "data" / "made.txt").read_text()) == {"size": 32}
    log.ran.clear()
    run(tmp_path, *stages(2, 32))
    assert log.ran == []


def test_a_deleted_folder_is_made_again(tmp_path):
    log = Log()
    run(tmp_path, log.stage("first"))
    (tmp_path / "first" / "made.txt").unlink()
    (tmp_path / "first").rmdir()
    run(tmp_path, log.stage("first"))
    assert log.ran == ["first", "first"]


def test_a_folder_that_holds_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        FileExistsError, match=r"holds thesis\.tex.*not a demo folder.*Give another"
    ):
        Pipeline(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
