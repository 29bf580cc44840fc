import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.convert import lerobot
from data_tools.convert.lerobot_meta import Episode, read_rows
from data_tools.convert.recording import BadInput
from tests.data_tools.convert.films import episodes, numbers, summary, texts, truncated, write_film

TOP, DEPTH = "observation.images.top", "observation.images.depth"
TASKS = ["Pick up the red cube", "Push the \n button"]
FPS = 10


def info(version: str) -> dict:
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    if version == "v3.0":
        paths = {
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        }
    video = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channel"]}
    return {
        "codebase_version": version, "robot_type": "so100", "chunks_size": 2, "fps": FPS,
        "splits": {"train": "0:3"}, **paths,
        "features": {
            TOP: {**video, "info": {"video.fps": 10.0, "video.is_depth_map": False}},
            DEPTH: {**video, "info": {"video.is_depth_map": True}},
            "action": {"dtype": "float32", "shape": [2], "names": None},
            "task_index": {"dtype": "int64", "shape": [1], "names": None},
        },
    }  # fmt: skip


def rows(index: int, length: int, first: int, task_from: int = 10**6) -> list[dict]:
    """The last frames, from `task_from` on, are of task 1."""
    return [
        {"action": [index + i / 8, math.nan if i == 1 else -1.0], "timestamp": i / FPS, "frame_index": i,
         "episode_index": index, "index": first + i, "task_index": int(i >= task_from)}
        for i in range(length)
    ]  # fmt: skip


def write_table(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)


def write_v2(root: Path, version: str = "v2.1", lengths: tuple[int, ...] = (20, 16, 24)) -> Path:
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info(version)))
    tasks = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    entries = [
        {"episode_index": i, "tasks": [TASKS[0]], "length": length}
        for i, length in enumerate(lengths)
    ]
    for name, lines in (("tasks", tasks), ("episodes", entries)):
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index, length in enumerate(lengths):
        chunk = f"chunk-{index // 2:03d}"
        write_table(root / f"data/{chunk}/episode_{index:06d}.parquet", rows(index, length, 0, 8))
        write_film(root / f"videos/{chunk}/{TOP}/episode_{index:06d}.mp4", length, fps=FPS)
    return root


def write_v3(root: Path, lengths: tuple[int, ...] = (20, 16, 24), task: str = "task") -> Path:
    """Episodes 0 and 1 share a data and a video file, as v3.0 has it; 2 stands in the next."""
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info("v3.0")))
    write_table(
        root / "meta/tasks.parquet", [{"task_index": i, task: t} for i, t in enumerate(TASKS)]
    )
    entries, tables, first = [], {0: [], 1: []}, 0
    starts = {0: 0, 1: lengths[0], 2: 0}
    for index, length in enumerate(lengths):
        file = int(index == 2)
        start, stop = starts[index] / FPS, (starts[index] + length) / FPS
        entries.append({
            "episode_index": index, "tasks": TASKS[:1], "length": length, "data/chunk_index": 0,
            "data/file_index": file, "dataset_from_index": first, "dataset_to_index": first + length,
            f"videos/{TOP}/chunk_index": 0, f"videos/{TOP}/file_index": file,
            f"videos/{TOP}/from_timestamp": start, f"videos/{TOP}/to_timestamp": stop,
            "stats/action/min": [0.0], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        })  # fmt: skip
        tables[file] += rows(index, length, first, 8)
        first += length
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", entries)
    for file, records in tables.items():
        write_table(root / f"data/chunk-000/file-{file:03d}.parquet", records)
        write_film(root / f"videos/{TOP}/chunk-000/file-{file:03d}.mp4", len(records), fps=FPS)
    return root


def call(root: Path, out: Path, *more: str, scene_by: str = "dataset") -> int:
    return lerobot.main(
        ["--root", str(root), "--out", str(out), "--split", "train", "--size", "32x40", "--fps", "5",
         "--chunk-frames", "4", "--name", "cubes", *(["--scene-by", scene_by] if scene_by else []), *more]
    )  # fmt: skip


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0", "v3.0 early"])
def test_all_versions_give_the_same_episodes(tmp_path: Path, version: str) -> None:
    if version.startswith("v2"):
        root, shift = write_v2(tmp_path / "in", version), 0
    else:
        early = version == "v3.0 early"
        root, shift = write_v3(tmp_path / "in", task="__index_level_0__" if early else "task"), 20
    assert call(root, tmp_path / "out") == 0
    found = episodes(tmp_path / "out")
    assert list(found) == [f"cubes-00000{i}-000" for i in range(3)]
    for index, (meta, frames) in enumerate(found.values()):
        assert texts(meta) == ["Pick up the red cube"] + ["Push the button"] * (
            len(frames) // 4 - 1
        )
        assert (meta.scene, meta.domain, meta.num_frames) == (
            "cubes/all",
            "robot",
            (8, 8, 12)[index],
        )
        first = shift if index == 1 else 0
        assert numbers(frames) == [first + 2 * i for i in range(len(frames))]
    first, second = found["cubes-000001-000"][0].actions
    assert first.raw["annotation"] == {"task_index": 0}
    assert first.raw["samples"]["action"] == [[1 + i / 8, None if i == 1 else -1] for i in range(6)]
    assert [action[0] for action in second.raw["samples"]["action"]] == [
        1 + i / 8 for i in range(6, 14)
    ]


