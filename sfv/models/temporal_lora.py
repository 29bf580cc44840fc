"""The fast weights Θ: a low-rank adapter on the denoiser (Temp-LoRA), injected by peft."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sfv.rng import stream

LoRATargets = Literal["temporal", "attention", "all"]

_ADAPTER = "memory"
_TEMPORAL_BLOCK = re.compile(r"(^|\.)(transformer_in|temp_attentions\.\d+)\.")
_SPATIAL_BLOCK = re.compile(r"(^|\.)attentions\.\d+\.")
_ATTENTION = re.compile(r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$")
_TEMPORAL_CONVOLUTION = re.compile(r"(^|\.)temp_convs\.\d+\.conv[1-4]\.\d+$")


class TemporalLoRA:
    """Θ inside a denoiser: W' = W + (α/r)·B·A on the chosen layers; satisfies `FastWeights`.

    After construction Θ is fresh (B = 0: the denoiser equals its base exactly) and on. Which of
    the denoiser's own weights Φ take gradients does not change. As a context manager it removes
    itself at the end.

    Args:
        denoiser: gets the adapter in place.
        r: rank; the paper's is 32.
        alpha: α; the adapter is scaled by alpha / r.
        targets: `temporal`: every linear layer of the temporal transformers (the input one and
            those after each spatial one). `attention`: query, key, value and output layers of
            spatial and temporal attention. `all`: every linear layer of both kinds of
            transformers, and the temporal convolutions.
        dropout: on the adapter's input while training. Above 0 it draws from PyTorch's global
            generator, so that a resumed run differs from an uninterrupted one.

    Raises:
        ValueError: if the denoiser has an adapter already, or no layer to adapt.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        r: int = 32,
        alpha: float = 32.0,
        targets: LoRATargets = "temporal",
        dropout: float = 0.0,
    ) -> None:
        if r < 1:
            raise ValueError(f"the rank r is {r}; it must be at least 1")
        if any(isinstance(module, LoraLayer) for module in denoiser.modules()):
            raise ValueError(
                "the denoiser has a LoRA already: reset() it for a new episode, or remove() it "
                "before making another"
            )
        names = target_modules(denoiser, targets)
        takes_gradient = {name: p.requires_grad for name, p in denoiser.named_parameters()}
        _inject(denoiser, names, r, alpha, dropout)
        self._denoiser = denoiser
        self._layers = _lora_layers(denoiser)
        assert sorted(self._layers) == sorted(names), "peft matched other layers than asked for"
        self._weights = _weights_of(denoiser)
        for name, parameter in denoiser.named_parameters():
            plain = _plain_name(name)
            if plain in takes_gradient:
                parameter.requires_grad_(takes_gradient[plain])
        for parameter in self._weights.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self.reset(stream(0, "temporal-lora-init"))

    def __enter__(self) -> "TemporalLoRA":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Θ alone, in fp32 whatever the denoiser's precision is."""
        return iter(self._weights.values())

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Make Θ fresh: A as peft draws it (Kaiming uniform), B = 0."""
        for name, weight in self._weights.items():
            if ".lora_B." in name:
                weight.zero_()
                continue
            fresh = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
            weight.copy_(fresh)

    def state(self) -> dict[str, Tensor]:
        """A detached copy on the CPU, keyed as `peft.get_peft_model_state_dict` does."""
        return {
            name: weight.detach().to("cpu", copy=True) for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: if `state` belongs to other layers or another rank; nothing is changed then.
        """
        self._check_state(state)
        for name, weight in self._weights.items():
            weight.copy_(state[name])

    def enable(self, active: bool) -> None:
        """Switch Θ on or off; off leaves the base denoiser. Gradient flags stay as they are."""
        takes_gradient = [weight.requires_grad for weight in self._weights.values()]
        for layer in self._layers.values():
            layer.enable_adapters(active)
        for weight, flag in zip(self._weights.values(), takes_gradient, strict=True):
            weight.requires_grad_(flag)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Sample at the cost of the base: fold Θ into the weights, and restore them bit for bit.

        Inside, Θ takes no gradients and must not change. Outputs equal those outside up to
        rounding. Where Θ is off, it stays off.
        """
        if any(layer.disable_adapters for layer in self._layers.values()):
            yield
            return
        weights = [layer.get_base_layer().weight for layer in self._layers.values()]
        originals = [weight.data for weight in weights]
        with torch.no_grad():
            for layer, weight in zip(self._layers.values(), weights, strict=True):
                delta = layer.get_delta_weight(_ADAPTER)
                weight.data = (weight.data + delta).to(weight.dtype)
        self.enable(False)
        try:
            yield
        finally:
            self.enable(True)
            for weight, original in zip(weights, originals, strict=True):
                weight.data = original

    def remove(self) -> None:
        """Give the denoiser back as it was before: same modules, names and weights. Idempotent."""
        for name, layer in self._layers.items():
            parent, _, child = name.rpartition(".")
            setattr(self._denoiser.get_submodule(parent), child, layer.get_base_layer())
        if self._layers:
            del self._denoiser.peft_config
        self._layers, self._weights = {}, {}

    def _check_state(self, state: dict[str, Tensor]) -> None:
        missing = sorted(self._weights.keys() - state.keys())
        unknown = sorted(state.keys() - self._weights.keys())
        if missing or unknown:
            raise ValueError(
                f"this memory does not fit the denoiser's LoRA: {len(missing)} weights are missing "
                f"(first: {missing[:1]}), {len(unknown)} are unknown (first: {unknown[:1]}). Use "
                "the denoiser preset and the targets it was made with"
            )
        for name, weight in self._weights.items():
            if state[name].shape != weight.shape:
                raise ValueError(
                    f"this memory does not fit the denoiser's LoRA: {name} is "
                    f"{tuple(state[name].shape)} in the memory and {tuple(weight.shape)} here. Use "
                    "the rank r and the denoiser preset it was made with"
                )


def target_modules(denoiser: nn.Module, targets: LoRATargets) -> list[str]:
    """Full names of the layers that `targets` stands for.

    Raises:
        ValueError: if there are none.
    """
    names = [name for name, module in denoiser.named_modules() if _matches(name, module, targets)]
    if not names:
        raise ValueError(
            f"{type(denoiser).__name__} has no layers for LoRA targets {targets!r}: expected the "
            "module names of diffusers' UNet3DConditionModel (transformer_in, temp_attentions, ...)"
        )
    return names


def base_state_dict(denoiser: nn.Module) -> dict[str, Tensor]:
    """Φ's state dict under its clean names, also while a LoRA is injected."""
    return {
        _plain_name(name): value
        for name, value in denoiser.state_dict().items()
        if ".lora_" not in name
    }


def _matches(name: str, module: nn.Module, targets: LoRATargets) -> bool:
    linear = isinstance(module, nn.Linear)
    temporal = linear and _TEMPORAL_BLOCK.search(name) is not None
    spatial = linear and _SPATIAL_BLOCK.search(name) is not None
    match targets:
        case "temporal":
            return temporal
        case "attention":
            return (temporal or spatial) and _ATTENTION.search(name) is not None
        case "all":
            convolution = isinstance(module, nn.Conv3d)
            return temporal or spatial or (convolution and bool(_TEMPORAL_CONVOLUTION.search(name)))


def _inject(denoiser: nn.Module, names: list[str], r: int, alpha: float, dropout: float) -> None:
    """Let peft wrap the layers; its own initial draw must not move the global generator."""
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=names, lora_dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, denoiser, adapter_name=_ADAPTER)


def _lora_layers(denoiser: nn.Module) -> dict[str, LoraLayer]:
    return {n: m for n, m in denoiser.named_modules() if isinstance(m, LoraLayer)}


def _weights_of(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Θ's parameters, named as `peft.get_peft_model_state_dict` names them."""
    return {
        name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in denoiser.named_parameters()
        if ".lora_" in name
    }


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")
