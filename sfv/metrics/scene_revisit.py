"""SRC, scene return consistency: does a place look the same when the camera comes back?

A there-and-back walk gives pairs (first visit, later visit) of frames with equal pose. Three
views on a pair: the cosine of deep features (the paper's SRC, with ResNet-18; it saturates), PSNR
and LPIPS. Read them beside the ceiling (the same pairs in the true video) and the floor (the
later visits exchanged: two frames of one world, but of different places).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from sfv.metrics.frame import lpips, psnr
from sfv.metrics.lpips import LPIPSNetwork
from sfv.metrics.resnet import load_resnet18
from sfv.metrics.seen import Seen
from sfv.metrics.video import check_video
from sfv.metrics.video_mean import VideoMean
from sfv.metrics.weights import LPIPS_ALEX, sha256_of

Visits = Sequence[Sequence[int]]
ALEXNET_SIDE = 128
RESNET_SIDE = 224
_FRAMES_AT_ONCE = 32
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class FrameFeatures(Protocol):
    """Maps frames to feature vectors; `name`, `sha256` and `resize` go into the passport."""

    name: str
    sha256: str
    resize: str

    def __call__(self, frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t d"]: ...


def _batches(frames: Tensor, side: int, device: torch.device) -> Iterator[Tensor]:
    for part in torch.split(frames, _FRAMES_AT_ONCE):
        yield F.interpolate(part.to(device), (side, side), mode="bilinear", align_corners=False)


class AlexNetFeatures:
    """AlexNet's last convolution, averaged over positions (256 numbers): the offline default.

    Not the paper's network, so values cannot be set beside its table; the idea is the same. At
    128x128 a frame takes 4 ms on one core, a fifth of what 224x224 takes.
    """

    name = "alexnet-conv5-mean"
    sha256 = LPIPS_ALEX.sha256
    resize = f"bilinear half-pixel to {ALEXNET_SIDE}x{ALEXNET_SIDE}"

    def __init__(self, path: Path | None = None, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self._seen = Seen()
        self.network = LPIPSNetwork("alex", path).to(device).eval()

    def __call__(self, frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t 256"]:
        """Compute the features on the CPU; equal sets of frames are computed once."""
        return self._seen(frames, self._compute)

    @torch.no_grad()
    def _compute(self, frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t 256"]:
        batches = _batches(frames, ALEXNET_SIDE, self._device)
        return torch.cat([self.network.layers(x)[-1].mean((2, 3)).cpu() for x in batches])


class ResNet18Features:
    """ResNet-18's pooled features (512 numbers), the paper's choice, from a file of the user's."""

    name = "resnet18-avgpool"
    resize = f"bilinear half-pixel to {RESNET_SIDE}x{RESNET_SIDE}"

    def __init__(self, path: Path, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self._seen = Seen()
        self.network = load_resnet18(path).to(device)
        self.sha256 = sha256_of(path)

    def __call__(self, frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t 512"]:
        """Compute the features on the CPU; equal sets of frames are computed once."""
        return self._seen(frames, self._compute)

    @torch.no_grad()
    def _compute(self, frames: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "t 512"]:
        mean = torch.tensor(_IMAGENET_MEAN, device=self._device).reshape(3, 1, 1)
        std = torch.tensor(_IMAGENET_STD, device=self._device).reshape(3, 1, 1)
        batches = _batches(frames, RESNET_SIDE, self._device)
        return torch.cat([self.network((x - mean) / std).cpu() for x in batches])


def check_visits(visits: Visits, num_frames: int) -> tuple[Tensor, Tensor]:
    """Split pairs into first and later frame numbers.

    Raises:
        ValueError: no pairs, not pairs, or frames outside the video or in the wrong order.
    """
    if not visits:
        raise ValueError("no revisits given; SRC needs pairs [first_frame, later_frame]")
    for pair in visits:
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] < num_frames:
            raise ValueError(
                f"revisit {list(pair)} in a video of {num_frames} frames; expected "
                "[first_frame, later_frame] with 0 <= first_frame < later_frame < "
                f"{num_frames}"
            )
    pairs = torch.tensor([list(pair) for pair in visits])
    return pairs[:, 0], pairs[:, 1]


def exchanged(visits: Visits, generator: torch.Generator) -> list[tuple[int, int]]:
    """Give every first visit the later frame of another place (a random rotation of the pairs).

    Pairs that would still show one place (it is visited more than twice) are left out, so the
    list is empty when there is one place alone.
    """
    if len(visits) < 2:
        return []
    by = int(torch.randint(1, len(visits), (), generator=generator))
    others = [*visits[by:], *visits[:by]]
    return [
        (min(a[0], b[1]), max(a[0], b[1]))
        for a, b in zip(visits, others, strict=True)
        if a[0] != b[0] and a[0] != b[1]
    ]


def _cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return 100 * F.cosine_similarity(a.double(), b.double(), dim=1)


def scene_revisit_similarity(
    features: Float[Tensor, "t d"], visits: Visits
) -> Float[Tensor, " pairs"]:
    """100 x cosine similarity of the features of the first visit and each later visit."""
    first, later = check_visits(visits, len(features))
    return _cosine(features[first], features[later])


def video_revisit_similarity(
    video: Shaped[Tensor, "t 3 height width"],
    visits: Visits,
    features: FrameFeatures,
    pairs: Visits | None = None,
) -> Float[Tensor, " pairs"]:
    """`scene_revisit_similarity` of a video; features are computed for visited frames alone.

    Args:
        video: one video.
        visits: pairs (first visit, later visit).
        features: the network.
        pairs: compare these frames instead, each of which occurs in `visits` (see `exchanged`).
    """
    used = torch.unique(torch.cat(check_visits(visits, len(video))))
    values = features(check_video(video[used]))
    first, later = check_visits(visits if pairs is None else pairs, len(video))
    rows = torch.searchsorted(used, torch.stack([first, later]))
    return _cosine(values[rows[0]], values[rows[1]])


def _visited(video: Tensor, visits: Visits) -> tuple[Tensor, Tensor]:
    first, later = check_visits(visits, len(video))
    return check_video(video[first])[None], check_video(video[later])[None]


def revisit_psnr(
    video: Shaped[Tensor, "t 3 height width"], visits: Visits
) -> Float[Tensor, " pairs"]:
    """PSNR in dB between the first and each later visit, inside one video."""
    return psnr(*_visited(video, visits))[0]


def revisit_lpips(
    video: Shaped[Tensor, "t 3 height width"], visits: Visits, network: LPIPSNetwork | None = None
) -> Float[Tensor, " pairs"]:
    """LPIPS (AlexNet unless given) between the first and each later visit, inside one video."""
    return lpips(*_visited(video, visits), net="alex" if network is None else network)[0]


class SceneRevisit(VideoMean):
    """Mean over videos of their mean SRC."""

    higher_is_better = True

    def __init__(self, features: FrameFeatures) -> None:
        super().__init__()
        self.features = features

    def update(self, video: Tensor, visits: Sequence[Visits]) -> None:
        """Add a batch, `b t 3 height width`, with the revisits of each video."""
        for one, pairs in zip(video, visits, strict=True):
            self._add(video_revisit_similarity(one, pairs, self.features)[None])


class RevisitPSNR(VideoMean):
    """Mean over videos of their mean `revisit_psnr`."""

    higher_is_better = True

    def update(self, video: Tensor, visits: Sequence[Visits]) -> None:
        """Add a batch, `b t 3 height width`, with the revisits of each video."""
        for one, pairs in zip(video, visits, strict=True):
            self._add(revisit_psnr(one, pairs)[None])


class RevisitLPIPS(VideoMean):
    """Mean over videos of their mean `revisit_lpips`."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.network = LPIPSNetwork("alex")

    def update(self, video: Tensor, visits: Sequence[Visits]) -> None:
        """Add a batch, `b t 3 height width`, with the revisits of each video."""
        for one, pairs in zip(video, visits, strict=True):
            self._add(revisit_lpips(one, pairs, self.network)[None])
