"""What a backbone is: a denoiser that can be saved, adapted, compiled, recomputed and sharded.

A backbone of your own derives from `Backbone`, sets `latent_channels` and `text_dim`, and defines `forward`
and `settings`. The other methods have defaults that work for any network; override them where yours can do
better. `examples/own_backbone.py` is a complete one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from sfv.backbones.memory_input import MemoryInput
from sfv.diffusion.schedule import NoiseSchedule
from sfv.files import write_json
from sfv.storage.weight_files import read_tensors, write_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


class Backbone(nn.Module):
    """ε_Φ: predicts noise for a window of clean context frames and noised ones (`sfv.types.Denoiser`)."""

    folder: ClassVar[str] = "denoiser"
    """Name of the folder inside a world model's folder that `save` writes."""

    latent_channels: int
    text_dim: int
    latent_size: tuple[int, int] | None = None
    """Height and width of the latents that it is meant for; None: any."""
    trained_schedule: NoiseSchedule | None = None
    """What pretrained weights were trained on, where their folder says it."""

    def __init__(self) -> None:
        super().__init__()
        self.memory_input: MemoryInput | None = None
        """Reads an addressed memory; None: the network has no channels for one."""

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: Real[Tensor, " b"],
        text: Float[Tensor, "b n d"],
        num_context: int,
    ) -> Float[Tensor, "b c t h w"]:
        """See `sfv.types.Denoiser`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as JSON holds them, that make this network again without its weights."""
        raise NotImplementedError(f"{type(self).__name__} defines no settings")

    def save(self, folder: str | Path) -> None:
        """Write settings and weights; those that half precision holds exactly take half the room.

        Raises:
            ValueError: fast weights are part of the network's parameters, or a number is not finite.
        """
        require_no_fast_weights(self)
        weights = {name: _smallest(tensor) for name, tensor in self.state_dict().items()}
        write_tensors(Path(folder) / WEIGHTS_FILE, weights, {})
        write_json(Path(folder) / CONFIG_FILE, self.settings())

    @classmethod
    def load(cls, folder: str | Path) -> "Backbone":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the settings and the weights do not fit each other.
        """
        path = Path(folder) / CONFIG_FILE
        try:
            network = cls(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no settings of {cls.__name__} ({error})") from error
        load_exactly(network, read_tensors(Path(folder) / WEIGHTS_FILE)[0], Path(folder))
        return network

    def fast_layers(self, targets: str) -> list[str]:
        """Full names of the layers that Θ adapts; they are linear, or convolutions along time.

        Args:
            targets: `temporal`, `attention` or `all`, as in `LoRASettings.targets`.

        Raises:
            ValueError: this network does not tell such layers apart.
        """
        if targets == "all":
            return [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        raise ValueError(
            f"{type(self).__name__} has no layers for LoRA targets {targets!r}; allowed: all. Set "
            f"lora.targets to that, or define {type(self).__name__}.fast_layers"
        )

    def blocks(self) -> Sequence[nn.Module]:
        """The large blocks in the order of the forward pass: compiled and sharded one by one."""
        return []

    def recomputed_layers(self) -> Sequence[nn.Module]:
        """What keeps only its input for the backward pass, with activation checkpointing."""
        return self.blocks()

    def use_stock_layers(self) -> None:
        """Compute on a CPU as on a GPU, without faster layers; `sfv estimate` asks for it."""

    def check_inputs(self, latents: Tensor, text: Tensor) -> None:
        """Refuse latents and text of other widths than the network's.

        Raises:
            ValueError: names the width and the setting to change.
        """
        if latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents have {latents.shape[1]} channels, this denoiser takes "
                f"{self.latent_channels}: use the codec it was trained with, or build it with "
                f"latent_channels={latents.shape[1]}"
            )
        if text.shape[-1] != self.text_dim:
            raise ValueError(
                f"text tokens are {text.shape[-1]} wide, this denoiser takes {self.text_dim}: use "
                f"the text encoder it was trained with, or build it with text_dim={text.shape[-1]}"
            )


def _smallest(tensor: Tensor) -> Tensor:
    """The same numbers in float16, if they are the same there."""
    half = tensor.half()
    return half if tensor.dtype == torch.float32 and torch.equal(half.float(), tensor) else tensor


def base_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Φ's state dict under its clean names, also while PEFT has wrapped layers of it."""
    return {
        name.replace(".base_layer.", "."): value
        for name, value in network.state_dict().items()
        if ".lora_" not in name
    }


def require_no_fast_weights(network: nn.Module) -> None:
    """Refuse to save a network whose parameters include a LoRA.

    Raises:
        ValueError: there is one.
    """
    if any(".lora_" in name for name, _ in network.named_parameters()):
        raise ValueError("the denoiser holds fast weights: call their remove() before saving Φ")


def load_exactly(part: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """`load_state_dict` with an error of one line.

    Raises:
        ValueError: names the first weight that is missing or of another shape.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if ours != theirs:
        name = min(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        raise ValueError(
            f"{source} has another shape than the {type(part).__name__} it is read into: {name} is "
            f"{theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here. Use the preset "
            "and settings it was trained with"
        )
    part.load_state_dict(state)
