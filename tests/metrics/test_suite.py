import math

import pytest
import torch
from torch import Tensor

from sfv.metrics.frame import psnr
from sfv.metrics.fvd import frechet_distance
from sfv.metrics.motion import border_jump, motion
from sfv.metrics.protocol import comparable, paired_difference
from sfv.metrics.scene_revisit import revisit_psnr
from sfv.metrics.suite import score_long, score_next_chunk, score_true, videos_hash
from tests.metrics.scenes import Corners, noisy, pan, walk

LENGTHS = (12, 9, 14, 12)


def _chunks() -> tuple[list[Tensor], list[Tensor]]:
    real = [pan(i, n, 33, 37) for i, n in enumerate(LENGTHS)]
    return real, [noisy(v, 0.05 * (i + 1), i) for i, v in enumerate(real)]


def test_next_chunk_scores_are_those_of_the_parts() -> None:
    real, generated = _chunks()
    told: list[tuple[str, int, int]] = []
    scores = score_next_chunk(
        real, generated, clip_frames=4, clip_features=Corners(), progress=lambda *x: told.append(x)
    )
    assert set(scores) == {"psnr", "ssim", "lpips", "fvd", "kvd", "fvd_floor", "fvd_unpaired"}
    each = [psnr(a[None], b[None]).mean().item() for a, b in zip(real, generated, strict=True)]
    assert scores["psnr"].episodes == pytest.approx(each)
    assert scores["psnr"].value == pytest.approx(sum(each) / 4)
    assert scores["psnr"].low < scores["psnr"].value < scores["psnr"].high  # type: ignore[operator]
    cut = [torch.cat([v[s : s + 4] for s in range(0, len(v) - 3, 4)]) for v in real]
    cut_fake = [torch.cat([v[s : s + 4] for s in range(0, len(v) - 3, 4)]) for v in generated]
    a, b = (Corners()(torch.cat(x).unflatten(0, (-1, 4))) for x in (cut, cut_fake))
    assert scores["fvd"].value == pytest.approx(frechet_distance(a, b).item())
    passport = scores["fvd"].passport
    assert (passport.count, passport.unit, passport.frames, passport.stride) == (11, "clips", 4, 4)
    assert (passport.network, passport.covariance_divisor) == ("corners", "N-1")
    assert scores["fvd_floor"].passport.count == 5
    assert told[0] == ("psnr", 0, 4) and ("fvd, generated clips", 4, 4) in told


def test_scores_are_repeatable_and_rows_are_comparable() -> None:
    real, generated = _chunks()
    first, again, better = (
        score_next_chunk(real, x, clip_frames=4, clip_features=Corners())
        for x in (generated, generated, [(a + b) / 2 for a, b in zip(real, generated, strict=True)])
    )
    assert first == again
    for name in first:
        comparable(first[name], better[name])
    assert (paired_difference(first["psnr"], better["psnr"]).low or 0) > 3


def test_eight_bit_and_float_videos_are_one_reference() -> None:
    real, _ = _chunks()
    bytes_ = [(v * 255).round().to(torch.uint8) for v in real]
    assert videos_hash(real) == videos_hash(bytes_)
    assert videos_hash(real) != videos_hash(real[::-1])


def test_a_perfect_generator_meets_the_floor() -> None:
    real, _ = _chunks()
    scores = score_next_chunk(real, real, clip_frames=4, clip_features=Corners())
    assert scores["fvd"].value < 1e-9
    assert scores["psnr"].value == 100
    assert scores["fvd_unpaired"].value == scores["fvd_floor"].value > 0


def test_a_floor_that_cannot_be_measured_says_why() -> None:
    real, generated = _chunks()
    scores = score_next_chunk(real[:1], generated[:1], clip_frames=4, clip_features=Corners())
    floor = scores["fvd_floor"]
    assert math.isnan(floor.value) and floor.passport.count == 0
    assert "3 true clips of 1 episodes cannot be split" in floor.passport.settings
    assert (scores["fvd"].low, scores["psnr"].low) == (None, None)


def test_bad_lists_are_named() -> None:
    real, generated = _chunks()
    with pytest.raises(ValueError, match="4 real videos and 3 generated videos"):
        score_next_chunk(real, generated[:3])
    with pytest.raises(ValueError, match="0 real videos and 0 generated"):
        score_next_chunk([], [])
    generated[2] = generated[2][:-1]
    with pytest.raises(ValueError, match=r"episode 2: the videos have shapes \(14, .*\(13, "):
        score_next_chunk(real, generated)
    with pytest.raises(ValueError, match=r"episode 0: the second video has values from"):
        score_next_chunk(real[:1], [real[0] * 2 - 1])
    with pytest.raises(ValueError, match="has 12 frames, one clip needs 16"):
        score_next_chunk(real[:1], real[:1], clip_features=Corners())
    with pytest.raises(ValueError, match="1 clips of 12 frames; FVD needs at least 2"):
        score_next_chunk(real[:1], real[:1], clip_frames=12, clip_features=Corners())


