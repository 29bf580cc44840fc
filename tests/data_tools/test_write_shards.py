from pathlib import Path

import pytest

from data_tools import write_shards
from data_tools.files import find_episodes
from sfv.data.index import find_shards
from sfv.data.shards import read_shard
from tests.data_tools.test_files import put


def test_collected_walks_go_into_shards_unchanged(
    return_walks: Path, explore_walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(return_walks), str(explore_walks), "--out", str(tmp_path), "--max-mb", "0.2"]
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
    assert write_shards.main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "scene 'yard' stands in split 'train' (episode 'a') and in 'test' ('b')" in error
    assert not (tmp_path / "out").exists()


def test_shards_are_replaced_only_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a")
    args = [str(tmp_path / "in"), "--out", str(tmp_path / "out")]
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
