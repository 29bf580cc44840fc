import json
import re
from dataclasses import replace

import pytest

from data_tools.collect.doom import MAPS
from sfv.data.objects import SceneObject
from sfv.evaluation.benchmark import spec
from sfv.evaluation.benchmark.spec import (
    BenchmarkError,
    Part,
    check_complete,
    content_hash,
    find_benchmark,
    known_in,
    shipped,
)
from tests.evaluation.benchmark.make import make_walk

RECORDED = "block-return"
"""Ships no manifest: which walks are kept depends on when Minetest's pictures are complete."""


def test_a_benchmark_without_a_manifest_takes_the_one_of_its_data(tmp_path, made_up):
    shipped_one, data = find_benchmark(RECORDED), find_benchmark(str(made_up))
    assert not shipped_one.episodes and known_in(shipped_one, tmp_path) == shipped_one
    bare = replace(data, episodes={}, source=tmp_path)
    assert known_in(bare, made_up) == data
    with pytest.raises(
        BenchmarkError, match=r"holds made-up 1 with the parts return-12, return-20;"
    ):
        known_in(shipped_one, made_up)


@pytest.mark.parametrize("name", [name for name in shipped() if name != RECORDED])
def test_a_shipped_benchmark_is_whole(name):
    benchmark = find_benchmark(name)
    assert benchmark.name == name and benchmark.split == "test"
    assert sorted(benchmark.episodes) == sorted(benchmark.episode_ids())
    for known in benchmark.episodes.values():
        assert known.num_frames == benchmark.parts[known.part].chunks * benchmark.chunk_frames
        assert known.turn % benchmark.chunk_frames == 0
        assert benchmark.chunk_frames < known.turn < known.num_frames
    assert len({known.content_sha256 for known in benchmark.episodes.values()}) == len(
        benchmark.episodes
    ), "no walk stands there twice"


def test_the_benchmarks_that_the_docs_promise_are_shipped():
    assert set(shipped()) == {
        "block-return", "doom-return", "doom-return-tiny", "maze-return", "robot-return",
    }  # fmt: skip
    assert find_benchmark("robot-return").objects == ["crop", "place", "there"]
    assert find_benchmark("doom-return").objects == ()
    assert set(find_benchmark("doom-return-tiny").options["maps"]) <= set(MAPS["test"])
    for name in ("doom-return", "maze-return"):
        parts = find_benchmark(name).parts.values()
        assert {(part.walk, part.length) for part in parts} == {
            (walk, length) for walk in ("return", "turn360", "loop") for length in (100, 300, 1000)
        }
        assert all(0.9 <= p.chunks * 8 / p.length <= 2 for p in parts)


def test_an_unknown_benchmark_is_told_which_there_are(tmp_path):
    with pytest.raises(
        BenchmarkError, match=r"no benchmark 'doom'; allowed: block-return, .*maze-"
    ):
        find_benchmark("doom")
    with pytest.raises(BenchmarkError, match=r"a folder that python -m data_tools\.benchmark made"):
        find_benchmark(str(tmp_path))


def test_a_damaged_definition_says_what_it_needs(tmp_path):
    text = (spec.SPECS / "doom-return-tiny.yaml").read_text()
    for wrong in (
        text.replace("seed:", "sed:"), text.replace("walk:", "wlak:"), "[", "just words",
        f"objects: [smell]\n{text}", text.replace("name: doom", "name: ../doom"),
        text.replace("split: test", "split: ../.."), text.replace("collector: doom", "collector: a/b"),
        text.replace("  return-72:", "  ../return-72:"),
    ):  # fmt: skip
        (tmp_path / "mine.yaml").write_text(wrong)
        with pytest.raises(
            BenchmarkError, match=r"mine\.yaml: is no definition .* needs name, ver"
        ):
            find_benchmark(str(tmp_path / "mine.yaml"))


