import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfv.media.limits import MAX_PIXELS, MediaError
from sfv.media.reader import about, frames, read_frames, read_picture
from tests.media.make import grey, huge_png, number_of, patch, with_matrix, write

PICTURES = [grey(i) for i in range(20)]
TENTHS = [i / 10 for i in range(20)]


def seen(path: Path, start: float = 0.0) -> list[int]:
    return [number_of(frame.rgb()) for frame in frames(path, start=start)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("a.avi", {"bf": "2"}),
        ("b.avi", {"codec": "mpeg4", "bf": "2", "b": "4M"}),
        ("a.webm", {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "9"}),
        ("b.webm", {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "9", "b": "4M"}),
        ("interlaced.mp4", {"x264-params": "interlaced=1"}),
        ("ten_bits.mkv", {"pix_fmt": "yuv420p10le"}),
        ("grey.mkv", {"codec": "ffv1", "pix_fmt": "gray16le"}),
        ("alpha.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("a.apng", {"codec": "apng", "pix_fmt": "rgb24"}),
        ("a.flv", {"codec": "flv", "b": "4M"}),
        ("a.h264", {"fps": 25}),
    ],
)
def test_frames_come_in_order_at_their_times(tmp_path: Path, name: str, settings: dict) -> None:
    fps = settings.get("fps", 10)
    path = write(tmp_path / name, PICTURES, **settings)
    found = list(frames(path))
    assert [number_of(frame.rgb()) for frame in found] == list(range(20))
    np.testing.assert_allclose([frame.time for frame in found], np.arange(20) / fps, atol=2e-3)
    np.testing.assert_allclose([frame.stop for frame in found], np.arange(1, 21) / fps, atol=2e-3)
    assert about(path).seconds == pytest.approx(20 / fps, abs=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_reading_begins_at_or_before_the_start(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PICTURES, bf="2")
    found = list(frames(path, start=1.5))
    assert found[0].time <= 1.5
    assert all(number_of(frame.rgb()) == round(frame.time * 10) for frame in found)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_length_is_that_of_the_picture_not_of_the_sound(tmp_path: Path, name: str) -> None:
    assert about(write(tmp_path / name, PICTURES, sound=6)).seconds == pytest.approx(2, abs=0.01)
    held = write(tmp_path / f"held{name}", PICTURES, times=TENTHS, last=5, bf="0")
    assert about(held).seconds == pytest.approx(6.9)
    assert list(frames(held))[-1].stop == pytest.approx(6.9)


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", PICTURES, bf="0")
    patch(path, b"elst", 12, struct.pack(">II", 1500, 5 * 1024))  # 1.5 s from frame 5 on
    assert seen(path) == list(range(5, 20))
    assert about(path).seconds == pytest.approx(1.5)


def test_varied_frame_times_are_kept(tmp_path: Path) -> None:
    times = [3, 3.1, 3.15, 3.9, 4.0]
    path = write(tmp_path / "a.mp4", PICTURES[:5], times=times)
    assert [round(f.time, 3) for f in frames(path)] == [0, 0.1, 0.15, 0.9, 1.0]


def test_time_stamps_that_do_not_rise_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", PICTURES[:3], times=[0, 0.25, 0.5], bf="0")
    data = path.read_bytes()
    assert data.count(struct.pack(">H", 500) + b"\x80") == 1  # the time of the last block
    path.write_bytes(
        data.replace(struct.pack(">H", 500) + b"\x80", struct.pack(">H", 125) + b"\x80")
    )
    expected = (
        r"a\.mkv: time stamps do not rise \(frame 2 at 0\.125 s comes after frame 1 at 0\.250 s\)"
    )
    with pytest.raises(MediaError, match=expected):
        list(frames(path))


CORNER = np.zeros((32, 48, 3), dtype=np.uint8)
CORNER[:16, :24] = (250, 250, 250)


def corner(picture: np.ndarray) -> tuple[str, str]:
    """Where the bright quarter is."""
    rows, columns = np.nonzero(picture[..., 0] > 100)
    return (
        "upper" if rows.mean() < picture.shape[0] / 2 else "lower",
        "left" if columns.mean() < picture.shape[1] / 2 else "right",
    )


@pytest.mark.parametrize(
    ("matrix", "shape", "place"),
    [
        ((0, 1, -1, 0), (48, 32, 3), ("upper", "right")),
        ((-1, 0, 0, -1), (32, 48, 3), ("lower", "right")),
        ((0, -1, 1, 0), (48, 32, 3), ("lower", "left")),
        ((-1, 0, 0, 1), (32, 48, 3), ("upper", "right")),
        ((1, 0, 0, -1), (32, 48, 3), ("lower", "left")),
    ],
)
def test_a_telephone_s_video_is_set_upright(
    tmp_path: Path, matrix: tuple, shape: tuple, place: tuple
) -> None:
    path = with_matrix(write(tmp_path / "a.mp4", [CORNER] * 2), *matrix)
    (first, _) = frames(path)
    assert first.rgb().shape == shape and first.size == shape[:2]
    assert corner(first.rgb()) == place


@pytest.mark.parametrize(
    ("orientation", "place"),
    enumerate(
        [
            ("upper", "left"), ("upper", "right"), ("lower", "right"), ("lower", "left"),
            ("upper", "left"), ("upper", "right"), ("lower", "right"), ("lower", "left"),
        ],
        1,
    ),
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_picture_is_set_upright(
    tmp_path: Path, orientation: int, place: tuple, suffix: str
) -> None:
    image = Image.fromarray(CORNER)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.shape == ((48, 32, 3) if orientation > 4 else (32, 48, 3))
    assert corner(picture) == place


def test_pixels_become_square(tmp_path: Path) -> None:
    wide = write(tmp_path / "a.mp4", PICTURES[:2], aspect=Fraction(4, 3))
    assert read_frames(wide).shape == (2, 32, 64, 3)
    tall = write(tmp_path / "b.mp4", PICTURES[:2], aspect=Fraction(1, 2))
    assert read_frames(tall).shape == (2, 64, 48, 3)
    nearly = write(tmp_path / "c.mp4", PICTURES[:2], aspect=Fraction(135, 136))
    assert read_frames(nearly).shape == (2, 32, 48, 3)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("LA", "a.png"), ("P", "a.png"), ("RGBA", "a.webp"), ("CMYK", "a.jpg"),
     ("RGB", "a.bmp"), ("RGB", "a.avif")],
)  # fmt: skip
def test_pictures_of_all_kinds_become_rgb(tmp_path: Path, mode: str, name: str) -> None:
    Image.fromarray(grey(9)).convert(mode).save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert picture.shape == (32, 48, 3) and number_of(picture) == 9


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24), 0x6412, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 0x64).all()


