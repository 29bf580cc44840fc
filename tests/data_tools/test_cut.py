import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_tools import cut
from data_tools.clips import UNLABELLED, UNREADABLE
from data_tools.files import find_episodes
from data_tools.write_shards import pack
from sfv.data.shards import read_shard
from sfv.data.stages import decode, decode_mp4
from sfv.data.windows import windows
from sfv.media.reader import about
from tests.data_tools.test_files import put
from tests.media.make import grey, number_of, with_matrix, write

ABOUT = ["--split", "train", "--domain", "human", "--licence", "CC0-1.0", "--workers", "1"]


def shot(seed: int, count: int, height: int = 48, width: int = 80) -> np.ndarray:
    """A grey textured plane that drifts slowly: no cut inside, a cut between two seeds."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 30, 1), dtype=np.uint8).repeat(3, axis=2)
    plane = coarse.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([plane[:height, i : i + width] for i in range(count)])


def film(path: Path, frames: np.ndarray, rate: int, stamps: list[int] | None = None) -> None:
    """Encode as a camera would: lossy, with the given time stamps (in frames)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number if stamps is None else stamps[number]
            picture.time_base = Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def run(*args: object) -> int:
    return cut.main([*map(str, args), *ABOUT, "--source", "a test"])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


def test_raw_videos_become_episodes_between_cuts(tmp_path: Path) -> None:
    frames = np.concatenate([shot(1, 40), shot(2, 46)])
    film(tmp_path / "in" / "my clips" / "one.mkv", frames, 20)
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--fps", 10, "--size", 24, 40) == 0
    found = list(find_episodes([tmp_path / "out"]))
    assert [meta.id for meta, _ in found] == ["my-clips-one-0000", "my-clips-one-0001"]
    for (meta, path), original in zip(found, (frames[:40:2], frames[40::2]), strict=True):
        assert (meta.num_frames, meta.fps) == (len(original), 10)
        assert (meta.scene, meta.split, meta.domain) == ("my-clips-one", "train", "human")
        assert [(a.text, a.stop) for a in meta.actions] == [(UNLABELLED, len(original))]
        got = decode_mp4(path.read_bytes())
        small = original.reshape(len(original), 24, 2, 40, 2, 3).mean(axis=(2, 4))
        assert psnr(got, small) > 35
        shifted = psnr(got[:-1], small[1:])
        assert psnr(got[:-1], small[:-1]) > shifted + 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["inputs"]["kept"] == 1 and summary["shots"] == 2 and summary["episodes"] == 2
    assert summary["frames"] == {"in episodes": 43, "left out (short rest of a shot)": 0}


LONG = "A long title " + "x" * 230


def test_names_of_any_script_and_length_make_episodes_and_hidden_files_are_counted(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    film(folder / "a.mp4", shot(3, 20), 10)
    for name in (f"{LONG}.mp4", "散歩.mp4", "走る.mp4", "café/b.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "a.mp4", folder / name)
    (folder / "._a.mp4").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / ".Trash").mkdir()
    shutil.copy(folder / "a.mp4", folder / ".Trash" / "old.mp4")
    os.mkfifo(folder / "pipe.mp4")
    assert run(folder, "--out", tmp_path / "out", "--cut-threshold", 0) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["inputs"]["given"], summary["inputs"]["kept"]) == (6, 5)
    assert summary["skipped"] == {UNREADABLE: 1} and summary["hidden files passed over"] == 2
    ids = [meta.id for meta, _ in find_episodes([tmp_path / "out"])]
    assert len(ids) == 5 and "a-0000" in ids and all(name.isascii() for name in ids)

    (tmp_path / "out" / "._a-0000.mp4").write_bytes(b"")
    assert run(tmp_path / "out", "--out", tmp_path / "again", "--cut-threshold", 0) == 0
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["episodes"] == 5 and summary["hidden files passed over"] == 1


def test_time_stamps_decide_which_frame_is_nearest(tmp_path: Path) -> None:
    frames = shot(3, 20)
    film(tmp_path / "in" / "v.mp4", frames, 10, stamps=[*range(10), *range(19, 29)])
    flags = ("--fps", 10, "--cut-threshold", 0)
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 0
    ((meta, path),) = find_episodes([tmp_path / "out"])
    got = decode_mp4(path.read_bytes())
    assert meta.num_frames == 29
    for new, old in ((9, 9), (13, 9), (16, 10), (28, 19)):
        assert psnr(got[new], frames[old]) > psnr(got[new], frames[old - 1]) + 3