def test_a_manifest_of_other_walks_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text((spec.SPECS / "doom-return-tiny.yaml").read_text())
    manifest = json.loads((spec.SPECS / "doom-return-tiny.json").read_text())
    del manifest["episodes"]["return-72-01"]
    (tmp_path / "mine.json").write_text(json.dumps(manifest))
    with pytest.raises(BenchmarkError, match=r"lacks 1 of doom-return-tiny 1's 8 .*return-72-01"):
        find_benchmark(str(tmp_path / "mine.yaml"))


def test_the_hash_of_a_walk_is_that_of_what_is_walked():
    meta = make_walk("return-12-00").meta
    assert content_hash(replace(meta, id="other", source="elsewhere")) == content_hash(meta)
    poses = (*meta.poses[:-1], (9.0, 9.0, 9.0, 9.0))
    actions = (replace(meta.actions[0], text="turn left"), *meta.actions[1:])
    changes = (
        {"poses": poses}, {"actions": actions}, {"revisits": meta.revisits[1:]}, {"fps": 9.0},
        {"scene": "other"},
    )  # fmt: skip
    hashes = {content_hash(replace(meta, **change)) for change in changes}
    assert len(hashes | {content_hash(meta)}) == 6


def test_a_place_that_comes_by_chance_does_not_end_the_way_out(made_up):
    benchmark = find_benchmark(str(made_up))
    meta = make_walk("return-20-00").meta
    turn = benchmark.turn_of(meta)
    early = replace(meta, revisits=((1, 3), *meta.revisits))
    assert turn == benchmark.turn_of(early) == meta.actions[4].stop == 12


def test_a_loop_turns_with_the_chunk_in_which_a_place_comes_again(made_up):
    benchmark = find_benchmark(str(made_up))
    parts = benchmark.parts | {"return-20": Part("loop", 9, 2, 300)}
    meta = make_walk("return-20-00").meta
    for first, turn in ((8, 8), (9, 8), (10, 10)):
        late = replace(meta, revisits=((3, 19), (2, first)))
        assert replace(benchmark, parts=parts).turn_of(late) == turn


def test_where_things_are_belongs_to_the_hash_and_how_they_look_does_not():
    meta = make_walk("return-12-00").meta
    puck = SceneObject("puck", (9, 9, 9), ((0, 0, 4, 4),) * 12, ((1.0, 2.0, 3.0),) * 12)
    known = replace(meta, objects=(puck,))
    looks = replace(puck, colour=None, boxes=(None,) * 12)
    assert content_hash(replace(known, objects=(looks,))) == content_hash(known)
    moved = replace(puck, places=((1.0, 2.0, 4.0), *puck.places[1:]))
    hashes = {content_hash(replace(meta, objects=things)) for things in ((), (puck,), (moved,))}
    assert len(hashes) == 3


def test_the_way_back_to_what_was_built_is_the_end_that_shows_known_places_alone(made_up):
    benchmark = find_benchmark(str(made_up))
    parts = benchmark.parts | {"return-20": Part("landmark", 9, 2, 300)}
    meta = make_walk("return-20-00").meta
    early = ((0, 5), (1, 6), (2, 7))
    for back in (14, 16):
        pairs = (*early, *((0, frame) for frame in range(back, 20)))
        assert replace(benchmark, parts=parts).turn_of(replace(meta, revisits=pairs)) == back


def test_too_few_and_too_many_episodes_are_counted(made_up):
    benchmark = find_benchmark(str(made_up))
    ids = set(benchmark.episode_ids())
    with pytest.raises(
        BenchmarkError, match=r"here lacks 2 of made-up 1's 6 .*\(return-12-00, ret"
    ):
        check_complete(benchmark, ids - {"return-12-00", "return-20-01"}, "here")
    with pytest.raises(
        BenchmarkError, match=re.escape("none of it: 1 episodes (mine); made-up 1 has 6")
    ):
        check_complete(benchmark, ids | {"mine"}, "here")
