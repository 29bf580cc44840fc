from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scenedetect import AdaptiveDetector, detect
from torch import Tensor

from sfv.metrics.scene_cuts import SceneCuts, scene_cuts, to_bgr
from tests.metrics.scenes import noisy, pan


def _film(lengths: list[int], height: int = 48, width: int = 56) -> Tensor:
    """Pans over different places, joined by hard cuts."""
    return torch.cat([pan(10 + i, n, height, width) for i, n in enumerate(lengths)])


def test_planted_cuts_are_found_where_they_are() -> None:
    assert scene_cuts(_film([20, 23, 19]), fps=8) == [20, 43]
    assert scene_cuts(_film([20, 23, 19]).mul(255).to(torch.uint8), fps=8) == [20, 43]


def test_a_steady_pan_has_no_cut() -> None:
    assert scene_cuts(noisy(_film([60]), 0.01), fps=8) == []


def test_minimum_length_counts_frames_or_seconds() -> None:
    film = _film([20, 8, 30])
    assert scene_cuts(film, fps=8) == [20]
    assert scene_cuts(film, fps=8, min_scene_len=5) == [20, 28]
    assert scene_cuts(film, fps=8, min_scene_len=1.5) == [20]
    assert scene_cuts(film, fps=25, min_scene_len=0.25) == [20, 28]


def test_blue_comes_first() -> None:
    video = torch.zeros(2, 3, 4, 5)
    video[1, 0, 2, 3] = 1.0
    frames = to_bgr(video)
    assert frames.shape == (2, 4, 5, 3)
    assert frames[1, 2, 3].tolist() == [0, 0, 255]


def _write(path: Path, frames: np.ndarray, fps: int) -> None:
    with av.open(path, "w") as file:
        stream = file.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(("size", "level"), [((48, 56), 0.02), ((90, 640), 0.1)])
def test_equals_pyscenedetect_on_a_lossless_file(
    tmp_path: Path, size: tuple[int, int], level: float
) -> None:
    """Wide frames are reduced first, in both: at full size the noise would hide every cut."""
    film = noisy(_film([18, 17, 6, 22], *size), level)
    path = tmp_path / "film.mkv"
    _write(path, to_bgr(film), 10)
    scenes = detect(str(path), AdaptiveDetector())
    assert scene_cuts(film, fps=10) == [start.frame_num for start, _ in scenes[1:]]
    assert len(scenes) >= 2


def test_class_counts_a_video_and_merges() -> None:
    two, none = _film([20, 23, 19]), _film([62])
    first, second = SceneCuts(fps=8), SceneCuts(fps=8)
    first.update(torch.stack([two, none]))
    second.update(none[None])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(2 / 3)


def test_frame_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="fps=0; the frame rate must be positive"):
        scene_cuts(_film([5]), fps=0)
