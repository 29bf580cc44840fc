import math

import numpy as np
import pytest
import torch

from sfv.metrics.motion import Motion, border_jump, frame_changes, motion
from tests.metrics.scenes import noisy, pan


def test_changes_against_a_plain_loop() -> None:
    video = noisy(pan(1, 5), 0.1)
    v = video.double().numpy()
    expected = [255 * np.abs(v[i + 1] - v[i]).mean() for i in range(4)]
    np.testing.assert_allclose(frame_changes(video).numpy(), expected, rtol=1e-5)
    assert motion(video) == pytest.approx(np.mean(expected), rel=1e-5)


def test_borders_are_where_chunks_meet() -> None:
    """Steps of 1 inside, of 3 into frames 4 and 8: the ratio tells an off-by-one."""
    steps = torch.tensor([0, 1, 1, 1, 3, 1, 1, 1, 3, 1]).cumsum(0) / 255
    video = steps[:, None, None, None].expand(-1, 3, 4, 5)
    assert border_jump(video, 4) == pytest.approx(3.0, rel=1e-4)
    assert border_jump(video, 5) == pytest.approx(1 / (12 / 8), rel=1e-4)


def test_a_still_has_no_motion_and_no_ratio() -> None:
    still = torch.full((6, 3, 4, 5), 0.3)
    assert motion(still) == 0
    assert math.isnan(border_jump(still, 3))


def test_class_averages_videos() -> None:
    slow, fast = pan(1, 6, speed=1), pan(1, 6, speed=4)
    first, second = Motion(), Motion()
    first.update(torch.stack([slow, fast]))
    second.update(fast[None])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx((motion(slow) + 2 * motion(fast)) / 3, rel=1e-6)


def test_errors_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4, 5\).*at least 2 frames"):
        motion(torch.rand(1, 3, 4, 5))
    for chunk in (1, 6):
        with pytest.raises(ValueError, match=f"chunk_frames={chunk} for a video of 6 frames"):
            border_jump(torch.rand(6, 3, 4, 5), chunk)
