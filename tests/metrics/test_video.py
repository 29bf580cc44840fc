import pytest
import torch

from sfv.metrics.video import check_pair, check_video, clips


def test_eight_bits_become_the_unit_range() -> None:
    video = torch.randint(0, 256, (2, 5, 3, 4, 6), dtype=torch.uint8)
    assert torch.equal(check_video(video), video.float() / 255)
    assert check_video(torch.rand(5, 3, 4, 6).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(3, 5, 4, 6), r"shape \(3, 5, 4, 6\).*frames before channels"),
        (torch.rand(3, 4, 6), r"expected `t 3 height width`"),
        (torch.rand(0, 3, 4, 6), "is empty"),
        (torch.rand(5, 3, 4, 6) * 255, r"must be in \[0, 1\].*divide by 255"),
        (torch.rand(5, 3, 4, 6) - 0.5, "values from -0"),
        (torch.full((5, 3, 4, 6), float("nan")), "values from nan to nan"),
        (torch.ones(5, 3, 4, 6, dtype=torch.int64), "type torch.int64; expected uint8"),
    ],
)
def test_what_is_no_video_is_named(video: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_video(video)


def test_pairs_need_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3, 4, 6\) and \(4, 3, 4, 6\).*cut or resize"):
        check_pair(torch.rand(5, 3, 4, 6), torch.rand(4, 3, 4, 6))


@pytest.mark.parametrize(("stride", "starts"), [(None, [0, 4]), (3, [0, 3, 6]), (5, [0, 5])])
def test_clips_against_slices(stride: int | None, starts: list[int]) -> None:
    video = torch.rand(11, 3, 2, 5)
    cut = clips(video, 4, stride)
    assert torch.equal(cut, torch.stack([video[s : s + 4] for s in starts]))


def test_clips_of_a_short_video() -> None:
    with pytest.raises(ValueError, match="has 11 frames, one clip needs 16"):
        clips(torch.rand(11, 3, 2, 5))
    with pytest.raises(ValueError, match="stride=0 must be at least 1"):
        clips(torch.rand(11, 3, 2, 5), 4, 0)
