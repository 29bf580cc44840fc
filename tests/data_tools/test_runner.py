import dataclasses
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from data_tools.collect.runner import (
    MissingEngine,
    Outcome,
    Recipe,
    Skipped,
    attempt,
    collect,
    new_parser,
    recipe_hash,
    revisit_report,
    run_command,
    total,
)
from data_tools.files import find_episodes, write_episode
from sfv.data.schema import Provenance, SchemaError
from sfv.files import locked
from tests.data.make import make_meta


@dataclass(frozen=True)
class Rooms:
    """Episodes without a picture: odd ones of room 1 fail once, all of room `bad` fail always."""

    rooms: int
    bad: int = -1
    fault: str = ""

    noun: ClassVar[str] = "visits"
    measures: ClassVar[tuple[str, ...]] = ("return_psnr", "length")
    jobs_per_worker: ClassVar[int] = 2

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def episode_id(self, index: int) -> str:
        return f"room-{index:03d}"

    def scene_of(self, index: int) -> str:
        return f"room {index % self.rooms}"

    def require(self) -> None:
        if self.fault == "missing":
            raise MissingEngine("no rooms here; install them with: apt-get install rooms")

    def film(self, indices: Sequence[int], folder: Path) -> Iterator[Outcome]:
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "starts.log").open("a") as log:
            log.write(" ".join(map(str, indices)) + "\n")
        for index in indices:
            yield attempt(
                self.episode_id(index), 3, lambda n, i=index: self._film_one(i, n, folder)
            )

    def _film_one(self, index: int, number: int, folder: Path) -> Mapping[str, Any]:
        room = index % self.rooms
        if room == self.bad:
            raise Skipped("bad room")
        if index % 2 and room == 1 and number == 0:
            raise Skipped("door closed")
        meta = make_meta(
            self.episode_id(index),
            scene=self.scene_of(index),
            provenance=Provenance("rooms", "1", recipe_hash(self)),
        )
        write_episode(folder, meta, b"video %d" % index)
        return {"return_psnr": (30.0 + index, 40.0), "length": index}

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept) | {
            "longest": max((o.measures["length"] for o in kept), default=0)
        }


def starts(folder: Path) -> list[list[int]]:
    lines = (folder / "starts.log").read_text().splitlines()
    return [[int(number) for number in line.split()] for line in lines]


def test_every_attempt_stands_in_the_summary(tmp_path: Path) -> None:
    summary = collect(Rooms(3, bad=2), tmp_path, 6)
    assert summary["episodes"] == {
        "wanted": 6, "kept": 4, "of them from before": 0, "given up": ["room-002", "room-005"],
    }  # fmt: skip
    assert summary["visits tried"] == 4 + 1 + 6
    assert summary["visits skipped"] == {"bad room": 6, "door closed": 1}
    assert summary["revisit psnr dB"] == {"least": 30.0, "mean": 40.0} and summary["longest"] == 4
    assert summary["settings"] == {
        "rooms": 3, "bad": 2, "fault": "", "hash": recipe_hash(Rooms(3, bad=2)),
    }  # fmt: skip
    rows = {row["id"]: row for row in summary["visits"]}
    assert rows["room-001"]["skipped"] == ("door closed",) and rows["room-001"]["length"] == 1
    assert rows["room-002"]["kept"] is False and rows["room-002"]["length"] is None
    assert json.loads((tmp_path / "summary.json").read_text())["longest"] == 4
    assert [meta.id for meta, _ in find_episodes([tmp_path])] == [
        f"room-00{i}" for i in (0, 1, 3, 4)
    ]


def test_the_episodes_of_a_scene_are_filmed_by_one_start_of_the_engine(tmp_path: Path) -> None:
    collect(Rooms(3), tmp_path / "one", 7)
    assert starts(tmp_path / "one") == [[0, 3, 6, 1, 4, 2, 5]]


@pytest.mark.slow
def test_workers_share_a_scene_that_stands_alone(tmp_path: Path) -> None:
    collect(Rooms(1), tmp_path, 7, workers=2)
    assert sorted(starts(tmp_path)) == [[0, 1], [2, 3], [4, 5], [6]]