def test_the_place_has_to_be_said(tmp_path: Path, capsys) -> None:
    root = write_v2(tmp_path / "in")
    assert call(root, tmp_path / "out", scene_by="") == 2
    assert "give --scene-by dataset (all in one place)" in capsys.readouterr().err
    call(root, tmp_path / "task", scene_by="task")
    assert {m.scene for m, _ in episodes(tmp_path / "task").values()} == {
        "cubes/Pick up the red cube"
    }
    call(root, tmp_path / "episode", scene_by="episode")
    assert len({m.scene for m, _ in episodes(tmp_path / "episode").values()}) == 3


def change(root: Path, **changes: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"codebase_version": "v1.6"}, (), "codebase_version is 'v1.6'; known are ['v2.0'"),
        ({"codebase_version": None}, (), "codebase_version is None"),
        ({"fps": 0}, (), "fps is not above 0"),
        ({"fps": "ten"}, (), "not a number: info.json fps is 'ten'"),
        ({"features": [1]}, (), "lacks an object 'features'"),
        ({"features": {"pic": {"dtype": "image"}}}, (), "(pictures inside the tables: ['pic'])"),
        ({"features": {c: {"dtype": "video"} for c in "ab"}}, (), "with --camera, of ['a', 'b']"),
        ({}, ("--camera", DEPTH), "--camera observation.images.depth: the data set has"),
        ({}, ("--raw", "torque"), "--raw torque: the data set has ['action', 'task_index']"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_used_is_an_error(
    tmp_path, capsys, changes, more, message
) -> None:
    root = write_v2(tmp_path / "in")
    change(root, **changes)
    assert call(root, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("../../{video_key}/{episode_index:06d}.mp4", "path outside of the data set"),
        ("/etc/{video_key}", "path outside of the data set"),
        ("videos/{episode_index.__class__}.mp4", "path template cannot be read"),
        ("videos/{episode_index:999999999d}.mp4", "path template cannot be read"),
        ("videos/{nonsense}.mp4", "path template names an unknown field"),
        (7, "path template is no text"),
    ],
)
def test_paths_of_the_metadata_stay_inside(tmp_path: Path, template: object, reason: str) -> None:
    root = write_v2(tmp_path / "in")
    change(root, video_path=template)
    assert call(root, tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {reason: 3}


def test_broken_episodes_are_counted_and_the_others_converted(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "in", lengths=(20,) * 7)
    truncated(root / f"videos/chunk-000/{TOP}/episode_000000.mp4", 0.5)
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1 not a table")
    wrong = [{**row, "episode_index": 9} for row in rows(2, 20, 0)]
    write_table(root / "data/chunk-001/episode_000002.parquet", wrong)
    unknown = [{**row, "task_index": 5} for row in rows(3, 20, 0)]
    write_table(root / "data/chunk-001/episode_000003.parquet", unknown)
    words = [{**row, "episode_index": "two"} for row in rows(5, 20, 0)]
    write_table(root / "data/chunk-002/episode_000005.parquet", words)
    bare = [{"episode_index": 4, "frame_index": 0, "task_index": 0}]
    write_table(root / "data/chunk-002/episode_000004.parquet", bare)
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write('{"episode_index": -1, "length": 3}\n')
    assert call(root, tmp_path / "out") == 1
    assert summary(tmp_path / "out")["skipped"] == {
        "data file without the episode": 1,
        "not a whole number >= 0": 1,
        "parquet file cannot be read": 2,
        "parquet file lacks the column 'action'": 1,
        "task_index without a text": 1,
        "video cannot be read or is damaged": 1,
    }
    assert list(episodes(tmp_path / "out")) == ["cubes-000006-000"]


def test_metadata_that_disagree_with_the_table_are_counted(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "in", lengths=(20,))
    write_table(root / "data/chunk-000/episode_000000.parquet", rows(0, 16, 0))
    assert call(root, tmp_path / "out") == 0
    left_out = summary(tmp_path / "out")["left out of kept inputs"]
    assert left_out == {
        "frames that the metadata and the table do not agree on": 4, "frames without an action": 2,
    }  # fmt: skip


def test_missing_tables_are_errors(tmp_path: Path, capsys) -> None:
    root = write_v3(tmp_path / "in")
    (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    assert call(root, tmp_path / "out") == 2
    assert "no episode table" in capsys.readouterr().err
    (root / "meta/tasks.parquet").unlink()
    assert call(root, tmp_path / "out") == 2
    assert "parquet file cannot be read: tasks.parquet" in capsys.readouterr().err
    (root / "meta/info.json").write_text("[]")
    assert call(root, tmp_path / "out") == 2
    assert "not a LeRobot info.json" in capsys.readouterr().err


def test_damage_of_a_table_is_never_more_than_bad_input(tmp_path: Path) -> None:
    """The table reader's own filter waits for ever on some of these, its statistics end the process."""
    root = write_v2(tmp_path / "in", lengths=(20,))
    path = root / "data/chunk-000/episode_000000.parquet"
    episode = Episode(0, 20, path, path, 0.0, None, ())
    content, rng, outcomes = path.read_bytes(), np.random.default_rng(0), Counter()
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_rows(episode, ["task_index", "action"])
            outcomes["fine"] += 1
        except BadInput as error:
            outcomes[str(error).partition(": ")[0]] += 1
    assert min(outcomes["fine"], outcomes["parquet file cannot be read"]) > 20
