"""TransNetV2 (Souček and Lokoč, arXiv 2008.04838): a network that finds shot changes.

A second opinion beside PySceneDetect's detector: learned, blind to frame rates and minimum lengths.
Published weights; parameter names are theirs. The package that carries them is never imported:
its class reseeds every random generator and switches deterministic algorithms on.
"""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from sfv.metrics.video import check_video
from sfv.metrics.video_mean import VideoMean
from sfv.metrics.weights import TRANSNET_V2, load_state

HEIGHT, WIDTH = 27, 48
RESIZE = f"bilinear, antialiased, to {HEIGHT}x{WIDTH}, 8 bits"
THRESHOLD = 0.5
_WINDOW, _STEP, _MARGIN = 100, 50, 25
_FILTERS, _LOOKUP, _WIDTH_OUT, _HIDDEN = 16, 101, 128, 1024
_BATCH_NORM_EPS = 1e-3


class _Separable(nn.Module):
    """A convolution over space, then one over time."""

    def __init__(self, width_in: int, width: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(width_in, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(
            2 * width,
            width,
            (3, 1, 1),
            dilation=(dilation, 1, 1),
            padding=(dilation, 0, 0),
            bias=False,
        )
        self.layers = nn.ModuleList([space, time])

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t h w"]:
        for layer in self.layers:
            x = layer(x)
        return x


class _Dilated(nn.Module):
    """Four spans of time side by side."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dilations = (1, 2, 4, 8)
        for dilation in self.dilations:
            self.add_module(f"Conv3D_{dilation}", _Separable(width_in, width, dilation))
        self.bn = nn.BatchNorm3d(4 * width, eps=_BATCH_NORM_EPS)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t h w"]:
        spans = [self.get_submodule(f"Conv3D_{dilation}")(x) for dilation in self.dilations]
        joined: Tensor = self.bn(torch.cat(spans, dim=1))
        return joined


class _Stage(nn.Module):
    """Two dilated blocks with a shortcut, then pooling over space."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(width_in, width), _Dilated(4 * width, width)])

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c2 t h2 w2"]:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


def _neighbours(x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t 101"]:
    """Cosines of every frame with those up to 50 before and behind it; 0 outside the window."""
    unit = F.normalize(x, dim=2)
    half = _LOOKUP // 2
    padded = F.pad(unit @ unit.mT, (half, half))
    rows = [padded[:, t, t : t + _LOOKUP] for t in range(x.shape[1])]
    return torch.stack(rows, dim=1)


class _Similarity(nn.Module):
    """How alike the features of neighbouring frames are."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, _WIDTH_OUT)
        self.fc = nn.Linear(_LOOKUP, _WIDTH_OUT)

    def forward(self, stages: list[Tensor]) -> Float[Tensor, "b t d"]:
        means = torch.cat([stage.mean((3, 4)) for stage in stages], dim=1).mT
        return F.relu(self.fc(_neighbours(self.projection(means))))


class _Colours(nn.Module):
    """How alike the colours (512 bins) of neighbouring frames are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_LOOKUP, _WIDTH_OUT)

    def forward(self, frames: UInt8[Tensor, "b t 3 height width"]) -> Float[Tensor, "b t d"]:
        red, green, blue = (frames.long() >> 5).unbind(2)
        bins = ((red << 6) + (green << 3) + blue).flatten(2)
        counts = torch.zeros(*bins.shape[:2], 512, device=frames.device)
        counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype))
        return F.relu(self.fc(_neighbours(counts)))


