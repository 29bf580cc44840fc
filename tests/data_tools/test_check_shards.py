import io
from pathlib import Path

import av
import numpy as np
import pytest

from data_tools import check_shards
from sfv.data.shards import write_shards
from tests.data.make import HEIGHT, WIDTH, make_video, video_sample


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    train = [video_sample("a-000"), video_sample("a-001", 5)]
    write_shards(train, tmp_path / "train", "train", max_bytes=1)
    test = [video_sample("t-000", split="test", scene="hall")]
    write_shards(test, tmp_path / "test", "test")
    return tmp_path


def test_good_shards_pass(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_shards.main([str(shards)]) == 0
    out = capsys.readouterr().out
    assert "train: 2 of 2 episodes, 27 frames, 1 scenes, 2 shards" in out
    assert "test: 1 of 1 episodes, 12 frames" in out
    assert check_shards.main([str(shards / "test"), "--no-frames"]) == 0


def test_every_fault_is_reported(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = shards / "train" / "train-000000.tar"
    content = bytearray(first.read_bytes())
    content[content.index(b"ftyp") - 4 : content.index(b"ftyp") + 200] = bytes(204)
    first.write_bytes(content)
    (shards / "test" / "test-000000.tar").unlink()
    assert check_shards.main([str(shards)]) == 1
    faults = capsys.readouterr().err
    assert "train-000000.tar: content differs from the hash" in faults
    assert "a-000: unreadable video" in faults
    assert "test-000000.tar is missing" in faults


def test_a_scene_in_two_splits_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([video_sample("a")], tmp_path / "train", "train")
    write_shards([video_sample("b", split="val")], tmp_path / "val", "val")
    assert check_shards.main([str(tmp_path)]) == 1
    assert "scene 'yard' stands in split 'train'" in capsys.readouterr().err


def test_an_empty_folder_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_shards.main([str(tmp_path)]) == 1
    assert "neither index.json nor one of the folders" in capsys.readouterr().err


def test_the_contact_sheet_shows_first_and_last_frames(shards: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert check_shards.main([str(shards / "train"), "--contact-sheet", str(sheet)]) == 0
    with av.open(io.BytesIO(sheet.read_bytes())) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert image.shape == (2 * HEIGHT, 12 * WIDTH, 3)
    assert np.array_equal(image[HEIGHT:, :WIDTH], make_video("a-001", 15)[0])
    assert np.array_equal(image[:HEIGHT, -WIDTH:], make_video("a-000", 12)[-1])
