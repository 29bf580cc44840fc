import dataclasses
import io

import numpy as np
import pytest
import torch

from data_tools.files import encode_mp4
from sfv.data.index import ShardError
from sfv.data.schema import Encoding
from sfv.data.shards import Sample
from sfv.data.stages import collate, decode, decode_latents, decode_mp4, encode_latents
from sfv.data.windows import Window, WindowError, windows
from sfv.media.frame import Frame
from tests.data.make import (
    CHANNELS,
    CHUNK,
    HEIGHT,
    LATENT_HEIGHT,
    LATENT_WIDTH,
    TEXTS,
    WIDTH,
    latents_sample,
    make_latents,
    make_meta,
    make_video,
    video_sample,
)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_video_is_decoded_without_loss() -> None:
    assert np.array_equal(decode_mp4(video_sample("a-000").payload), make_video("a-000", 12))


def test_video_tensor_has_colour_first() -> None:
    video = decode(video_sample("a-000"))
    assert video.shape == (12, 3, HEIGHT, WIDTH) and video.dtype == torch.uint8
    assert torch.equal(video[:, 1], torch.from_numpy(make_video("a-000", 12))[..., 1])


def test_latents_keep_their_bits() -> None:
    latents = make_latents(0.5, 7)
    again = decode_latents(encode_latents(latents))
    assert again.dtype == torch.float16 and torch.equal(again.float(), latents)


@pytest.mark.parametrize("content", [b"", b"not a video", video_sample().payload[:2000]])
def test_an_unreadable_video_is_named(content: bytes) -> None:
    sample = Sample(make_meta("a-007"), content)
    with pytest.raises(ShardError, match=r"t-3\.tar: a-007: unreadable video .*collect or convert"):
        decode(sample, "t-3.tar")


def test_a_video_with_a_hole_is_named() -> None:
    sample = video_sample("a-007", 12)
    hole = len(sample.payload) // 2
    content = sample.payload[:hole] + bytes(200) + sample.payload[hole + 200 :]
    with pytest.raises(ShardError, match=r"a-007: (frame \d+ is damaged|unreadable video)"):
        decode(Sample(sample.meta, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), "unreadable latents .*Object"),
        (b"", "unreadable latents"),
        (npy(np.zeros((2, 3, 4, 5), np.float16))[:-9], "unreadable latents"),
        (npy(np.zeros((2, 3, 4, 5), np.float32)), "latents are float32 with 4 dimensions"),
        (npy(np.zeros((3, 4, 5), np.float16)), "float16 with 3 dimensions; float16 c t h w"),
        (npy(np.full((2, 3, 4, 5), np.inf, np.float16)), "hold inf or nan"),
    ],
)
def test_unreadable_latents_are_named(content: bytes, message: str) -> None:
    sample = dataclasses.replace(latents_sample("a-007"), payload=content)
    with pytest.raises(ShardError, match=f"a-007: .*{message}"):
        decode(sample, "t-3.tar")


def test_frames_have_to_agree_with_the_metadata() -> None:
    with pytest.raises(ShardError, match=r"a-000: frames are \[12\], the metadata says \[15\]"):
        decode(Sample(latents_sample(num_chunks=5).meta, latents_sample(num_chunks=4).payload))
    wide = Sample(make_meta(width=WIDTH + 8), video_sample().payload)
    with pytest.raises(ShardError, match=r"frames are \[12, 3, 16, 24\].*\[12, 3, 16, 32\]"):
        decode(wide)


def test_latents_too_large_for_float16_are_refused() -> None:
    with pytest.raises(ShardError, match=r"do not fit float16 \(largest 7e\+04\)"):
        encode_latents(make_latents(7e4, 2), "a-000")


def test_frames_are_read_without_pickle() -> None:
    video = make_video("a-000", 12)
    meta = make_meta(encoding=Encoding("frames", "raw", "uint8"))
    expected = torch.from_numpy(video).permute(0, 3, 1, 2)
    assert torch.equal(decode(Sample(meta, npy(video))), expected)
    for content, message in (
        (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), "unreadable frames .*Object"),
        (npy(video.astype(np.float32)), r"float32 \[12, 16, 24, 3\]; uint8 t height width 3"),
    ):
        with pytest.raises(ShardError, match=f"a-000: .*{message}"):
            decode(Sample(meta, content))


def test_collate_stacks_in_order() -> None:
    sample = latents_sample("a-000", number=2.0)
    first, second, *_ = windows(sample.meta, decode(sample), 2, CHUNK)
    batch = collate([second, first])
    assert batch["latents"].shape == (2, CHANNELS, 5, LATENT_HEIGHT, LATENT_WIDTH)
    assert batch["latents"].dtype == torch.float32
    assert batch["keys"] == ["a-000/00006", "a-000/00003"] and batch["actions"] == [
        TEXTS[2],
        TEXTS[1],
    ]
    assert torch.equal(batch["latents"][1], first.frames.float())


def test_windows_of_two_sizes_make_no_batch() -> None:
    small, large = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 6)
    with pytest.raises(WindowError, match=r"b/1 is \[2, 3, 4, 6\], a/1 is \[2, 3, 4, 5\]"):
        collate([Window("a/1", "x", small, 1), Window("b/1", "x", large, 1)])


def test_no_more_is_decoded_than_the_metadata_says(monkeypatch) -> None:
    large = encode_mp4(np.zeros((2, 64, 64, 3), dtype=np.uint8), 8.0)
    with pytest.raises(ShardError, match=r"a-007: .*frame 0 is 64x64, expected is 16x24"):
        decode(Sample(make_meta("a-007"), large))
    long = encode_mp4(np.zeros((90, HEIGHT, WIDTH, 3), dtype=np.uint8), 8.0)
    made = []
    rgb = Frame.rgb
    monkeypatch.setattr(Frame, "rgb", lambda frame: made.append(1) or rgb(frame))
    with pytest.raises(ShardError, match=r"frames are \[\d+, 3, 16, 24\]"):
        decode(Sample(make_meta("a-007"), long))
    assert len(made) == make_meta().num_frames + 1
