import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.film import Shape, duration, fitted, frames_at, pictures
from data_tools.convert.recording import BadInput, Recording
from tests.data_tools.convert.films import (
    marked,
    numbers,
    sound_only,
    truncated,
    turn,
    write_film,
    write_png,
)
from tests.media.make import grey, number_of, write

SHAPE = Shape(16, 16)


def take(path: Path, times: list[float], start: float = 0.0, **changes) -> list[int]:
    recording = Recording("a", "s", path, start=start, **changes)
    return numbers(np.stack(list(frames_at(recording, times, SHAPE))))


def test_the_frame_shown_at_each_moment_is_given(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 60, fps=30)
    assert take(film, [i / 8 for i in range(8)]) == [0, 3, 7, 11, 15, 18, 22, 26]
    assert take(film, [i / 30 for i in range(60)]) == list(range(60))
    assert take(film, [i / 60 for i in range(9)]) == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_broadcast_rates_do_not_drift(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 60, fps=Fraction(30000, 1001))
    times = [i / 10 for i in range(20)]
    assert take(film, times) == [int(time * 30000 / 1001 + 0.03) for time in times]


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("start", [0.1, 0.4, 13 / 30, 1.5])
def test_a_stretch_starts_at_its_frame_wherever_key_frames_are(
    tmp_path: Path, start: float, codec: str
) -> None:
    film = write_film(tmp_path / "a.mp4", 60, fps=30, size=(64, 96), gop=25, codec=codec)
    first = round(start * 30)
    assert take(film, [0, 1 / 30, 3 / 30], start) == [first, first + 1, first + 3]


def test_duration_is_that_of_the_stretch(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 45, fps=30)
    assert duration(Recording("a", "s", film)) == pytest.approx(1.5, abs=1e-3)
    assert duration(Recording("a", "s", film, start=0.5, stop=9.0)) == pytest.approx(1.0, abs=1e-3)
    assert duration(Recording("a", "s", film, start=0.5, stop=0.75)) == pytest.approx(0.25)
    with pytest.raises(BadInput, match=r"no frame in the wanted stretch: a\.mp4 lasts 1\.500 s"):
        duration(Recording("a", "s", film, start=2.0))


def test_a_film_that_ends_early_is_refused(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 30, fps=30)
    assert take(film, [0.99]) == [29]
    with pytest.raises(BadInput, match=r"ends before its stated length .*last at 0\.967 s"):
        take(film, [0.0, 1.5])


@pytest.mark.parametrize(("faststart", "share"), [(False, 0.6), (True, 0.6), (True, 0.9)])
def test_a_truncated_film_is_refused(tmp_path: Path, faststart: bool, share: float) -> None:
    film = write_film(tmp_path / "a.mp4", 60, faststart=faststart, size=(96, 128))
    truncated(film, share)
    with pytest.raises(BadInput, match=r"a\.mp4"):
        recording = Recording("a", "s", film)
        times = [i / 30 for i in range(int(duration(recording) * 30))]
        list(frames_at(recording, times, SHAPE))


def test_files_that_are_no_film_are_named(tmp_path: Path) -> None:
    for name, content in (("empty.mp4", b""), ("text.mp4", b"not a film at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=f"cannot be read or is damaged: {name}"):
            duration(Recording("a", "s", tmp_path / name))
    with pytest.raises(BadInput, match=r"missing: gone\.mp4"):
        duration(Recording("a", "s", tmp_path / "gone.mp4"))
    with pytest.raises(BadInput, match=r"without a video stream: sound\.mp4"):
        duration(Recording("a", "s", sound_only(tmp_path / "sound.mp4")))


@pytest.mark.parametrize("clockwise", [True, False])
def test_a_camera_held_sideways_is_set_upright(tmp_path: Path, clockwise: bool) -> None:
    film = write_film(tmp_path / "a.mp4", 4, size=(32, 64))
    turn(film, clockwise)
    recording = Recording("a", "s", film)
    (picture,) = frames_at(recording, [0.0], Shape(64, 32))
    assert picture.shape == (64, 32, 3), "larger than the picture is high, were it not turned"


def test_turning_goes_the_noted_way(tmp_path: Path) -> None:
    import av

    picture = np.zeros((32, 64, 3), dtype=np.uint8)
    picture[:, :32] = 200  # the left half is bright; turned clockwise, the upper one
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    turn(path, clockwise=True)
    (upright,) = frames_at(Recording("a", "s", path), [0.0], Shape(64, 32))
    assert upright[:30].mean() > 150 and upright[34:].mean() < 50


def test_crop_keeps_the_middle_and_averages_areas() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 30, 3), dtype=np.uint8)
    small = fitted(picture, Shape(4, 6))
    middle = picture[:, 6:24].reshape(4, 3, 6, 3, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(small - middle).max() <= 0.5
    tall = fitted(picture.transpose(1, 0, 2), Shape(4, 4))
    assert (
        np.abs(tall - picture.transpose(1, 0, 2)[9:21].reshape(4, 3, 4, 3, 3).mean((1, 3))).max()
        <= 0.5
    )


def test_pad_keeps_everything_between_black_bars() -> None:
    picture = np.random.default_rng(0).integers(1, 256, (12, 24, 3), dtype=np.uint8)
    small = fitted(picture, Shape(8, 8, "pad"))
    assert np.abs(small[2:6] - picture.reshape(4, 3, 8, 3, 3).mean((1, 3))).max() <= 0.5
    assert not small[:2].any() and not small[6:].any()


def test_pictures_are_never_enlarged() -> None:
    with pytest.raises(BadInput, match=r"smaller than --size: 48x64, wanted 64x64 \(crop\)"):
        fitted(marked(0), Shape(64, 64))
    assert fitted(marked(3), Shape(48, 64)).shape == (48, 64, 3)


def test_pictures_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10, 11):
        write_png(tmp_path / f"{number}.png", marked(number))
    (tmp_path / "notes.txt").write_text("")
    assert [p.stem for p in pictures(tmp_path)] == ["0", "1", "2", "10", "11"]
    assert duration(Recording("a", "s", tmp_path, picture_fps=5.0)) == 1.0
    assert take(tmp_path, [0.0, 0.2, 0.65], picture_fps=5.0) == [0, 1, 10]
    assert take(tmp_path, [0.0, 0.2], start=0.4, picture_fps=5.0) == [2, 10]


