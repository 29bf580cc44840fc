"""Adapters as folders that PEFT reads and writes: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from peft import LoraConfig
from torch import Tensor

from sfv.backbones.base import Backbone
from sfv.files import claim_folder, replacing_parts, write_json
from sfv.storage.pretrained import no_pickle
from sfv.storage.weight_files import disk_errors, read_tensors, write_tensors
from sfv.texts import printable
from sfv.types import LoRATargets

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNET = "unet."
"""What stands before the U-Net's names in ours: an exported adapter fits diffusers' own U-Net."""
_PEFT = "base_model.model."

_PLAIN_STARTS = ("gaussian", "orthogonal", "eva")
"""Beside true and false: what A and B began as, with the base model's weights as they were."""

_NO_MATTER = frozenset(
    [
        "peft_type",
        "peft_version",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "init_lora_weights",
        "eva_config",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    ]
)
"""Fields of PEFT's configuration that change no output of the trained adapter, or are read above."""

_OFF: dict[str, Any] = {
    "bias": "none",
    **dict.fromkeys(
        [
            "fan_in_fan_out",
            "use_rslora",
            "use_dora",
            "use_qalora",
            "lora_bias",
            "ensure_weight_tying",
        ],
        False,
    ),
    **dict.fromkeys(
        [
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "megatron_config",
            "trainable_token_indices",
            "loftq_config",
            "corda_config",
            "lora_ga_config",
            "velora_config",
            "alora_invocation_tokens",
            "monteclora_config",
            "layer_replication",
            "target_parameters",
            "use_bdlora",
            "arrow_config",
            "kasa_config",
        ]
    ),
}
"""Fields that would change it, with what leaves them off; any empty value does too."""

_UNKNOWN = "this version of sfv does not know the field"


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
        ValueError: it is no plain LoRA of one rank, damaged, or holds NaN or infinity.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter (no {CONFIG}); give a folder that PEFT's save_pretrained wrote"
        )
    r, alpha = _read_config(path)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}. {no_pickle(folder / WEIGHTS)}")
    state, _ = read_tensors(folder / WEIGHTS)
    for name, tensor in state.items():
        letter = next((x for x in "AB" if name.endswith(f".lora_{x}.weight")), None)
        if letter is None:
            raise ValueError(
                f"{folder / WEIGHTS} holds {name!r}; allowed: lora_A and lora_B weights alone"
            )
        rank = tensor.shape[letter == "B"] if tensor.ndim >= 2 else 0
        if rank != r:
            raise ValueError(
                f"{folder / WEIGHTS}: {name!r} is {list(tensor.shape)}, but {CONFIG} says r = {r}; write "
                "the adapter again"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{folder / WEIGHTS}: {name!r} holds NaN or infinity; take an earlier checkpoint"
            )
    if not state:
        raise ValueError(f"{folder / WEIGHTS} holds no weights; write the adapter again")
    return {f"{UNET}{_after(name)}": tensor for name, tensor in state.items()}, r, alpha


def check_layers(
    folder: Path, state: Mapping[str, Tensor], denoiser: Backbone, targets: LoRATargets
) -> None:
    """Refuse an adapter of other layers than `targets` stands for.

    Raises:
        ValueError: says which layers differ, and which targets fit.
    """
    adapted = {name.rpartition(".lora_")[0] for name in state}
    wanted = set(denoiser.fast_layers(targets))
    if adapted == wanted:
        return
    fitting = [t for t in get_args(LoRATargets) if set(denoiser.fast_layers(t)) == adapted]
    advice = f"Give --targets {fitting[0]}" if fitting else "Train one on all of them"
    matched = adapted & wanted
    raise ValueError(
        f"{folder} adapts {len(adapted)} layers ({printable(min(adapted))}, ...), {len(matched)} of which "
        f"are among the {len(wanted)} of targets {targets!r}; allowed: exactly those. {advice}"
    )


def moves_nothing(state: dict[str, Tensor], alpha: float) -> bool:
    """Whether the update is zero everywhere: an adapter that was never trained."""
    ups = [tensor for name, tensor in state.items() if name.endswith(".lora_B.weight")]
    return alpha == 0 or not any(tensor.any() for tensor in ups)


def _read_config(path: Path) -> tuple[int, float]:
    """Rank and alpha of a configuration whose every field is understood."""
    try:
        config = json.loads(path.read_bytes())
        kind, r, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type is {kind!r:.60}; allowed: 'LORA'")
    if type(r) is not int or r < 1:
        raise ValueError(f"{path}: r is {r!r:.60}; allowed: a whole number of 1 or more")
    if type(alpha) not in (int, float) or not abs(alpha) < 1e6:
        raise ValueError(f"{path}: lora_alpha is {alpha!r:.60}; allowed: a number below 1000000")
    start = config.get("init_lora_weights", True)
    if not (isinstance(start, bool) or start in _PLAIN_STARTS):
        raise ValueError(
            f"{path}: init_lora_weights is {start!r:.60}, which may change the base model's own weights or "
            "how B is trained; allowed: true, false, "
            + ", ".join(map(repr, _PLAIN_STARTS))
            + ". PEFT makes a plain LoRA of a PiSSA, OLoRA, CorDA or LoRA-GA adapter: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=FOLDER_OF_THE_UNTRAINED_ADAPTER)"
        )
    for name, value in config.items():
        if name not in _NO_MATTER and not (name in _OFF and (not value or value == _OFF[name])):
            allowed = f"{_OFF[name]!r}" if name in _OFF else f"none: {_UNKNOWN}"
            raise ValueError(
                f"{path}: {name} is {value!r:.60}; allowed: {allowed}. A memory is a plain LoRA of one "
                "rank and one alpha; train or convert the adapter to one"
            )
    return r, float(alpha)


def _after(name: str) -> str:
    return name.removeprefix(_PEFT).removeprefix(UNET)


def _plain(value: Any) -> Any:
    """What JSON can hold: sets sorted, enumerations by value."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", value)