@pytest.mark.slow
def test_workers_share_the_scenes_and_change_no_result(tmp_path: Path) -> None:
    collect(Rooms(5), tmp_path / "one", 9)
    collect(Rooms(5), tmp_path / "two", 9, workers=2)
    assert sorted(starts(tmp_path / "two")) == [[0, 5, 4], [1, 6], [2, 7], [3, 8]]
    for path in (tmp_path / "one").iterdir():
        if path.name != "starts.log":
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.slow
def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a worker process died; run again with --resume"):
        collect(Rooms(4, fault="killed"), tmp_path, 4, workers=2)


def test_resuming_keeps_what_is_there_with_its_measures(tmp_path: Path) -> None:
    whole = collect(Rooms(3), tmp_path, 5)
    (tmp_path / "room-003.mp4").unlink()
    (tmp_path / "starts.log").unlink()
    again = collect(Rooms(3), tmp_path, 5, resume=True)
    assert starts(tmp_path) == [[3]] and again["episodes"]["of them from before"] == 4
    for key in ("visits", "visits skipped", "revisit psnr dB"):
        assert json.dumps(again[key]) == json.dumps(whole[key])


def test_other_episodes_are_neither_mixed_nor_overwritten(tmp_path: Path) -> None:
    collect(Rooms(3), tmp_path, 2)
    with pytest.raises(SchemaError, match="holds 2 episodes already; give --resume"):
        collect(Rooms(3), tmp_path, 2)
    with pytest.raises(SchemaError, match=f"now asked for are {recipe_hash(Rooms(2))}"):
        collect(Rooms(2), tmp_path, 2, resume=True)


def test_a_count_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="--episodes 0 --workers 1: both have to be at least 1"):
        collect(Rooms(3), tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


def test_an_episode_is_given_up_after_the_last_attempt() -> None:
    seen = []

    def film(number: int) -> Mapping[str, Any]:
        seen.append(number)
        raise Skipped("dark")

    assert attempt("a", 3, film) == Outcome("a", False, ("dark",) * 3)
    assert seen == [0, 1, 2]


def test_the_command_tells_errors_in_one_line_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = new_parser("rooms", "Visit rooms.", episodes=4, size=32, workers=1)
    args = parser.parse_args(["--out", str(tmp_path / "new")])

    def run(recipe: Recipe) -> int:
        return run_command(lambda _: recipe, args)

    assert run(Rooms(2, fault="missing")) == 2
    assert not (tmp_path / "new").exists()
    assert (
        capsys.readouterr().err
        == "error: no rooms here; install them with: apt-get install rooms\n"
    )
    assert run(Rooms(2)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["episodes"]["kept"] == 4 and "visits" not in printed
    assert run(dataclasses.replace(Rooms(2), bad=0)) == 2
    assert "give --resume" in capsys.readouterr().err
    args.out = tmp_path / "other"
    assert run(Rooms(2, bad=0)) == 1


def test_resuming_after_a_kill_tells_that_measures_are_not_known(tmp_path: Path) -> None:
    """A killed call leaves episodes, but no summary with what it measured of them."""
    collect(Lengths(3), tmp_path, 3)
    (tmp_path / "summary.json").unlink()
    assert collect(Lengths(3), tmp_path, 3, resume=True)["length"] is None
    known = collect(Lengths(3), tmp_path / "whole", 3)
    assert known["length"] == 3 and known["revisit psnr dB"] == {"least": 30.0, "mean": 40.0}


@dataclass(frozen=True)
class Lengths(Rooms):
    """Rooms that report the sum of a measure."""

    def report(self, kept: Sequence[Outcome]) -> dict[str, Any]:
        return revisit_report(kept) | {"length": total(kept, "length")}


def test_a_second_collector_is_refused_and_says_who_has_the_folder(tmp_path, capsys):
    with locked(tmp_path, "wait"):
        args = new_parser("rooms", "", episodes=2, size=8, workers=1).parse_args(
            [f"--out={tmp_path}"]
        )
        assert run_command(lambda _: Rooms(3), args) == 2
    assert f"error: {tmp_path} is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
