import dataclasses
import io
import json
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sfv.data.index import INDEX, TABLE, Shard, ShardError, ShardIndex, find_shards
from sfv.data.schema import SchemaError, to_json
from sfv.data.shards import (
    Sample,
    publish,
    read_samples,
    read_shard,
    sha256_of,
    write_shards,
    write_tar,
)
from tests.data.make import latents_sample, make_meta, video_sample

KEYS = ("a-000", "a-001", "a-002", "a-003", "a-004")


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let writes beyond `num_bytes` of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    samples = [latents_sample(key) for key in KEYS]
    return write_shards(samples, tmp_path / "train", "train", 2 * len(samples[0].payload))


def read_all(index: ShardIndex) -> list[Sample]:
    return [s for shard in index.shards for s in read_shard(index.folder / shard.name, shard)]


def handmade(path: Path, members: dict[str, bytes], num_samples: int = 1) -> Shard:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return Shard(path.name, num_samples, path.stat().st_size, sha256_of(path))


def test_what_is_written_is_read_in_order(index: ShardIndex) -> None:
    assert [shard.num_samples for shard in index.shards] == [2, 2, 1]
    assert read_all(find_shards(index.folder)) == [latents_sample(key) for key in KEYS]


def test_index_is_read_back(index: ShardIndex) -> None:
    assert find_shards(index.folder) == index
    assert find_shards(str(index.folder)).num_samples == 5


def test_a_brace_pattern_picks_shards(index: ShardIndex) -> None:
    chosen = find_shards(f"{index.folder}/train-{{000001..000002}}.tar")
    assert [sample.meta.id for sample in read_all(chosen)] == ["a-002", "a-003", "a-004"]
    with pytest.raises(ShardError, match=r"train-000003\.tar is not in .*train-000000\.tar"):
        find_shards(f"{index.folder}/train-{{000001..000003}}.tar")


def test_the_table_leads_to_each_episode(index: ShardIndex) -> None:
    table = find_shards(index.folder).table
    keys = []
    for shard, begin, end in zip(table.shard, table.begin, table.end, strict=True):
        content = (index.folder / index.shards[shard].name).read_bytes()[begin:end]
        ((place, sample),) = read_samples(io.BytesIO(content), "part", len(content))
        assert place == 0
        keys.append(sample.meta.id)
    assert keys == list(KEYS)
    assert table.num_actions.tolist() == [4] * 5
    assert table.action_stop.tolist() == [3, 6, 9, 12] * 5


def test_the_table_of_chosen_shards(index: ShardIndex) -> None:
    chosen = find_shards(f"{index.folder}/train-{{000001..000002}}.tar").table
    assert chosen.shard.tolist() == [0, 0, 1]
    assert chosen.begin.tolist() == index.table.begin[2:].tolist()
    assert len(chosen.action_stop) == 12


def test_equal_input_gives_equal_bytes(index: ShardIndex, tmp_path: Path) -> None:
    samples = [latents_sample(key) for key in KEYS]
    again = write_shards(samples, tmp_path / "again", "train", 2 * len(samples[0].payload))
    assert again.shards == index.shards
    assert (again.folder / INDEX).read_bytes() == (index.folder / INDEX).read_bytes()


def test_an_episode_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    index = write_shards([video_sample("a"), video_sample("b")], tmp_path, "train", 1)
    assert [shard.num_samples for shard in index.shards] == [1, 1]


def test_existing_shards_are_kept_unless_overwritten(index: ShardIndex) -> None:
    with pytest.raises(ShardError, match="holds 3 shards already; pass overwrite"):
        write_shards([latents_sample("b")], index.folder, "train")
    assert find_shards(index.folder) == index
    new = write_shards([latents_sample("b")], index.folder, "train", overwrite=True)
    assert sorted(p.name for p in index.folder.iterdir()) == [TABLE, INDEX, "train-000000.tar"]
    assert find_shards(index.folder) == new


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no episode to write"),
        ([video_sample("b"), video_sample("a")], "'a' comes after 'b': ids have to be unique"),
        ([video_sample("a"), video_sample("a")], "'a' comes after 'a'"),
        ([video_sample("a", split="val")], "'a' is of split 'val', these shards are 'train'"),
        (
            [video_sample("a"), latents_sample("b")],
            "'b' is stored as .*latents.*before it as .*video",
        ),
        ([latents_sample("a"), latents_sample("b", codec="beef")], "'beef'.*'c0de'"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(
    samples: list[Sample], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match=message):
        write_shards(samples, tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    samples = [video_sample("a", 2), video_sample("b", 90)]
    limit = len(samples[0].payload) + 20_000
    assert len(samples[1].payload) > limit
    with (
        largest_file(limit),
        pytest.raises(
            OSError, match=r"cannot write .*train-000001\.tar .*nothing half-written was left there"
        ),
    ):
        write_shards(samples, tmp_path, "train", max_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_shards_that_were_there(tmp_path: Path) -> None:
    old = write_shards([video_sample("a", 2)], tmp_path, "train")
    with largest_file(20_000), pytest.raises(OSError, match="cannot write"):
        write_shards([video_sample("b", 90)], tmp_path, "train", overwrite=True)
    assert read_all(find_shards(tmp_path)) == read_all(old)


def test_a_missing_shard_is_named(index: ShardIndex) -> None:
    (index.folder / "train-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000001\.tar is missing; run write_shards"):
        find_shards(index.folder)


def test_a_truncated_shard_is_named(index: ShardIndex) -> None:
    path = index.folder / "train-000000.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(
        ShardError, match=rf"train-000000\.tar is truncated: {size - 5000} bytes, .* {size}; run"
    ):
        find_shards(index.folder)


def test_truncation_while_reading_is_an_error(index: ShardIndex) -> None:
    shard, path = index.shards[0], index.folder / index.shards[0].name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(index.table.begin[1]) + 1536 + 700])
    with pytest.raises(ShardError, match=r"train-000000\.tar cannot be read .*unexpected end"):
        list(read_shard(path, shard))
    path.write_bytes(whole[: int(index.table.begin[1])])
    with pytest.raises(ShardError, match=r"holds 1 episodes, index\.json says 2"):
        list(read_shard(path, shard))


