"""SCuts: how many scene cuts PySceneDetect's AdaptiveDetector finds in a video (lower is better).

The detector is used with its default settings on the frames in memory. It compares the mean HSV
change of a frame with that of its neighbours (two on each side), so cuts in the first two
or last two frames are not seen, and within `min_scene_len` frames only one cut counts. The default of
15 frames is a *count*, whatever the frame rate: half a second at 30 fps, two seconds at 8 fps.
Frames wider than 256 pixels are reduced first, as PySceneDetect does; small ones (64x64) are used as
they are. The detector works on 8-bit frames.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Shaped
from scenedetect import AdaptiveDetector, FrameTimecode
from scenedetect.scene_manager import compute_downscale_factor
from torch import Tensor

from sfv.metrics.video import check_video
from sfv.metrics.video_mean import VideoMean

MIN_SCENE_FRAMES = 15


def to_bgr(video: Shaped[Tensor, "t 3 height width"]) -> Shaped[np.ndarray, "t height width 3"]:
    """8-bit frames with blue first, as OpenCV wants them."""
    frames = (check_video(video) * 255).round().to(torch.uint8)
    if frames.dim() != 4:
        raise ValueError(f"shape {tuple(frames.shape)}; give one video, `t 3 height width`")
    return np.ascontiguousarray(frames.flip(1).movedim(1, -1).cpu().numpy())


def scene_cuts(
    video: Shaped[Tensor, "t 3 height width"],
    fps: int | float,
    min_scene_len: int | float = MIN_SCENE_FRAMES,
) -> list[int]:
    """Frame numbers at which a new scene starts; the metric is how many there are.

    Args:
        video: one video, as long as one likes.
        fps: frames a second; matters only when `min_scene_len` is in seconds.
        min_scene_len: shortest scene: an int is a number of frames, a float is seconds.

    Raises:
        ValueError: not a video, or a rate that is not positive.
    """
    if fps <= 0:
        raise ValueError(f"fps={fps}; the frame rate must be positive (frames a second)")
    frames = to_bgr(video)
    factor = compute_downscale_factor(max(frames.shape[1:3]))
    size = tuple(max(1, round(side / factor)) for side in (frames.shape[2], frames.shape[1]))
    detector = AdaptiveDetector(min_scene_len=min_scene_len)
    cuts: list[int] = []
    for number, frame in enumerate(frames):
        small = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) if factor > 1 else frame
        found = detector.process_frame(FrameTimecode(number, float(fps)), small)
        cuts += [cut.frame_num for cut in found]
    return cuts


class SceneCuts(VideoMean):
    """Mean number of scene cuts a video."""

    higher_is_better = False

    def __init__(self, fps: int | float, min_scene_len: int | float = MIN_SCENE_FRAMES) -> None:
        super().__init__()
        self.fps = fps
        self.min_scene_len = min_scene_len

    def update(self, video: Tensor) -> None:
        """Add a batch of equally long videos, `b t 3 height width`."""
        counts = [len(scene_cuts(one, self.fps, self.min_scene_len)) for one in video]
        self._add(torch.tensor(counts)[:, None])
