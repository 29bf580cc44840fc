from pathlib import Path

import pytest

from data_tools.convert import epic_kitchens
from data_tools.convert.recording import BadInput
from tests.data_tools.convert.films import episodes, numbers, summary, texts, truncated, write_film

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def row(
    video: str, index: int, start: str, stop: str, words: str, kitchen: str | None = None
) -> str:
    verb, noun = words.split(" ", 1)
    kitchen = video.split("_")[0] if kitchen is None else kitchen
    return (
        f"{video}_{index},{kitchen},{video},00:00:01.089,00:00:{start},00:00:{stop},8,202,{words},"
        f"{verb},3,{noun},3,['{noun}'],[3]\n"
    )


def call(tmp_path: Path, rows: str, *more: str, split: str = "train") -> int:
    table = tmp_path / "EPIC_100_train.csv"
    table.write_text(HEADER + rows)
    return epic_kitchens.main(
        ["--annotations", str(table), "--videos", str(tmp_path / "EPIC-KITCHENS"), "--split", split,
         "--out", str(tmp_path / "out"), "--size", "32x56", "--chunk-frames", "4", *more]
    )  # fmt: skip


def test_narrations_become_actions_of_their_kitchen(tmp_path: Path) -> None:
    """The narrations of the file's first lines: a gap after each; another overlaps."""
    write_film(tmp_path / "EPIC-KITCHENS/P01/videos/P01_01.MP4", 240, fps=60, size=(36, 64))
    rows = (
        row("P01_01", 2, "02.50", "04.00", "close door")
        + row("P01_01", 0, "00.00", "01.50", "open door")
        + row("P01_01", 1, "01.00", "02.00", "turn-on light")
    )
    assert call(tmp_path, rows) == 0
    found = episodes(tmp_path / "out")
    assert [meta.scene for meta, _ in found.values()] == ["epic/P01"] * 2
    (first, frames), (second, _) = found.values()
    assert texts(first) == ["open door", "open door", "turn-on light", "turn-on light"]
    assert texts(second) == ["close door", "close door", "close door"]
    assert numbers(frames) == [int(i * 7.5) % 64 for i in range(16)]
    assert first.actions[2].raw == {
        "annotation": {
            "narration_id": "P01_01_1", "verb": "turn-on", "verb_class": "3", "noun": "light",
            "noun_class": "3",
        }
    }  # fmt: skip
    assert (first.domain, first.licence) == ("human", "CC-BY-NC-4.0")
    assert summary(tmp_path / "out")["left out of kept inputs"] == {"frames without an action": 4}


def test_faults_are_counted_by_narration_and_video(tmp_path: Path) -> None:
    for name in ("P01/P01_01.mp4", "P02_01.MP4", "P03/videos/P03_01.MP4"):
        write_film(tmp_path / "EPIC-KITCHENS" / name, 60)
    truncated(tmp_path / "EPIC-KITCHENS/P03/videos/P03_01.MP4", 0.4)
    rows = (
        row("P01_01", 0, "00.00", "02.00", "open door")
        + row("P01_01", 1, "0x.00", "02.00", "open door")
        + row("P01_01", 0, "00.00", "01.00", "open door")
        + row("P02_01", 0, "00.00", "02.00", "wash pan")
        + row("P03_01", 0, "00.00", "02.00", "wash pan")
        + row("P04_01", 0, "00.00", "02.00", "wash pan")
        + row("../P02_01", 0, "00.00", "02.00", "wash pan", kitchen="P02")
    )
    assert call(tmp_path, rows) == 1
    assert sorted(episodes(tmp_path / "out")) == ["epic-P01_01-000", "epic-P02_01-000"]
    counted = summary(tmp_path / "out")
    assert counted["skipped"] == {
        "narration_id twice": 1,
        "not a plain name": 1,
        "not a time HH:MM:SS.ss": 1,
        "video cannot be read or is damaged": 1,
        "video file is missing": 1,
    }


def test_a_missing_kitchen_is_an_error_with_a_hint(tmp_path: Path, capsys) -> None:
    write_film(tmp_path / "EPIC-KITCHENS/P01_01.MP4", 30)
    assert call(tmp_path, row("P01_01", 0, "00.00", "01.00", "open door", kitchen="")) == 2
    assert "scene is missing" in (error := capsys.readouterr().err) and "participant_id" in error


def test_the_test_file_without_narrations_is_an_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "EPIC-KITCHENS").mkdir()
    table = tmp_path / "EPIC_100_test_timestamps.csv"
    table.write_text("narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n")
    assert epic_kitchens.main(
        ["--annotations", str(table), "--videos", str(tmp_path), "--split", "test", "--out",
         str(tmp_path / "out")]
    ) == 2  # fmt: skip
    assert "CSV lacks the column 'narration'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("00:00:00.14", 0.14), ("01:02:03.5", 3723.5), ("00:00:07", 7.0)]
)
def test_times_are_read(text: str, value: float) -> None:
    assert epic_kitchens.seconds(text, "x") == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "1.5", "00:61:00", "00:00:99.1", "-00:00:01", "nan", "00:00:1e3"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"not a time HH:MM:SS\.ss: P01 is"):
        epic_kitchens.seconds(text, "P01")
