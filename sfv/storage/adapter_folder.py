"""Adapters as folders that PEFT reads and writes: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from sfv.files import claim_folder, replacing_parts, write_json
from sfv.storage.weight_files import disk_errors, read_tensors, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNET = "unet."
"""What stands before the U-Net's names in ours: an exported adapter fits diffusers' own U-Net."""
_PEFT = "base_model.model."


def write_adapter(
    folder: Path, layers: Sequence[str], state: dict[str, Tensor], r: int, alpha: float
) -> None:
    """Write an adapter of diffusers' `UNet3DConditionModel`, for `peft.PeftModel.from_pretrained`.

    Args:
        folder: new, empty, or an older adapter that is replaced.
        layers: full names of the adapted layers, with the leading `unet.`.
        state: their weights, named likewise.
        r: rank.
        alpha: the scale is alpha / r.

    Raises:
        FileExistsError: the folder holds something else.
    """
    claim_folder(folder, CONFIG, "an adapter")
    targets = sorted(name.removeprefix(UNET) for name in layers)
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=targets)
    weights = {f"{_PEFT}{name.removeprefix(UNET)}": tensor for name, tensor in state.items()}
    content = {key: _plain(value) for key, value in config.to_dict().items()}
    with replacing_parts(folder, CONFIG) as temporary, disk_errors():
        write_tensors(temporary / WEIGHTS, weights, {"format": "pt"})
        write_json(temporary / CONFIG, content)


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], int, float]:
    """Read a LoRA that PEFT wrote: weights under our names, rank, alpha.

    Raises:
        FileNotFoundError: there is no adapter.
        ValueError: it is no plain LoRA of one rank, or damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter (no {CONFIG}); give a folder that PEFT's save_pretrained wrote"
        )
    try:
        config = json.loads(path.read_bytes())
        kind, r, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    special = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
        if config.get(key)
    ]
    if kind != "LORA" or special:
        raise ValueError(
            f"{path} describes {kind} with {special or 'no'} extras; a memory is a plain LORA of one rank "
            "and one alpha"
        )
    state, _ = read_tensors(folder / WEIGHTS)
    found = {f"{UNET}{_after(name)}": tensor for name, tensor in state.items()}
    if not found or not all(".lora_A." in name or ".lora_B." in name for name in found):
        raise ValueError(f"{folder / WEIGHTS} holds other tensors than lora_A and lora_B weights")
    return found, r, alpha


def _after(name: str) -> str:
    return name.removeprefix(_PEFT).removeprefix(UNET)


def _plain(value: Any) -> Any:
    """What JSON can hold: sets sorted, enumerations by value."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", value)
