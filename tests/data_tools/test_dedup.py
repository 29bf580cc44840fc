import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import dedup
from data_tools.dedup import DedupSettings, find_duplicates
from data_tools.files import encode_mp4, find_episodes, write_episode
from data_tools.near_pairs import near_pairs
from sfv.data.schema import Action
from sfv.data.stages import decode_mp4
from tests.data.make import make_meta


def codes_with_near_pairs(count: int, words: int, seed: int = 0) -> np.ndarray:
    """Random codes; every seventh is an earlier one with some bits flipped."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, (count, words), dtype=np.uint64)
    for row in range(7, count, 7):
        codes[row] = codes[rng.integers(row)]
        for bit in rng.permutation(64 * words)[: rng.integers(9 * words)]:
            codes[row, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return codes


@pytest.mark.parametrize(("words", "distance"), [(1, 7), (3, 23), (4, 10), (2, 0)])
def test_near_pairs_are_those_of_a_plain_loop(words: int, distance: int) -> None:
    codes = codes_with_near_pairs(400, words)
    expected = [
        [i, j]
        for i in range(400)
        for j in range(i + 1, 400)
        if sum(
            bin(a ^ b).count("1") for a, b in zip(codes[i].tolist(), codes[j].tolist(), strict=True)
        )
        <= distance
    ]
    assert near_pairs(codes, distance).tolist() == expected
    assert distance == 0 or len(expected) > 10


def test_parts_of_bounded_size_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = codes_with_near_pairs(500, 2)
    whole = near_pairs(codes, 9)
    monkeypatch.setattr("data_tools.near_pairs.PAIRS_AT_ONCE", 3)
    assert np.array_equal(near_pairs(codes, 9), whole)


def test_a_distance_without_guarantee_is_refused() -> None:
    with pytest.raises(ValueError, match="max_distance 16: allowed are 0 to 15 bits"):
        near_pairs(np.zeros((2, 2), dtype=np.uint64), 16)


def test_no_codes_have_no_pairs() -> None:
    assert near_pairs(np.zeros((0, 2), dtype=np.uint64), 3).shape == (0, 2)


def test_an_episode_is_dropped_for_a_kept_one_only() -> None:
    # A chain: neighbours differ in 3 bits, ends in 6; the last repeats the first exactly.
    chain = [0b0, 0b111, 0b111111, 0b111111111, 0b0]
    codes = np.array(chain, dtype=np.uint64)[:, None]
    found = find_duplicates("abcde", ["train"] * 5, codes, DedupSettings(frames=1, max_bits=3))
    assert found.dropped == {"b": "a", "d": "c", "e": "a"}
    assert found.across == []


def test_pairs_across_splits_are_found_beside_drops() -> None:
    codes = np.array([0, 0, 7, 7, 1023 << 40], dtype=np.uint64)[:, None]
    splits = ["train", "train", "train", "test", "val"]
    found = find_duplicates("abcde", splits, codes, DedupSettings(frames=1, max_bits=3))
    assert found.dropped == {"b": "a", "c": "a"}
    assert found.across == [("a", "d"), ("c", "d")]


def scene(seed: int, side: int = 64) -> np.ndarray:
    """Twelve frames of a smooth random landscape that moves to the left."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 12), dtype=np.uint8)
    wide = Image.fromarray(coarse).resize((3 * side, side), Image.Resampling.BICUBIC)
    plane = np.asarray(wide)[:, :, None].repeat(3, axis=2)
    return np.stack([plane[:, 8 * i : 8 * i + side] for i in range(12)])


def put(folder: Path, key: str, frames: np.ndarray, split: str) -> None:
    height, width = frames.shape[1:3]
    meta = make_meta(
        key, num_frames=len(frames), height=height, width=width, split=split, scene=key,
        actions=(Action("look", 0, len(frames)),),
    )  # fmt: skip
    write_episode(folder, meta, encode_mp4(frames, meta.fps))


def altered(frames: np.ndarray) -> np.ndarray:
    """A copy: smaller, brighter, noisy."""
    small = np.stack([np.asarray(Image.fromarray(f).resize((48, 40))) for f in frames])
    noise = np.random.default_rng(0).normal(0, 4, small.shape)
    return (small * 0.8 + 40 + noise).clip(0, 255).astype(np.uint8)


def run(*args: object) -> int:
    return dedup.main([*map(str, args), "--workers", "1"])


def test_copies_inside_a_split_are_dropped(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / "in", f"s{number}", scene(number), "train")
    put(tmp_path / "more", "t0", altered(scene(2)), "train")
    put(tmp_path / "more", "t1", scene(1)[::-1], "train")
    assert run(tmp_path / "in", tmp_path / "more", "--out", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["duplicate of"] == {"t0": "s2"}
    assert summary["near duplicates"]["unique"] == 5
    found = list(find_episodes([tmp_path / "out"]))
    assert [meta.id for meta, _ in found] == ["s0", "s1", "s2", "s3", "t1"]
    assert np.array_equal(decode_mp4(found[3][1].read_bytes()), scene(3))


def test_copies_in_two_splits_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a", scene(0), "train")
    put(tmp_path / "in", "b", scene(1), "test")
    put(tmp_path / "in", "c", altered(scene(0)), "test")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "1 pairs of near duplicates stand in two splits: 'a' and 'c'" in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*.mp4")) == []
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pairs across splits"] == [["a", "c"]]


def test_a_report_places_nothing(tmp_path: Path) -> None:
    put(tmp_path / "in", "a", scene(0), "train")
    put(tmp_path / "in", "b", scene(0), "train")
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--on-duplicate", "report") == 0
    assert list((tmp_path / "out").glob("*.mp4")) == []
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["duplicate of"] == {"b": "a"}


def test_a_twin_found_later_takes_the_place(tmp_path: Path) -> None:
    put(tmp_path / "in", "b", scene(0), "train")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    put(tmp_path / "in", "a", scene(0), "train")
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--resume") == 0
    assert [meta.id for meta, _ in find_episodes([tmp_path / "out"])] == ["a"]


def test_doom_levels_of_two_splits_are_no_duplicates(
    return_walks: Path, explore_walks: Path, tmp_path: Path
) -> None:
    assert run(return_walks, explore_walks, "--out", tmp_path / "out") == 0
    assert len(list(find_episodes([tmp_path / "out"]))) == 8


@pytest.mark.parametrize("flags", [["--max-bits", "8"], ["--frames", "0"]])
def test_settings_out_of_range_are_named(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a", scene(0), "train")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 2
    assert "0 <= max-bits <= 7" in capsys.readouterr().err