def test_what_is_transparent_shows_black(tmp_path: Path) -> None:
    clear = np.full((16, 24, 4), 200, dtype=np.uint8)
    clear[..., 3] = 0
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert not read_picture(tmp_path / "a.png").any()
    write(tmp_path / "a.mkv", [clear[..., :3]], codec="ffv1", pix_fmt="bgra")
    assert read_frames(tmp_path / "a.mkv").min() == 200, "opaque"


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_animations_keep_their_times(tmp_path: Path, name: str) -> None:
    first, *others = [Image.fromarray(grey(i)) for i in (0, 10, 20)]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=[100, 300, 200])
    assert seen(tmp_path / name) == [0, 10, 20]
    assert [round(f.time, 3) for f in frames(tmp_path / name)] == [0, 0.1, 0.4]
    assert about(tmp_path / name).seconds == pytest.approx(0.6)


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (30000, 30000), (20000, 2)])
def test_a_picture_that_claims_too_much_is_refused_at_its_header(
    tmp_path: Path, width: int, height: int
) -> None:
    (tmp_path / "a.png").write_bytes(huge_png(width, height))
    expected = rf"a\.png: larger than allowed .*{MAX_PIXELS} pixels a frame and 16384 a side"
    with pytest.raises(MediaError, match=expected):
        read_picture(tmp_path / "a.png")


def test_larger_frames_than_expected_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mp4", [grey(0, 64, 64)] * 2)
    monkeypatch.setattr("sfv.media.clock.Clock.see", lambda *_: pytest.fail("a packet was read"))
    with pytest.raises(MediaError, match=r"frame 0 is 64x64, expected is 32x48"):
        read_frames(path, size=(32, 48))


def test_no_more_is_held_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", PICTURES)
    monkeypatch.setattr("sfv.media.limits.MAX_SAMPLE_PIXELS", 5 * 32 * 48)
    assert len(read_frames(path, most=5)) == 5
    with pytest.raises(MediaError, match=r"more pixels than can be held .*6 frames of 32x48"):
        read_frames(path)


def textured(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, 32, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_hole_is_found_and_its_frame_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, textured(20), codec="mpeg4" if "avi" in name else "libx264")
    data = path.read_bytes()
    hole = len(data) // 2
    path.write_bytes(data[:hole] + bytes(4000) + data[hole + 4000 :])
    with pytest.raises(MediaError, match=rf"{name}: .*(frame \d+|corrupt)"):
        list(frames(path))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
def test_a_truncated_video_is_refused(tmp_path: Path, name: str) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    path = write(tmp_path / name, textured(40), codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    for read in (about, lambda p: list(frames(p))):
        with pytest.raises(MediaError, match=name):
            read(path)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    """HEVC whose sixth packet holds filling alone: FFmpeg goes on without a word."""
    with pytest.raises(MediaError, match=r"missing_frame\.mp4: .*frame 5 is missing"):
        list(frames(Path(__file__).with_name("missing_frame.mp4")))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"no film at all" * 50, "cannot be read or is damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture cannot be read or is damaged"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC pictures cannot be read"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be read or is damaged"),
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    write(tmp_path / "other.mp4", PICTURES[:2])  # must not be read through a list of files
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=f"a.mp4: .*{fault}"):
        list(frames(tmp_path / "a.mp4"))
    with pytest.raises(MediaError, match=r"video file is missing"):
        list(frames(tmp_path / "gone.mp4"))
