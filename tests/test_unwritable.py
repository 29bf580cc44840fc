"""Every command finds out before its work that nothing can be written to `--out`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data_tools import encode_text, filter, write_shards
from data_tools.collect import doom
from data_tools.convert import folder
from data_tools.files import write_episode
from data_tools.plan_worlds import write_tasks
from sfv import cli
from tests.data.make import video_sample
from tests.data_tools.convert.films import write_film
from tests.planning.make import meadow_tasks

WORK = {
    "rollout": "sfv.generation.verb.rollout_of",
    "evaluate": "sfv.evaluation.evaluate.measure",
    "plan": "sfv.planning.verb._play",
    "demo": "sfv.demo.run._run_stages",
    "write_shards": "data_tools.options.map_shards",
    "filter": "data_tools.options.map_shards",
    "folder": "data_tools.convert.common._run",
    "doom": "data_tools.collect.runner._collect",
    "write_tasks": "data_tools.plan_worlds.write_tasks.MAKERS",
    "encode_text": "data_tools.encode_text.MiniLMText",
}
"""What takes hours."""

PLAN = ["--environment=tests.planning.make.Meadow", "--tasks=TASKS", "--rows=[oracle]"]
FOLDER = ["--root=FILM", "--name=x", "--domain=human", "--licence=CC0-1.0", "--split=train"]
COMMANDS: list[tuple[str, Callable[[list[str]], int], Sequence[str]]] = [
    ("rollout", cli.main, ["rollout"]),
    ("evaluate", cli.main, ["evaluate", "--model=reference", "--episodes=IN"]),
    ("plan", cli.main, ["plan", *PLAN]),
    ("demo", cli.main, ["demo"]),
    ("write_shards", write_shards.main, ["IN"]),
    ("filter", filter.main, ["IN"]),
    ("folder", folder.main, FOLDER),
    ("doom", doom.main, ["--episodes=1"]),
    ("write_tasks", write_tasks.main, ["doom"]),
    ("encode_text", encode_text.main, ["IN"]),
]


@pytest.mark.parametrize(("name", "main", "args"), COMMANDS, ids=[name for name, *_ in COMMANDS])
def test_an_output_that_cannot_be_is_told_before_the_work(
    name: str,
    main: Callable[[list[str]], int],
    args: Sequence[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beneath a file nobody can write, root neither."""
    sample = video_sample("a", 1)
    write_episode(tmp_path / "in", sample.meta, sample.payload)
    write_film(tmp_path / "film" / "a.mp4", 40, fps=10)
    table = "video,start,stop,text,scene\na.mp4,0,2,walk,yard\n"
    (tmp_path / "film" / "actions.csv").write_text(table)
    meadow_tasks(tmp_path / "tasks.json")
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "runs" / "out"
    monkeypatch.setattr(WORK[name], {"doom": None})
    given = list(args)
    for word, place in (("IN", "in"), ("FILM", "film"), ("TASKS", "tasks.json")):
        given = [arg.replace(word, str(tmp_path / place)) for arg in given]
    assert main([*given, f"--out={out}"]) == 2
    said = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'file' / 'runs'}" in said and "(Not a directory)" in said
    assert "choose another folder" in said and len(said.strip().splitlines()) == 1
