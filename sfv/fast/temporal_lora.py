"""The fast weights Θ: a low-rank adapter on the denoiser (Temp-LoRA), one set of weights an episode.

Θ is no parameter of any module. It lives in tensors outside, one row an episode, and is handed to the
adapted layers for as long as a context lasts. So one forward pass serves many episodes, each with its own
Θ; state dicts, optimisers, DDP and FSDP see Φ alone; and setting Θ copies nothing. Stored memories have
PEFT's names and shapes (`TemporalLoRA.state`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfv.backbones.base import Backbone
from sfv.fast.lora_math import Pair, add_convolution, add_linear, delta_norms, delta_weight
from sfv.types import LoRATargets

LoRAInit = Literal["kaiming", "gaussian"]

_adapted: "WeakSet[Backbone]" = WeakSet()
"""Denoisers that have an adapter: a second one would add to the first unseen."""


@dataclass(eq=False)
class AdaptedLayer:
    """One layer that Θ acts on.

    Args:
        name: its full name in the denoiser.
        module: the layer itself, whose weights are Φ's.
        shapes: of A and B.
        active: (A, B) of the episodes of the batch at hand; None leaves the base.
    """

    name: str
    module: nn.Module
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    active: Pair | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Weights in A and in B."""
        return math.prod(self.shapes[0]), math.prod(self.shapes[1])


