import resource
from pathlib import Path

import numpy as np
import pytest

from data_tools.files import encode_mp4, find_episodes, h264, settings_hash, write_episode
from sfv.data.schema import SchemaError
from sfv.data.stages import decode_mp4
from sfv.files import write_bytes
from tests.data.make import make_meta, make_video, video_sample


def put(folder: Path, key: str, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    sample = video_sample(key, **changes)
    write_episode(folder, sample.meta, sample.payload)


def test_mp4_is_lossless_for_any_even_size() -> None:
    for height, width in ((16, 24), (64, 64), (18, 30)):
        frames = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
        assert np.array_equal(decode_mp4(encode_mp4(frames, 8.0)), frames)


def test_frames_may_come_one_by_one() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
    assert encode_mp4(iter(frames), 8.0) == encode_mp4(frames, 8.0)


def test_h264_is_smaller_and_close() -> None:
    """Camera video: smooth pictures with noise, as a sensor makes it."""
    noise = np.random.default_rng(0).normal(0, 6, (8, 48, 64, 3))
    smooth = np.linspace(40, 200, 64)[None, None, :, None]
    frames = (smooth + noise).clip(0, 255).astype(np.uint8)
    exact, small, smaller = (encode_mp4(frames, 8.0, *q) for q in ((), (h264(),), (h264(40),)))
    assert len(smaller) < len(small) < len(exact) / 2
    for content, most in ((small, 8.0), (smaller, 12.0)):
        decoded = decode_mp4(content)
        assert decoded.shape == frames.shape
        assert 0 < np.abs(decoded.astype(float) - frames).mean() < most


def test_h264_gives_the_same_bytes_each_time() -> None:
    """Slower presets of x264 do not, on small pictures: some of their choices hang on stale memory."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 1, (2, 64, 64, 3)).cumsum(1).cumsum(2)
    first, last = 128 + 120 * scenes / np.abs(scenes).max()
    fade = np.stack([first * (1 - t) + last * t for t in np.linspace(0, 1, 40)])
    frames = (fade + rng.normal(0, 4, fade.shape)).clip(0, 255).astype(np.uint8)
    made = set()
    for size in range(1000, 9000, 1000):
        stale = [rng.integers(0, 256, 30 * size, dtype=np.uint8) for _ in range(20)]
        del stale
        made.add(encode_mp4(frames, 8.0, h264()))
    assert len(made) == 1


def test_what_cannot_be_encoded_is_named() -> None:
    with pytest.raises(ValueError, match="no frame to encode"):
        encode_mp4(iter([]), 8.0)
    with pytest.raises(ValueError, match="frames of 15x24: h264 needs an even height"):
        encode_mp4(np.zeros((2, 15, 24, 3), dtype=np.uint8), 8.0, h264())
    with pytest.raises(ValueError, match=r"crf 52: allowed are 0 \(best\) to 51"):
        h264(52)


def test_episodes_are_found_in_the_order_of_their_ids(tmp_path: Path) -> None:
    put(tmp_path / "one", "b")
    put(tmp_path / "two", "a")
    put(tmp_path / "two", "c")
    (tmp_path / "two" / "summary.json").write_text("{}")
    found = list(find_episodes([tmp_path / "one", tmp_path / "two"]))
    assert [meta.id for meta, _ in found] == ["a", "b", "c"]
    assert np.array_equal(decode_mp4(found[1][1].read_bytes()), make_video("b", 12))


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no episode"):
        list(find_episodes([tmp_path]))
    put(tmp_path / "one", "a")
    put(tmp_path / "two", "a")
    with pytest.raises(SchemaError, match=r"'a' stands in .*two and .*one"):
        list(find_episodes([tmp_path / "one", tmp_path / "two"]))
    (tmp_path / "one" / "a.json").rename(tmp_path / "one" / "b.json")
    with pytest.raises(SchemaError, match=r"'a' has only one of \.mp4 and \.json"):
        list(find_episodes([tmp_path / "one"]))
    (tmp_path / "one" / "a.mp4").rename(tmp_path / "one" / "b.mp4")
    with pytest.raises(SchemaError, match=r"b\.json: names the id 'a'"):
        list(find_episodes([tmp_path / "one"]))


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*a\.mp4 .*make room"):
            write_episode(tmp_path, make_meta("a"), bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_write_atomic_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="nothing half-written was left there"):
            write_bytes(path, bytes(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_settings_hash_is_stable() -> None:
    assert settings_hash({"b": 1, "a": (1, 2)}) == settings_hash({"a": [1, 2], "b": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