class Thirds:
    """Frame features that are quick to compute: the colours of three bands."""

    name, sha256, resize = "thirds", "0" * 64, "none"

    def __call__(self, frames: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(frames, (3, 1)).flatten(1)


def _walks() -> tuple[list[Tensor], list[Tensor], list[list[list[int]]]]:
    true, visits = zip(*(walk(i, 9 + i, 33, 37) for i in range(3)), strict=True)
    return [noisy(v, 0.1, i) for i, v in enumerate(true)], list(true), list(visits)


def test_long_scores_are_those_of_the_parts() -> None:
    videos, true, visits = _walks()
    scores = score_long(
        videos, visits, chunk_frames=4, fps=8, reference=true, frame_features=Thirds()
    )
    own = {"scuts", "motion", "border_jump", "revisit_psnr", "revisit_lpips", "src"}
    assert set(scores) == own | {f"{name}_ceiling" for name in own} | {
        "src_floor",
        "return_psnr",
        "return_lpips",
    }
    assert scores["motion"].episodes == pytest.approx([motion(v) for v in videos])
    assert scores["border_jump_ceiling"].episodes == pytest.approx(
        [border_jump(v, 4) for v in true]
    )
    assert scores["revisit_psnr"].episodes == pytest.approx(
        [revisit_psnr(v, p).mean().item() for v, p in zip(videos, visits, strict=True)]
    )
    later = [[pair[1] for pair in pairs] for pairs in visits]
    assert scores["return_psnr"].episodes == pytest.approx(
        [psnr(v[k][None], t[k][None]).mean().item() for v, t, k in zip(videos, true, later)]  # noqa: B905
    )
    assert scores["src_ceiling"].value == pytest.approx(100)
    assert scores["src_floor"].value < scores["src"].value < 100
    assert scores["return_psnr"].passport.protocol == "return"
    assert scores["src"].passport.network == "thirds"


def test_ceilings_that_were_measured_before_are_the_same_to_the_last_bit() -> None:
    videos, true, visits = _walks()
    given = {"chunk_frames": 4, "fps": 8, "frame_features": Thirds(), "seed": 3}
    told: list[str] = []
    known = score_true(true, visits, **given)
    scores = score_long(
        videos,
        visits,
        reference=true,
        ceilings=known,
        progress=lambda w, *_: told.append(w),
        **given,
    )
    assert scores == score_long(videos, visits, reference=true, **given)
    assert told.count("scuts") == len(videos) + 1, "of the videos alone"
    with pytest.raises(
        ValueError, match=r"scuts_ceiling is of the true videos .* give what score_t"
    ):
        score_long(videos, visits, reference=videos, ceilings=known, **given)


def test_without_reference_there_is_no_ceiling_and_no_visits_count_nothing() -> None:
    videos, _, visits = _walks()
    scores = score_long(videos, [visits[0], [], []], chunk_frames=4, fps=8, frame_features=Thirds())
    assert not [name for name in scores if "ceiling" in name or "return" in name]
    assert scores["src"].passport.count == scores["revisit_lpips"].passport.count == 1
    assert scores["scuts"].passport.count == 3


def test_a_reference_that_does_not_fit_is_named() -> None:
    videos, true, visits = _walks()
    true[1] = true[1][:-2]
    with pytest.raises(ValueError, match=r"episode 1: video of shape .* at least as many"):
        score_long(videos, visits, chunk_frames=4, fps=8, reference=true, frame_features=Thirds())


def test_long_videos_are_checked_before_anything_is_measured() -> None:
    videos, _, visits = _walks()
    told: list[str] = []
    with pytest.raises(ValueError, match=r"episode 2: revisit \[3, 99\] in a video of 21 frames"):
        score_long(
            videos,
            [*visits[:2], [[3, 99]]],
            chunk_frames=4,
            fps=8,
            progress=lambda what, *_: told.append(what),
        )
    with pytest.raises(ValueError, match="episode 0: chunk_frames=40 for a video of 17 frames"):
        score_long(videos, visits, chunk_frames=40, fps=8)
    videos[1] = videos[1] * 3
    with pytest.raises(
        ValueError, match=r"episode 1: video has values from .* must be in \[0, 1\]"
    ):
        score_long(videos, visits, chunk_frames=4, fps=8)
    assert told == []
