"""Frame-wise fidelity: PSNR, SSIM and LPIPS between two videos of equal shape.

The functions return one number a frame; the classes average over frames, then over videos, in
sums that add up over processes. Input is `b t 3 height width` in [0, 1] (uint8 is divided by 255).
Frames are used at their own size (64x64 included): nothing is resized.
"""

import functools

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from sfv.metrics.lpips import LPIPSNetwork, Net
from sfv.metrics.video import check_pair
from sfv.metrics.video_mean import VideoMean

PSNR_CAP_DB = 100.0
SSIM_MIN_SIDE = 11
_FRAMES_AT_ONCE = 32


def psnr(
    video_a: Shaped[Tensor, "b t 3 height width"], video_b: Shaped[Tensor, "b t 3 height width"]
) -> Float[Tensor, "b t"]:
    """Peak signal-to-noise ratio of each frame in dB, peak 1.

    Equal frames have no noise; their value is capped at 100 dB, a mean squared error of 1e-10,
    far below the 65 dB that a rounding to 8 bits leaves.
    """
    a, b = check_pair(video_a, video_b)
    values = peak_signal_noise_ratio(
        a.flatten(0, 1), b.flatten(0, 1), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=PSNR_CAP_DB).reshape(a.shape[:2])


def ssim(
    video_a: Shaped[Tensor, "b t 3 height width"], video_b: Shaped[Tensor, "b t 3 height width"]
) -> Float[Tensor, "b t"]:
    """Structural similarity of each frame, 1 = equal (papers often print it times 100).

    Gaussian window of 11 pixels, sigma 1.5, K = (0.01, 0.03), windows inside the frame alone, mean
    over the three colours (Wang et al. 2004). torchmetrics' own mean also counts windows that hang
    over a mirrored border, which moves the value of small frames by several percent.

    Raises:
        ValueError: frames smaller than the window.
    """
    a, b = check_pair(video_a, video_b)
    if min(a.shape[-2:]) < SSIM_MIN_SIDE:
        raise ValueError(
            f"frames of {a.shape[-2]}x{a.shape[-1]}; SSIM's window needs at least "
            f"{SSIM_MIN_SIDE}x{SSIM_MIN_SIDE}: resize the frames"
        )
    _, maps = structural_similarity_index_measure(
        a.flatten(0, 1), b.flatten(0, 1), data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(maps, Tensor)
    border = SSIM_MIN_SIDE // 2
    inside = maps[..., border:-border, border:-border]
    return inside.mean(dim=(1, 2, 3)).reshape(a.shape[:2])


@functools.lru_cache(maxsize=2)
def _network(net: Net) -> LPIPSNetwork:
    return LPIPSNetwork(net).eval()


def lpips(
    video_a: Shaped[Tensor, "b t 3 height width"],
    video_b: Shaped[Tensor, "b t 3 height width"],
    net: Net | LPIPSNetwork = "alex",
) -> Float[Tensor, "b t"]:
    """Learned perceptual distance of each frame, 0 = equal.

    Args:
        video_a: values in [0, 1]; the network's own scaling is done here.
        video_b: as `video_a`.
        net: "alex", "vgg" (from the installed package, kept in memory), or a loaded network.

    Raises:
        WeightsMissing: the weights are not installed.
    """
    network = _network(net) if isinstance(net, str) else net
    a, b = check_pair(video_a, video_b)
    device = network.get_buffer("shift").device
    parts_a = torch.split(a.flatten(0, 1), _FRAMES_AT_ONCE)
    parts_b = torch.split(b.flatten(0, 1), _FRAMES_AT_ONCE)
    pairs = zip(parts_a, parts_b, strict=True)
    with torch.no_grad():
        values = [network(x.to(device), y.to(device)).to(a.device) for x, y in pairs]
    return torch.cat(values).reshape(a.shape[:2])


class PSNR(VideoMean):
    """Mean PSNR in dB over frames, then over videos; see `psnr`."""

    higher_is_better = True

    def update(self, video_a: Tensor, video_b: Tensor) -> None:
        """Add a batch of video pairs, `b t 3 height width`."""
        self._add(psnr(video_a, video_b))


class SSIM(VideoMean):
    """Mean SSIM over frames, then over videos; see `ssim`."""

    higher_is_better = True

    def update(self, video_a: Tensor, video_b: Tensor) -> None:
        """Add a batch of video pairs, `b t 3 height width`."""
        self._add(ssim(video_a, video_b))


class LPIPS(VideoMean):
    """Mean LPIPS over frames, then over videos; see `lpips`."""

    higher_is_better = False

    def __init__(self, net: Net = "alex") -> None:
        super().__init__()
        self.network = LPIPSNetwork(net)

    def update(self, video_a: Tensor, video_b: Tensor) -> None:
        """Add a batch of video pairs, `b t 3 height width`."""
        self._add(lpips(video_a, video_b, net=self.network))