def test_episodes_keep_what_is_known_of_them(explore_walks: Path, tmp_path: Path) -> None:
    before = {meta.id: meta for meta, _ in find_episodes([explore_walks])}
    args = ["--fps", 4, "--chunk-frames", 4, "--min-frames", 8, "--max-frames", 16]
    assert run(explore_walks, "--out", tmp_path / "out", *args, "--cut-threshold", 0) == 0
    found = list(find_episodes([tmp_path / "out"]))
    assert {meta.num_frames for meta, _ in found} <= {8, 16}
    for meta, path in found:
        old = before[meta.id[:-5]]
        assert (meta.scene, meta.source, meta.fps) == (old.scene, old.source, 4)
        first = 0 if meta.id.endswith("0000") else 32
        assert meta.poses == old.poses[first : first + 2 * meta.num_frames : 2]
        texts = [action.text for action in meta.actions]
        assert texts == [action.text for action in old.actions][first // 8 :][: len(texts)]
        video = decode_mp4((explore_walks / f"{old.id}.mp4").read_bytes())
        assert np.array_equal(
            decode_mp4(path.read_bytes()), video[first : first + 2 * meta.num_frames : 2]
        )


def test_a_corrupt_video_is_skipped_with_its_reason(tmp_path: Path) -> None:
    film(tmp_path / "in" / "good.mp4", shot(1, 30), 10)
    content = (tmp_path / "in" / "good.mp4").read_bytes()
    (tmp_path / "in" / "cut off.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "in" / "zeros.mp4").write_bytes(bytes(1000))
    film(tmp_path / "in" / "short.mp4", shot(1, 5), 10)
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["inputs"] == {"given": 4, "kept": 1, "skipped": 3, "from before": 0}
    assert summary["skipped"] == {"corrupt: unreadable video": 2, "no shot is long enough": 1}
    assert "Invalid data" in summary["skipped inputs"]["zeros"]["detail"]
    assert [meta.id for meta, _ in find_episodes([tmp_path / "out"])] == ["good-0000"]


def test_resume_cuts_only_new_videos(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", shot(1, 20), 10)
    args = (tmp_path / "in", "--out", tmp_path / "out")
    assert run(*args) == 0
    age = (tmp_path / "out" / "a-0000.mp4").stat().st_mtime_ns
    film(tmp_path / "in" / "b.mp4", shot(2, 20), 10)
    assert run(*args) == 2
    assert run(*args, "--resume") == 0
    assert (tmp_path / "out" / "a-0000.mp4").stat().st_mtime_ns == age
    assert [meta.id for meta, _ in find_episodes([tmp_path / "out"])] == ["a-0000", "b-0000"]


def test_what_cannot_be_cut_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(tmp_path / "none", "--out", out) == 2
    assert "none is no folder" in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", "--out", out) == 2
    assert "neither episodes nor videos" in capsys.readouterr().err
    film(tmp_path / "in" / "a b.mp4", shot(1, 20), 10)
    assert cut.main([str(tmp_path / "in"), "--out", str(out), "--split", "val"]) == 2
    assert "give --domain --source --licence for them" in capsys.readouterr().err
    film(tmp_path / "in" / "a_b.mp4", shot(1, 20), 10)
    film(tmp_path / "in" / "a+b.mp4", shot(1, 20), 10)
    assert run(tmp_path / "in", "--out", out) == 2
    assert "give the same id 'a-b'; rename one" in capsys.readouterr().err


def test_an_episode_whose_video_lacks_frames_is_skipped(tmp_path: Path) -> None:
    put(tmp_path / "in", "a")
    put(tmp_path / "in", "b", num_chunks=5)
    (tmp_path / "in" / "a.mp4").write_bytes((tmp_path / "in" / "b.mp4").read_bytes())
    flags = ("--min-frames", 6, "--cut-threshold", 0)
    assert run(tmp_path / "in", "--out", tmp_path / "out", *flags) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["skipped inputs"]["a"]["detail"] == "15 frames, the metadata says 12"
    assert [meta.id for meta, _ in find_episodes([tmp_path / "out"])] == ["b-0000"]


def test_pieces_in_chunks_go_into_training_windows(explore_walks: Path, tmp_path: Path) -> None:
    args = ["--fps", 4, "--chunk-frames", 4, "--min-frames", 12, "--cut-threshold", 0]
    assert run(explore_walks, "--out", tmp_path / "out", *args) == 0
    index = pack([tmp_path / "out"], tmp_path / "shards")["train"]
    for shard in index.shards:
        for sample in read_shard(index.folder / shard.name, shard):
            cut_from = windows(sample.meta, decode(sample), 4, 4)
            texts = [action.text for action in sample.meta.actions]
            assert [window.action for window in cut_from] == texts[1:]


@pytest.mark.parametrize("rate", [Fraction(1, 2), Fraction(25, 2), Fraction(30000, 1001)])
def test_the_rate_is_written_as_it_is(tmp_path: Path, rate: Fraction) -> None:
    write(tmp_path / "in" / "a.mp4", [grey(i % 40) for i in range(20)], fps=rate)
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--cut-threshold", 0) == 0
    ((meta, path),) = find_episodes([tmp_path / "out"])
    assert meta.fps == pytest.approx(float(rate)) and about(path).rate == rate
    assert [number_of(frame) for frame in decode_mp4(path.read_bytes())] == list(range(20))


def test_a_telephone_s_screen_recording_is_upright_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.mp4"
    times = [i / 10 for i in range(20)]
    write(path, [grey(i) for i in range(20)], times=times, last=5, bf="0")
    with_matrix(path, 0, 1, -1, 0)
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--cut-threshold", 0) == 0
    ((meta, _),) = find_episodes([tmp_path / "out"])
    assert (meta.height, meta.width, meta.fps) == (48, 32, 10)
    assert meta.num_frames == 69, "the last frame stays for five seconds"


def test_a_piece_too_large_to_hold_is_skipped(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "in" / "a.mp4", [grey(i) for i in range(20)])
    monkeypatch.setattr("sfv.media.limits.MAX_SAMPLE_PIXELS", 10 * 32 * 48)
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--cut-threshold", 0) == 1
    said = (tmp_path / "out" / "summary.json").read_text()
    assert "more pixels than can be held" in said and "give --size" in said