def test_faults_of_a_folder_of_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without pictures"):
        pictures(tmp_path)
    write_png(tmp_path / "a1.png", marked(1))
    write_png(tmp_path / "b01.png", marked(1))
    with pytest.raises(BadInput, match="not numbered one by one"):
        pictures(tmp_path)
    (tmp_path / "b01.png").unlink()
    (tmp_path / "a1.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"damaged: a1\.png"):
        take(tmp_path, [0.0], picture_fps=5.0)


def test_damage_is_never_more_than_bad_input(tmp_path: Path) -> None:
    """Bytes changed at random: some hit the codec's name, a text's encoding, a size or the pictures."""
    content = write_film(tmp_path / "a.mp4", 12, fps=10, size=(16, 24)).read_bytes()
    rng, outcomes = np.random.default_rng(0), set()
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=8):
            damaged[place] = rng.integers(256)
        (tmp_path / "b.mp4").write_bytes(damaged)
        recording = Recording("a", "s", tmp_path / "b.mp4")
        try:
            times = [i / 5 for i in range(min(5, int(duration(recording) * 5)))]
            list(frames_at(recording, times, Shape(8, 8)))
            outcomes.add("fine")
        except BadInput as error:
            outcomes.add(str(error).partition(": ")[0])
    assert {
        "fine",
        "video with a codec that is not known",
        "video cannot be read or is damaged",
    } <= outcomes


def test_a_length_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 12, fps=10)
    content = bytearray(film.read_bytes())
    # the time scale and the length; what a frame lasts; how much of it is shown
    changes = (
        (b"mdhd", 16, 1),
        (b"mdhd", 20, 2**31 - 1),
        (b"stts", 16, 10**8),
        (b"elst", 12, 2**31 - 1),
    )
    for box, place, value in changes:
        start = content.index(box) + place
        content[start : start + 4] = struct.pack(">I", value)
    film.write_bytes(content)
    with pytest.raises(BadInput, match="states a length of more than a week"):
        duration(Recording("a", "s", film))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_and_held_frames_do_not_change_what_is_shown(tmp_path: Path, name: str) -> None:
    long_sound = write(tmp_path / "sound" / name, [grey(i) for i in range(20)], sound=5)
    assert duration(Recording("a", "s", long_sound)) == pytest.approx(2.0, abs=0.01)
    times = [i / 10 for i in range(20)]
    held = write(tmp_path / name, [grey(i) for i in range(20)], times=times, last=5, bf="0")
    recording = Recording("a", "s", held)
    assert duration(recording) == pytest.approx(6.9)
    shown = frames_at(recording, [0.0, 1.95, 4.0, 6.8], SHAPE)
    assert [number_of(picture) for picture in shown] == [0, 19, 19, 19]


def test_pictures_of_a_folder_are_upright(tmp_path: Path) -> None:
    image = Image.fromarray(marked(1, 24, 48))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "0.jpg", exif=exif)
    (picture,) = frames_at(Recording("a", "s", tmp_path, picture_fps=1.0), [0.0], Shape(48, 24))
    assert picture.shape == (48, 24, 3)
