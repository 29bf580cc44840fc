import dataclasses
import io

import numpy as np
import pytest
import torch

from sfv.data.shards import Sample, ShardError
from sfv.data.stages import (
    Window,
    WindowError,
    collate,
    decode,
    decode_latents,
    decode_mp4,
    encode_latents,
    windows,
)
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


def test_a_window_is_context_then_the_actions_frames() -> None:
    sample = latents_sample("a-000", num_chunks=4)
    cut = windows(sample.meta, decode(sample), 2, CHUNK)
    assert [window.key for window in cut] == ["a-000/001", "a-000/002", "a-000/003"]
    assert [window.action for window in cut] == list(TEXTS[1:4])
    times = [(window.frames[0, :, 0, 0] * 16).tolist() for window in cut]
    assert times == [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8], [7, 8, 9, 10, 11]]


def test_video_windows_run_along_the_first_axis() -> None:
    sample = video_sample("a-000", 3)
    first, second = windows(sample.meta, decode(sample), 1, CHUNK)
    video = torch.from_numpy(make_video("a-000", 9)).permute(0, 3, 1, 2)
    assert torch.equal(first.frames, video[2:6]) and torch.equal(second.frames, video[5:9])


def test_a_long_context_leaves_out_the_first_actions() -> None:
    sample = latents_sample("a-000", num_chunks=4)
    cut = windows(sample.meta, decode(sample), 4, CHUNK)
    assert [window.key for window in cut] == ["a-000/002", "a-000/003"]


@pytest.mark.parametrize(
    ("num_context", "num_generated", "message"),
    [
        (10, CHUNK, r"'a-000': a window of 10 \+ 3 frames is longer than the episode \(12 frames"),
        (2, 4, r"action 0 'walk forward' lasts 3 frames, num_generated is 4; set .* to 3"),
        (0, CHUNK, "num_context 0, num_generated 3: both have to be at least 1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    num_context: int, num_generated: int, message: str
) -> None:
    sample = latents_sample("a-000", num_chunks=4)
    with pytest.raises(WindowError, match=message):
        windows(sample.meta, decode(sample), num_context, num_generated)


def test_collate_stacks_in_order() -> None:
    sample = latents_sample("a-000", number=2.0)
    first, second, *_ = windows(sample.meta, decode(sample), 2, CHUNK)
    batch = collate([second, first])
    assert batch["latents"].shape == (2, CHANNELS, 5, LATENT_HEIGHT, LATENT_WIDTH)
    assert batch["latents"].dtype == torch.float32
    assert batch["keys"] == ["a-000/002", "a-000/001"] and batch["actions"] == [TEXTS[2], TEXTS[1]]
    assert torch.equal(batch["latents"][1], first.frames.float())


def test_windows_of_two_sizes_make_no_batch() -> None:
    small, large = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 6)
    with pytest.raises(WindowError, match=r"b/1 is \[2, 3, 4, 6\], a/1 is \[2, 3, 4, 5\]"):
        collate([Window("a/1", "x", small), Window("b/1", "x", large)])
