"""Which action, and which move of the camera, lies between two consecutive frames?

A small network that learns from true videos. It reads actions back from generated videos
(`sfv.metrics.action_following`), and turns imagined frames into actions to take.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfv.metrics.video import check_video
from sfv.models.model_folder import INVERSE_FILE, find_inverse
from sfv.rng import stream
from sfv.storage.weight_files import hash_tensors, read_tensors, write_tensors
from sfv.texts import look_up

POSE = ("forward", "left", "up", "turn")
"""What the continuous head reads: units of the world, and degrees counter-clockwise."""
_FORMAT = "sfv.inverse_dynamics/1"
_FRAMES_AT_ONCE = 256
_SHIFTS = (-8, -6, -4, -2, 2, 4, 6, 8)
"""Pixels to the side by which frames are compared: a turn moves the whole picture."""


class InverseDynamics(nn.Module):
    """A pair of frames to action logits and a change of pose.

    Args:
        actions: every action that can be read.
        side: frames are resized to side x side pixels; a multiple of 2 for each of `widths`.
        widths: channels of the convolutions, each of which halves the picture.
        hidden: width of the layer before the heads.
        pose_scale: typical size of each number of `POSE` between two frames.
        seed: decides the initial weights.

    Raises:
        ValueError: actions that are none, empty or listed twice; sizes that do not fit.
    """

    def __init__(
        self,
        actions: Sequence[str],
        side: int = 64,
        widths: Sequence[int] = (32, 48, 64, 96),
        hidden: int = 128,
        pose_scale: Sequence[int | float] = (1.0, 1.0, 1.0, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.actions = tuple(actions)
        _check_actions(self.actions)
        last = side // 2 ** len(widths)
        if last < 1 or last * 2 ** len(widths) != side:
            raise ValueError(
                f"side is {side} with {len(widths)} widths; each halves the picture, so give a "
                f"multiple of {2 ** len(widths)}"
            )
        if len(pose_scale) != len(POSE) or min(pose_scale) <= 0:
            raise ValueError(
                f"pose_scale is {list(pose_scale)}; four numbers above 0 are needed: {list(POSE)}"
            )
        self.side, self.widths, self.hidden = side, tuple(widths), hidden
        self.register_buffer("pose_scale", torch.tensor(pose_scale, dtype=torch.float32))
        with torch.device("meta"):  # no weights yet: they come from a named generator
            self.convs = nn.ModuleList(
                nn.Conv2d(before, width, 5 if i == 0 else 3, 2, 2 if i == 0 else 1)
                for i, (before, width) in enumerate(
                    zip((6 + len(_SHIFTS), *self.widths), self.widths, strict=False)
                )
            )
            self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in self.widths)
            self.joined = nn.Linear(self.widths[-1] * last * last, hidden)
            self.action_head = nn.Linear(hidden, len(self.actions))
            self.pose_head = nn.Linear(hidden, len(POSE))
        self._initialise(seed)

    def forward(
        self,
        before: Float[Tensor, "n 3 height width"],
        after: Float[Tensor, "n 3 height width"],
    ) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n 4"]]:
        """Read pairs of frames in [0, 1].

        Returns:
            logits of `actions`, and the change of pose in units of the world.
        """
        before, after = self._resized(before), self._resized(after)
        x = torch.cat([before - 0.5, (after - before) * 4, _differences(before, after)], dim=1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x)))
        x = F.silu(self.joined(x.flatten(1)))
        return self.action_head(x), self.pose_head(x) * self.get_buffer("pose_scale")

    def index_of(self, actions: Sequence[str]) -> Int[Tensor, " n"]:
        """Numbers of actions in the vocabulary.

        Raises:
            ValueError: names what is not in it.
        """
        found, unknown = look_up(actions, {action: i for i, action in enumerate(self.actions)})
        if unknown:
            raise ValueError(
                f"unknown actions {unknown}; this inverse model reads {list(self.actions)}: train one "
                "with these actions in its list"
            )
        return torch.tensor(found)

    def save(self, folder: Path) -> None:
        """Write weights and sizes to one safetensors file in `folder`."""
        scale = self.get_buffer("pose_scale").tolist()
        sizes = {
            "actions": self.actions,
            "side": self.side,
            "widths": self.widths,
            "hidden": self.hidden,
            "pose_scale": scale,
        }
        metadata = {"format": _FORMAT, "sizes": json.dumps(sizes)}
        write_tensors(folder / INVERSE_FILE, self.state_dict(), metadata)

    @classmethod
    def load(cls, folder: str | Path) -> "InverseDynamics":
        """Read what `save` wrote.

        Args:
            folder: see `find_inverse`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another kind of file.
        """
        path = find_inverse(folder) / INVERSE_FILE
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} has the format {metadata.get('format')!r}, expected {_FORMAT!r}; give the "
                "model folder of sfv fit inverse_dynamics"
            )
        model = cls(**json.loads(metadata["sizes"]))
        model.load_state_dict(tensors)
        return model.eval()

    def fingerprint(self) -> str:
        """Short hash of weights and vocabulary."""
        return hash_tensors({**self.state_dict(), "\n".join(self.actions): torch.zeros(0)})

    def _resized(self, frames: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 h w"]:
        if frames.shape[-2:] == (self.side, self.side):
            return frames
        size = (self.side, self.side)
        return F.interpolate(frames, size, mode="bilinear", align_corners=False, antialias=True)

    def _initialise(self, seed: int) -> None:
        """Normal weights of variance 2 / inputs (1 / inputs for the heads), no biases."""
        for name, module in self.named_modules():
            for part, parameter in list(module.named_parameters(recurse=False)):
                if part == "bias":
                    value = torch.zeros(parameter.shape)
                elif isinstance(module, nn.GroupNorm):
                    value = torch.ones(parameter.shape)
                else:
                    gain = 1.0 if name.endswith("head") else 2.0
                    std = math.sqrt(gain / parameter[0].numel())
                    generator = stream(seed, "inverse-init", name)
                    value = std * torch.randn(parameter.shape, generator=generator)
                module.register_parameter(part, nn.Parameter(value))


def _differences(
    before: Float[Tensor, "n 3 h w"], after: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n shifts h w"]:
    """How unlike the frames are, one moved sideways by each of `_SHIFTS`; small where that fits.

    Strided convolutions have to learn such comparisons first, and mix up left and right until then.
    """
    moved = [(after.roll(shift, dims=3) - before).abs().mean(dim=1) for shift in _SHIFTS]
    return torch.stack(moved, dim=1) * 4


def _check_actions(actions: tuple[str, ...]) -> None:
    if not actions or "" in actions or len(set(actions)) < len(actions):
        raise ValueError(
            f"actions are {list(actions)}; list every action that can be read once, none of them empty"
        )


def pose_changes(poses: Float[Tensor, "*b t 4"]) -> Float[Tensor, "*b t2 4"]:
    """Moves between consecutive poses (x, y, z, yaw), seen from the earlier one: `POSE`."""
    step = poses.diff(dim=-2)
    yaw = torch.deg2rad(poses[..., :-1, 3])
    forward = step[..., 0] * yaw.cos() + step[..., 1] * yaw.sin()
    left = step[..., 1] * yaw.cos() - step[..., 0] * yaw.sin()
    turn = torch.remainder(step[..., 3] + 180, 360) - 180
    return torch.stack([forward, left, step[..., 2], turn], dim=-1)


@dataclass(frozen=True)
class InverseLosses:
    """What training minimises.

    Attributes:
        action: cross-entropy of the action.
        pose: smooth L1 of the change of pose in units of `pose_scale`; 0 where no pose is known.
    """

    action: Float[Tensor, ""]
    pose: Float[Tensor, ""]


def inverse_losses(
    logits: Float[Tensor, "n a"],
    pose: Float[Tensor, "n 4"],
    action: Int[Tensor, " n"],
    change: Float[Tensor, "n 4"],
    pose_scale: Float[Tensor, " 4"],
) -> InverseLosses:
    """Losses of both heads; rows of `change` that are NaN have no known pose."""
    known = change.isfinite().all(dim=1)
    error = F.smooth_l1_loss(pose[known] / pose_scale, change[known] / pose_scale, reduction="sum")
    count = max(1, int(known.sum()) * len(POSE))
    return InverseLosses(F.cross_entropy(logits, action), error / count)


class InverseReader:
    """An inverse model as a `sfv.metrics.action_following.ActionReader`.

    Args:
        model: trained on true videos.
        device: where it runs.
    """

    def __init__(self, model: InverseDynamics, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval()
        self.actions = model.actions
        self.name = "inverse-dynamics"
        self.sha256 = model.fingerprint()
        self.resize = f"bilinear, antialiased, to {model.side}x{model.side}"
        self._device = torch.device(device)

    def __call__(self, video: Float[Tensor, "t 3 height width"]) -> Float[Tensor, "pairs a"]:
        """Probability of every action between each frame and the next."""
        return self.read(video)[0].softmax(dim=1)

    @torch.no_grad()
    def read(
        self, video: Float[Tensor, "t 3 height width"]
    ) -> tuple[Float[Tensor, "pairs a"], Float[Tensor, "pairs 4"]]:
        """Logits and changes of pose between each frame and the next, on the CPU."""
        frames = check_video(video).to(self._device)
        before, after = (torch.split(x, _FRAMES_AT_ONCE) for x in (frames[:-1], frames[1:]))
        parts = [self.model(a, b) for a, b in zip(before, after, strict=True)]
        logits, pose = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return logits, pose