class TemporalLoRA:
    """Where Θ acts inside a denoiser: W' = W + (α/r)·B·A on the chosen layers.

    It holds no Θ of its own: make one with `fresh`, hand it over with `use`. Outside of `use` the
    denoiser is its base. As a context manager it removes itself at the end.

    Args:
        denoiser: gets a hook on every adapted layer; its modules, names and weights stay.
        r: rank; the paper's is 32.
        alpha: α; the update is scaled by alpha / r.
        targets: which layers, as the backbone's `fast_layers` tells them apart: `temporal`, `attention`
            or `all`.
        init: of A; B starts at zero, so that a fresh Θ is the base exactly. `kaiming` is PEFT's
            default (uniform within 1/√fan_in), `gaussian` is normal with deviation 1/r.

    Raises:
        ValueError: if the denoiser has an adapter already, or no layer to adapt.
    """

    def __init__(
        self,
        denoiser: Backbone,
        r: int = 32,
        alpha: float = 32.0,
        targets: LoRATargets = "temporal",
        init: LoRAInit = "kaiming",
    ) -> None:
        if r < 1:
            raise ValueError(f"the rank r is {r}; it must be at least 1")
        if denoiser in _adapted:
            raise ValueError(
                "the denoiser has a LoRA already: use() it with a fresh Θ for a new episode, or "
                "remove() it before making another"
            )
        self.r, self.alpha, self.targets, self.init = r, alpha, targets, init
        self.scale = alpha / r
        names = target_modules(denoiser, targets)
        self.layers = [_layer(name, denoiser.get_submodule(name), r) for name in names]
        self.num_weights = sum(sum(layer.sizes) for layer in self.layers)
        self._denoiser = denoiser
        self._hooks = [
            layer.module.register_forward_hook(_hook(layer, self.scale)) for layer in self.layers
        ]
        _adapted.add(denoiser)

    def __enter__(self) -> "TemporalLoRA":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def fresh(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """A new Θ, in fp32 on the CPU; only A is drawn."""
        theta = torch.zeros(self.num_weights)
        for a, _ in self._views(theta[None]):
            match self.init:
                case "kaiming":
                    nn.init.kaiming_uniform_(a[0], a=math.sqrt(5), generator=generator)
                case "gaussian":
                    nn.init.normal_(a[0], std=1 / self.r, generator=generator)
        return theta

    def activate(self, theta: Float[Tensor, "e p"] | None) -> None:
        """Hand over Θ until the next call; None leaves the base.

        The batches that follow hold e episodes, equally many samples of each, side by side. Gradients
        flow to `theta` if it takes any.
        """
        pairs: list[Pair | None] = [None] * len(self.layers)
        if theta is not None:
            pairs = list(self._views(theta))
        for layer, pair in zip(self.layers, pairs, strict=True):
            layer.active = pair

    @contextmanager
    def use(self, theta: Float[Tensor, "e p"] | None) -> Iterator[None]:
        """Hand over Θ inside; what was active before is back afterwards.

        With activation checkpointing the backward pass belongs inside too: it computes layers again.
        """
        before = [layer.active for layer in self.layers]
        self.activate(theta)
        try:
            yield
        finally:
            for layer, pair in zip(self.layers, before, strict=True):
                layer.active = pair

    @contextmanager
    def merged(self, theta: Float[Tensor, " p"]) -> Iterator[None]:
        """Sample one episode at the cost of the base: fold Θ into Φ, restored bit for bit afterwards.

        Outputs equal those of `use` up to rounding.
        """
        weights: list[Any] = [layer.module.weight for layer in self.layers]
        originals = [weight.data for weight in weights]
        with torch.no_grad():
            for weight, (a, b) in zip(weights, self._views(theta[None]), strict=True):
                delta = delta_weight(a[0], b[0], self.scale)
                weight.data = (weight.data + delta).to(weight.dtype)
        torch.clear_autocast_cache()  # it may hold the weights as they were, in half precision
        try:
            yield
        finally:
            for weight, original in zip(weights, originals, strict=True):
                weight.data = original
            torch.clear_autocast_cache()

    def state(self, theta: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """A copy of Θ on the CPU, named and shaped as `peft.get_peft_model_state_dict` does."""
        found = {}
        pairs = self._views(theta.detach()[None])
        for layer, pair in zip(self.layers, pairs, strict=True):
            for letter, weight in zip("AB", pair, strict=True):
                found[f"{layer.name}.lora_{letter}.weight"] = weight[0].to("cpu", copy=True)
        return found

    def theta(self, state: dict[str, Tensor]) -> Float[Tensor, " p"]:
        """The Θ that `state` gave, in fp32 on the CPU.

        Raises:
            ValueError: if `state` belongs to other layers or another rank.
        """
        shapes = {
            f"{layer.name}.lora_{letter}.weight": shape
            for layer in self.layers
            for letter, shape in zip("AB", layer.shapes, strict=True)
        }
        _check_state(state, shapes)
        return torch.cat([state[name].detach().cpu().float().flatten() for name in shapes])

    def drift(self, theta: Float[Tensor, " p"]) -> dict[str, float]:
        """‖ΔW‖ of every adapted layer: how far Θ has moved the network; 0 when fresh."""
        pairs = [(a[0], b[0]) for a, b in self._views(theta.detach()[None])]
        norms = delta_norms(pairs, self.scale)
        return {layer.name: norm for layer, norm in zip(self.layers, norms, strict=True)}

    def remove(self) -> None:
        """Take the hooks off again. Idempotent."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _adapted.discard(self._denoiser)

    def _views(self, theta: Float[Tensor, "e p"]) -> Iterator[Pair]:
        """(A, B) of every layer, views of Θ with the episodes in front."""
        sizes = [size for layer in self.layers for size in layer.sizes]
        parts = iter(torch.split(theta, sizes, dim=1))
        for layer in self.layers:
            a, b = (torch.unflatten(next(parts), 1, shape) for shape in layer.shapes)
            yield a, b


def target_modules(denoiser: Backbone, targets: LoRATargets) -> list[str]:
    """Full names of the layers that `targets` stands for.

    Raises:
        ValueError: the backbone has none.
    """
    names = denoiser.fast_layers(targets)
    if not names:
        raise ValueError(
            f"{type(denoiser).__name__} has no layers for LoRA targets {targets!r}; give other targets"
        )
    return names


def _hook(layer: AdaptedLayer, scale: float) -> Callable[..., Tensor | None]:
    """A forward hook that adds the active episodes' update to the layer's output."""
    add = add_linear if isinstance(layer.module, nn.Linear) else add_convolution

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if layer.active is None:
            return None
        a, b = layer.active
        if output.shape[0] % a.shape[0]:
            raise ValueError(
                f"a batch for Θ of {a.shape[0]} episodes must hold equally many samples of each, but "
                f"{layer.name} got {output.shape[0]} rows; give each episode as many samples"
            )
        return add(output, args[0], a, b, scale)

    return hook


def _layer(name: str, module: nn.Module, r: int) -> AdaptedLayer:
    match module:
        case nn.Linear():
            shapes: Any = (r, module.in_features), (module.out_features, r)
        case nn.Conv3d():
            shapes = (r, module.in_channels, *module.kernel_size), (module.out_channels, r, 1, 1, 1)
        case _:
            raise AssertionError(f"{name} is matched, but a {type(module).__name__}")
    return AdaptedLayer(name, module, shapes)


def _check_state(state: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(shapes.keys() - state.keys())
    unknown = sorted(state.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(
            f"this memory does not fit the denoiser's LoRA: {len(missing)} weights are missing "
            f"(first: {missing[:1]}), {len(unknown)} are unknown (first: {unknown[:1]}). Use "
            "the denoiser preset and the targets it was made with"
        )
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise ValueError(
                f"this memory does not fit the denoiser's LoRA: {name} is "
                f"{tuple(state[name].shape)} in the memory and {shape} here. Use "
                "the rank r and the denoiser preset it was made with"
            )
