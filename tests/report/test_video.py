import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import vizdoom
from PIL import Image, ImageSequence

from sfv.report.video import encode_gif, encode_mp4, side_by_side, to_frames


def decode_mp4(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


def decode_gif(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Frames and their delays in milliseconds, read by another library than the writer's."""
    pictures = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
    pairs = [(np.asarray(p.convert("RGB")), p.info["duration"]) for p in pictures]
    return [frame for frame, _ in pairs], [delay for _, delay in pairs]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def enlarged(frames: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(frames, np.ones((1, factor, factor, 1), np.uint8))


def test_mp4_keeps_each_frame_in_its_place(frames: np.ndarray) -> None:
    decoded = decode_mp4(encode_mp4(frames, 8.0, upscale=3))
    assert [d.shape for d in decoded] == [(90, 132, 3)] * 20
    scores = np.array([[psnr(d, e) for e in enlarged(frames, 3)] for d in decoded])
    assert (scores.argmax(axis=1) == np.arange(20)).all()
    assert scores.diagonal().min() > 30


def test_mp4_pads_odd_sides_with_their_last_pixels(frames: np.ndarray) -> None:
    odd = frames[:3, :29, :43]
    decoded = decode_mp4(encode_mp4(odd, 8.0, crf=0))
    assert decoded[0].shape == (30, 44, 3)
    assert psnr(decoded[2][:29, :43], odd[2]) > 30
    assert np.abs(decoded[2][29].astype(int) - decoded[2][28]).max() <= 2


def test_mp4_is_what_browsers_play(frames: np.ndarray) -> None:
    with av.open(io.BytesIO(encode_mp4(frames, 12.5))) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            Fraction(25, 2),
        )
        assert (context.colorspace, context.color_range) == (1, 1)
        keyframes = [p.pts for p in container.demux(stream) if p.is_keyframe and p.pts is not None]
        assert len(keyframes) == 2
        assert float(stream.duration * stream.time_base) == pytest.approx(20 / 12.5)


def test_mp4_keeps_a_flat_colour() -> None:
    flat = np.full((3, 32, 48, 3), (200, 30, 60), np.uint8)
    middle = decode_mp4(encode_mp4(flat, 8.0))[1][16, 24]
    assert np.abs(middle.astype(int) - (200, 30, 60)).max() <= 3


def test_mp4_bytes_are_repeatable(frames: np.ndarray) -> None:
    assert encode_mp4(frames, 8.0) == encode_mp4(frames, 8.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps=0: frames per second must be above 0"),
        ({"fps": float("inf")}, "must be above 0 and finite"),
        ({"fps": 8.0, "upscale": 0}, "upscale=0: allowed are whole factors from 1"),
        ({"fps": 8.0, "crf": 52}, "crf=52: x264 allows 0"),
    ],
)
def test_mp4_names_a_wrong_setting(
    frames: np.ndarray, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_mp4(frames, **settings)  # type: ignore[arg-type]


def test_no_frames_is_an_error(frames: np.ndarray) -> None:
    for encode in (encode_mp4, encode_gif):
        with pytest.raises(ValueError, match="at least one frame"):
            encode(frames[:0], 8.0)


def test_gif_keeps_repeated_frames_and_the_length(frames: np.ndarray) -> None:
    frames[5:8] = frames[4]
    decoded, delays = decode_gif(encode_gif(frames, 8.0))
    assert [d.shape for d in decoded] == [(30, 44, 3)] * 20
    assert sum(delays) == 20 * 125
    assert set(delays) == {120, 130}
    scores = [psnr(d, f) for d, f in zip(decoded, frames, strict=True)]
    assert min(scores) > 30


def test_gif_loops_for_ever(frames: np.ndarray) -> None:
    assert Image.open(io.BytesIO(encode_gif(frames, 8.0))).info["loop"] == 0


def test_gif_of_one_frame(frames: np.ndarray) -> None:
    decoded, _ = decode_gif(encode_gif(frames[3:4], 8.0))
    assert len(decoded) == 1
    assert psnr(decoded[0], frames[3]) > 30


def test_gif_refuses_a_rate_that_viewers_slow_down(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"fps=60.0: GIF viewers play at most 50"):
        encode_gif(frames, 60.0)


def doom_turn(num_frames: int) -> np.ndarray:
    """A turn on the spot in a real game, 96 x 128."""
    game = vizdoom.DoomGame()
    game.set_doom_map("map01")
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_seed(3)
    game.init()
    screens = []
    for _ in range(num_frames):
        screens.append(np.array(game.get_state().screen_buffer[12:108, 16:144]))
        game.make_action([11.25])
    game.close()
    return np.stack(screens)


def test_palette_fits_real_frames(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    walk = doom_turn(12)
    decoded, _ = decode_gif(encode_gif(walk, 8.0))
    assert min(psnr(d, f) for d, f in zip(decoded, walk, strict=True)) > 32


def test_panels_stand_under_their_labels(frames: np.ndarray) -> None:
    row = side_by_side([frames, frames[:12, :, ::-1]], ["true", "with memory"], upscale=4)
    height, width, strip, gap = 30 * 4, 44 * 4, 24, 4
    assert row.shape == (20, strip + height, 2 * width + gap, 3)
    assert (row[:, strip:, :width] == enlarged(frames, 4)).all()
    right = row[:, :, width + gap :]
    mirrored = enlarged(frames[:, :, ::-1], 4)
    assert (right[:12, strip:] == mirrored[:12]).all()
    assert (right[12:, strip:] == mirrored[11] // 2).all()
    assert (right[0, :strip] == right[11, :strip]).all()
    assert (right[11, :strip] != right[12, :strip]).any()
    assert (row[0, :strip, :width].max(axis=(0, 1)) > 200).all()


def test_a_long_label_is_cut_inside_its_panel(frames: np.ndarray) -> None:
    row = side_by_side([frames], ["a label that no panel of this width could hold"], upscale=1)
    edges = row[0, :24, [0, -1]]
    assert (edges == row[0, 0, 0]).all()


def test_panels_must_match(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="2 videos and 1 labels"):
        side_by_side([frames, frames], ["true"])
    with pytest.raises(ValueError, match=r"'b': \(20, 44\).*resize first"):
        side_by_side([frames, frames[:, :20]], ["a", "b"])
    with pytest.raises(ValueError, match="video 'b' has no frames"):
        side_by_side([frames, frames[:0]], ["a", "b"])


def test_to_frames_rounds_and_clamps() -> None:
    video = torch.zeros(2, 3, 4, 5)
    video[1, 0, 2, 3], video[1, 1, 2, 3], video[1, 2, 2, 3] = 0.5, 1.7, -0.2
    frames = to_frames(video)
    assert frames.shape == (2, 4, 5, 3)
    assert frames.flags["C_CONTIGUOUS"]
    assert frames[1, 2, 3].tolist() == [128, 255, 0]
    assert frames.sum() == 128 + 255
