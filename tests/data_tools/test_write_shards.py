from pathlib import Path

import pytest

from data_tools import write_shards
from data_tools.files import find_episodes, write_episode
from data_tools.options import Run
from sfv.data.index import find_shards
from sfv.data.shards import read_shard
from tests.data.make import video_sample
from tests.data.test_shards import largest_file
from tests.data_tools.test_files import put


def test_collected_walks_go_into_shards_unchanged(
    return_walks: Path, explore_walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        str(return_walks),
        str(explore_walks),
        "--out",
        str(tmp_path),
        "--max-mb",
        "0.2",
        "--workers",
        "1",
    ]
    assert write_shards.main(args) == 0
    out = capsys.readouterr().out
    for split, folder in (("test", return_walks), ("train", explore_walks)):
        index = find_shards(tmp_path / split)
        assert f"{split}: 4 episodes in {len(index.shards)} shards" in out
        assert len(index.shards) > 1
        samples = [
            s for shard in index.shards for s in read_shard(index.folder / shard.name, shard)
        ]
        expected = [(meta, path.read_bytes()) for meta, path in find_episodes([folder])]
        assert [(s.meta, s.payload) for s in samples] == expected


def test_a_scene_in_two_splits_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a", split="train", scene="yard")
    put(tmp_path / "in", "b", split="test", scene="yard")
    assert (
        write_shards.main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers=1"])
        == 2
    )
    error = capsys.readouterr().err
    assert "scene 'yard' stands in split 'train' (episode 'a') and in 'test' ('b')" in error
    assert not (tmp_path / "out").exists()


def test_shards_are_replaced_only_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a")
    args = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers=1"]
    assert write_shards.main(args) == 0
    assert write_shards.main(args) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert write_shards.main([*args, "--overwrite"]) == 0


def test_help_tells_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        write_shards.main(["--help"])
    assert "size of a shard, 10^6 bytes (default: 64.0)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_workers_change_no_byte_and_leave_nothing_behind(
    return_walks: Path, explore_walks: Path, tmp_path: Path
) -> None:
    folders = [return_walks, explore_walks]
    write_shards.pack(folders, tmp_path / "one", 200_000)
    write_shards.pack(folders, tmp_path / "two", 200_000, run=Run(workers=2))
    names = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*"))
    for name in names:
        if (tmp_path / "one" / name).is_file():
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_full_disk_keeps_what_is_finished_and_resume_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [video_sample("a", 2), video_sample("b", 90)]
    for sample in samples:
        write_episode(tmp_path / "in", sample.meta, sample.payload)
    args = [str(tmp_path / "in"), f"--out={tmp_path}", "--max-mb=0.001", "--workers=1"]
    with largest_file(len(samples[0].payload) + 20_000):
        assert write_shards.main(args) == 2
    assert "train-000001.tar" in capsys.readouterr().err
    folder = tmp_path / "train"
    assert [p.name for p in (folder / ".parts").glob("*.tar")] == ["train-000000.tar"]
    assert not list(folder.glob("*.tar"))
    assert write_shards.main([*args, "--resume"]) == 0
    assert find_shards(folder).num_samples == 2 and not (folder / ".parts").exists()