class TransNetV2(nn.Module):
    """Frames to the logit that the shot changes between each and the next; frozen.

    Args:
        path: the checkpoint; None takes it from the installed package.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        widths = [_FILTERS * 2**i for i in range(3)]
        with torch.device("meta"):  # without weights: initialising them would draw random numbers
            self.SDDCNN = nn.ModuleList(
                _Stage(before, width)
                for before, width in zip([3, 4 * widths[0], 4 * widths[1]], widths, strict=True)
            )
            self.frame_sim_layer = _Similarity(4 * sum(widths))
            self.color_hist_layer = _Colours()
            self.fc1 = nn.Linear(2 * _WIDTH_OUT + 4 * widths[-1] * 3 * 6, _HIDDEN)
            self.cls_layer1 = nn.Linear(_HIDDEN, 1)
            self.cls_layer2 = nn.Linear(_HIDDEN, 1)
        self.load_state_dict(load_state(TRANSNET_V2, path), assign=True)
        self.eval().requires_grad_(False)

    def forward(self, frames: UInt8[Tensor, "b t 3 27 48"]) -> Float[Tensor, "b t"]:
        x, stages = frames.float().movedim(2, 1) / 255, []
        for stage in self.SDDCNN:
            x = stage(x)
            stages.append(x)
        places = x.movedim(1, -1).flatten(2)
        joined = [self.color_hist_layer(frames), self.frame_sim_layer(stages), places]
        logits: Tensor = self.cls_layer1(F.relu(self.fc1(torch.cat(joined, dim=2))))
        return logits[..., 0]


@functools.lru_cache(maxsize=1)
def _network() -> TransNetV2:
    return TransNetV2()


def to_small(video: Shaped[Tensor, "t 3 height width"]) -> UInt8[Tensor, "t 3 27 48"]:
    """Frames of the size that the network knows."""
    small = F.interpolate(
        check_video(video), (HEIGHT, WIDTH), mode="bilinear", align_corners=False, antialias=True
    )
    return (small * 255).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def change_probabilities(
    frames: UInt8[Tensor, "t 3 27 48"], network: TransNetV2 | None = None
) -> Float[Tensor, " t"]:
    """Probability that the shot changes behind each frame.

    Windows of 100 frames, of which the middle 50 count; the first and the last frame are repeated
    outside the video, as the authors do.
    """
    net = network or _network()
    behind = _MARGIN + -len(frames) % _STEP
    padded = torch.cat(
        [frames[:1].expand(_MARGIN, -1, -1, -1), frames, frames[-1:].expand(behind, -1, -1, -1)]
    ).to(net.fc1.weight.device)
    windows = padded.unfold(0, _WINDOW, _STEP).movedim(-1, 1)
    middle = slice(_MARGIN, _MARGIN + _STEP)
    logits = torch.cat([net(window[None])[0, middle] for window in windows])
    return logits.sigmoid()[: len(frames)].cpu()


def scene_cuts_transnet(
    video: Shaped[Tensor, "t 3 height width"],
    threshold: float = THRESHOLD,
    network: TransNetV2 | None = None,
) -> list[int]:
    """Frame numbers at which a new scene starts, by TransNetV2.

    Args:
        video: one video.
        threshold: a change is a run of frames whose probability is above this.
        network: a loaded network; None takes the installed weights.

    Raises:
        ValueError: not one video, or a threshold outside 0 to 1.
        WeightsMissing: the weights are not installed.
    """
    if video.dim() != 4:
        raise ValueError(f"shape {tuple(video.shape)}; give one video, `t 3 height width`")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}; a probability between 0 and 1 is needed")
    above = (change_probabilities(to_small(video), network) > threshold).tolist()
    ends = [i for i in range(1, len(above)) if above[i - 1] and not above[i]]
    return [i for i in ends if not all(above[:i])]  # a run from frame 0 on ends no earlier scene


class SceneCutsTransNet(VideoMean):
    """Mean number of scene cuts a video, by TransNetV2.

    Args:
        threshold: see `scene_cuts_transnet`.
    """

    higher_is_better = False

    def __init__(self, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.threshold = threshold
        self.network = TransNetV2()

    def update(self, video: Tensor) -> None:
        """Add a batch of equally long videos, `b t 3 height width`."""
        counts = [len(scene_cuts_transnet(one, self.threshold, self.network)) for one in video]
        self._add(torch.tensor(counts)[:, None])