def test_no_index_says_what_is_there(index: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no index\.json there.*did you mean .*\['train'\]"):
        find_shards(index.folder.parent)
    with pytest.raises(ShardError, match=r"nowhere: no index\.json there"):
        find_shards(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "sfv.shards/9"}, "schema 'sfv.shards/9' is not known.*'sfv.shards/2'"),
        ({"shards": [{"name": "x.tar"}]}, "is damaged"),
        ({"codec": None, "kind": 3}, "field 'kind': got 3"),
    ],
)
def test_a_bad_index_is_named(index: ShardIndex, change: dict[str, object], message: str) -> None:
    path = index.folder / INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=message):
        find_shards(index.folder)


def test_an_index_cannot_point_outside_its_folder(index: ShardIndex) -> None:
    path = index.folder / INDEX
    path.write_text(path.read_text().replace("train-000001.tar", "../train-000001.tar"))
    with pytest.raises(ShardError, match=r"'\.\./train-000001\.tar' is not a plain file name"):
        find_shards(index.folder)


@pytest.mark.parametrize(
    "name", ["a-000.pkl", "a-000.pth", "../a-000.json", "/a-000.json", "x/a-000.mp4", ".json"]
)
def test_other_members_are_refused(name: str, tmp_path: Path) -> None:
    shard = handmade(tmp_path / "s.tar", {name: b"x"})
    with pytest.raises(ShardError, match=r"s\.tar: member .* is not allowed.*KEY\.json") as error:
        list(read_shard(tmp_path / "s.tar", shard))
    assert repr(name) in str(error.value)


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a-000.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(ShardError, match=r"member 'a-000\.json' is not allowed; .*plain files"):
        list(read_shard(tmp_path / "s.tar", Shard("s.tar", 1, 0, "")))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a-000.mp4": b"x"}, r"a-000: has no a-000\.json"),
        ({"a-000.json": b""}, r"needs exactly .*a-000\.mp4"),
        ({"a-000.json": b"", "a-000.latents.npy": b""}, r"needs exactly .*a-000\.mp4"),
        ({"b.json": b"", "b.mp4": b""}, r"s\.tar: b: needs exactly the members a-000\.json"),
    ],
)
def test_incomplete_samples_are_refused(
    members: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    text = to_json(make_meta("a-000")).encode()
    given = {name: text if name.endswith("json") else data for name, data in members.items()}
    shard = handmade(tmp_path / "s.tar", given)
    with pytest.raises(ShardError, match=message):
        list(read_shard(tmp_path / "s.tar", shard))


def test_a_schema_fault_names_shard_and_key(tmp_path: Path) -> None:
    text = to_json(make_meta("a-000")).replace("sfv.episode/1", "sfv.episode/7").encode()
    shard = handmade(tmp_path / "s.tar", {"a-000.json": text, "a-000.mp4": b""})
    with pytest.raises(SchemaError, match=r"s\.tar: a-000: schema 'sfv\.episode/7'"):
        list(read_shard(tmp_path / "s.tar", shard))


def test_a_wrong_count_is_an_error(index: ShardIndex) -> None:
    shard = dataclasses.replace(index.shards[0], num_samples=3)
    with pytest.raises(ShardError, match=r"holds 2 episodes, index\.json says 3"):
        list(read_shard(index.folder / shard.name, shard))


@pytest.mark.parametrize("step", range(7))
def test_publishing_that_ends_at_any_step_can_be_repeated(
    step: int, index: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, folder = [latents_sample(key) for key in "bc"], index.folder
    expected = write_shards(samples, tmp_path / "expected", "train", 1)
    written = [write_tar([s], folder / f"train-{i:06d}.tar") for i, s in enumerate(samples)]
    left = [step]

    def ending(name: str) -> None:
        change = getattr(Path, name)

        def counted(path: Path, *args: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return change(path, *args, **options)

        monkeypatch.setattr(Path, name, counted)

    ending("replace")
    ending("unlink")
    with suppress(KeyboardInterrupt):
        publish(written, folder, "train")
    monkeypatch.undo()
    assert (left[0] < 0) == (step < 6), "six changes of the disk"
    if (folder / INDEX).exists():
        assert find_shards(folder).num_samples in (len(KEYS), 2)
    publish(written, folder, "train")
    assert find_shards(folder).shards == expected.shards
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in expected.folder.iterdir()
    )
    for path in expected.folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
