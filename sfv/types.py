"""Shape letters, batches and the protocols that let parts be swapped.

Shape letters, used in every signature (jaxtyping; checked in tests):

| letter | meaning |
|---|---|
| `b` | batch (episodes or windows) |
| `e` | episodes that share a batch, each with its own Θ |
| `p` | numbers in one Θ |
| `c` | latent channels |
| `t` | frames |
| `h w` | latent height and width |
| `height width` | pixel height and width |
| `n d` | text tokens and their width |

`latents` are `b c t h w`, float; `video` is `b t 3 height width`, float in [0, 1].
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from jaxtyping import Float, Float64, Real, UInt8
from torch import Tensor

Precision = Literal["32", "bf16"]
"""Arithmetic of forward passes: float32, or bfloat16 autocast."""

MemoryKind = Literal["temp_lora", "addressed"]
"""Kinds of memory: the paper's temporal LoRA, and addressed fast weights."""

LoRATargets = Literal["temporal", "attention", "all"]
"""Which layers carry Θ; what each means is the backbone's to say (`Backbone.fast_layers`)."""


@runtime_checkable
class Denoiser(Protocol):
    """A network that sees clean context frames and noised frames and predicts noise (or v, or the flow)."""

    latent_channels: int
    text_dim: int

    def __call__(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """Predict for every frame.

        Args:
            latents: the first `num_context` frames are clean, the others carry noise of level `timestep`.
            timestep: diffusion timestep, one a sample: a whole number from 0 to T-1, for flow a real one
                above 0 up to T.
            text: token states of the action.
            num_context: f_p, how many leading frames are clean; 0 when all are noised.
        """
        ...


@dataclass(frozen=True)
class Reading:
    """What an addressed memory says of the frames to generate (`sfv.fast.addressed.read`).

    Args:
        values: r, latents; 0 where nothing was written.
        uncertainty: u of each frame, from 0 (known) to 1 (nothing near was written).
    """

    values: Float[Tensor, "e c g h w"]
    uncertainty: Float[Tensor, "e g"]


@runtime_checkable
class FrameCodec(Protocol):
    """Maps each video frame to a latent frame and back (2D: latent frames = video frames)."""

    latent_channels: int
    spatial_factor: int

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c t h w"]: ...

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t 3 height width"]:
        """Decode to pixels, clamped to [0, 1]."""
        ...

    def fingerprint(self) -> str:
        """Short hash of the weights; latents made by one codec carry it."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Turns actions into token states for cross-attention; `""` stands for "no text"."""

    text_dim: int

    def __call__(self, actions: Sequence[str]) -> Float[Tensor, "b n d"]: ...

    def fingerprint(self) -> str:
        """Short hash of what decides the output; a checkpoint remembers it."""
        ...


@runtime_checkable
class FastWeights(Protocol):
    """Hands Θ to a denoiser. Θ is a tensor of its own, `p` numbers an episode, no module's parameter."""

    num_weights: int

    def fresh(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """A new Θ: the denoiser with it equals its base exactly."""
        ...

    def activate(self, theta: Float[Tensor, "e p"] | None) -> None:
        """Hand over Θ until the next call; None leaves the base."""
        ...

    def use(self, theta: Float[Tensor, "e p"] | None) -> AbstractContextManager[None]:
        """Inside, every episode of a batch has its own Θ; its samples stand side by side."""
        ...

    def merged(self, theta: Float[Tensor, " p"]) -> AbstractContextManager[None]:
        """Inside, one Θ is folded into the weights, which costs a forward pass nothing."""
        ...

    def state(self, theta: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """A copy on the CPU under PEFT's names."""
        ...

    def theta(self, state: dict[str, Tensor]) -> Float[Tensor, " p"]:
        """The Θ that `state` gave."""
        ...

    def drift(self, theta: Float[Tensor, " p"]) -> dict[str, float]:
        """How far Θ moves each layer."""
        ...


class WindowBatch(TypedDict):
    """(context, action, target) windows: context then target, as latents or as video.

    `num_context` is f_p of this batch; the rest of the frames are the targets. `poses` (x, y, z, yaw in
    degrees) stand in it only where they were asked for, NaN where an episode has none.
    """

    latents: NotRequired[Float[Tensor, "b c t h w"]]
    video: NotRequired[UInt8[Tensor, "b t 3 height width"]]
    poses: NotRequired[Float[Tensor, "b t 4"]]
    num_context: int
    actions: list[str]
    keys: list[str]


class EpisodeBatch(TypedDict):
    """One whole episode as its chunk pairs in order; `pairs[i]` holds X_i then X_{i+1}.

    `poses[i]`, where the episode has them, holds that of X_i's last frame, then those of X_{i+1}.
    """

    key: str
    scene: NotRequired[str]
    pairs: Float[Tensor, "n c t h w"]
    actions: list[str]
    poses: NotRequired[Float64[Tensor, "n g 4"]]
