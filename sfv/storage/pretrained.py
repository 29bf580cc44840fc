"""Pretrained models from folders on disk, whole or with an error that names the folder; no downloads."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from sfv.diffusion.schedule import NoiseSchedule
from sfv.storage.weight_files import check_finite

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_STEM = "diffusion_pytorch_model"
_WEIGHTS = f"{_STEM}.safetensors"
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
"""Fields of a scheduler that decide what Φ was trained on, with diffusers' defaults."""

_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "flow_prediction"),
}


def local_folder(place: str | Path) -> Path:
    """The folder that is meant: one on disk, or a hub name that was downloaded before.

    Args:
        place: a path, or `owner/name`; a folder of that path wins.

    Raises:
        FileNotFoundError: there is none; names the command that downloads it.
    """
    if Path(place).is_dir() or not _HUB_NAME.fullmatch(str(place)):
        return Path(place)
    try:
        return Path(snapshot_download(str(place), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{place} is no folder here, and not in the local cache of the hub; nothing is downloaded "
            f"during a run. Download it first: {download_command(str(place))}"
        ) from error


def download_command(name: str) -> str:
    """The shell command that puts the parts of a pipeline in the local cache."""
    return (
        f"hf download {name} --include '*.json' --include '*.txt' "
        "--include '*/diffusion_pytorch_model.safetensors' --include '*/model.safetensors' "
        "--include '*/*-of-?????.safetensors'"
    )


def find_part(folder: Path, part: str, what: str) -> Path:
    """The folder of one part of a diffusers pipeline: `folder/part`, or `folder` itself.

    Raises:
        FileNotFoundError: if neither holds a configuration and safetensors weights.
    """
    folder = local_folder(folder)
    for candidate in (folder / part, folder):
        if (candidate / "config.json").is_file() and has_weights(candidate, _STEM):
            return candidate
    raise FileNotFoundError(
        f"{folder} holds no diffusers {what}: expected {part}/config.json and "
        f"{part}/diffusion_pytorch_model.safetensors inside it. "
        f"{_instead(folder, part) or no_pickle(folder / part / _WEIGHTS)}"
    )


def no_pickle(file: Path) -> str:
    """What to do about weights in a .bin file.

    Args:
        file: the safetensors file that is missing.
    """
    pickled = {"model": "pytorch_model.bin"}.get(file.stem, f"{file.stem}.bin")
    return (
        "Weights in .bin files may run code when they are read: they must be converted to safetensors "
        f'first, in {file.parent}: python -c "import torch, safetensors.torch as s; s.save_file(torch.load('
        f"'{pickled}', weights_only=True), '{file.name}', {{'format': 'pt'}})\""
    )


def schedule_of(folder: Path) -> NoiseSchedule | None:
    """What a pipeline's `scheduler/` says of how its U-Net was trained; None without one.

    Raises:
        ValueError: it is damaged, or a schedule that `NoiseSchedule` cannot be; names the field.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        if config.get("trained_betas") is not None:
            raise ValueError("trained_betas is given, which sfv does not read")
        if _is_flow(config):
            return _flow_schedule(config)
        values = {name: config.get(name, default) for name, default in _SCHEDULE.items()}
        values["zero_terminal_snr"] = values.pop("rescale_betas_zero_snr")
        for name, allowed in _CHOICES.items():
            if values[name] not in allowed:
                raise ValueError(f"{name} is {values[name]!r}; sfv knows {', '.join(allowed)}")
        return NoiseSchedule(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: no schedule that a model could be trained with: {error}"
        ) from error


def has_weights(folder: Path, stem: str) -> bool:
    """Whether a folder has weights that `load_whole` takes: the plain ones, or a single variant.

    Args:
        folder: of one model.
        stem: how its files' names begin: `model` for transformers, `diffusion_pytorch_model` for diffusers.
    """
    return len(_variants(folder, stem)) == 1 or "" in _variants(folder, stem)


def _variants(folder: Path, stem: str) -> set[str]:
    """Names of the sets of weights in a folder, "" for the plain one: `fp16` has STEM.fp16.safetensors."""
    whole = re.compile(rf"{stem}(?:\.([\w-]+?))?\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index(?:\.([\w-]+?))?\.json")
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    found = [whole.fullmatch(name) or index.fullmatch(name) for name in names]
    shard = re.compile(r".*-\d{5}-of-\d{5}")
    variants = {match[1] or "" for match in found if match is not None}
    return {name for name in variants if not shard.fullmatch(name)}


def _instead(folder: Path, part: str) -> str:
    """What to do where safetensors weights lie that are not taken; "" where there are none."""
    for candidate in (folder / part, folder):
        variants = sorted(_variants(candidate, _STEM))
        if not variants:
            continue
        if not (candidate / "config.json").is_file():
            return f"{candidate} has weights, but no config.json: copy it too"
        return (
            f"{candidate} has the variants {', '.join(variants)} and no plain weights: keep the files of "
            "one variant alone, which is loaded then"
        )
    return ""


def _is_flow(config: Any) -> bool:
    """Schedulers made for flow say it by their class, the others by what is predicted."""
    made_for_it = str(config.get("_class_name", "")).startswith("FlowMatch")
    return made_for_it or config.get("prediction_type") == "flow_prediction"


def _flow_schedule(config: Any) -> NoiseSchedule:
    """Flow with a fixed shift of its levels.

    Raises:
        ValueError: the shift depends on the size of the frames.
    """
    if config.get("use_dynamic_shifting"):
        raise ValueError("use_dynamic_shifting is true; sfv knows flow with a fixed shift")
    shift = float(config.get("shift", config.get("flow_shift", 1.0)))
    num_train_timesteps = config.get("num_train_timesteps", _SCHEDULE["num_train_timesteps"])
    return NoiseSchedule(num_train_timesteps, prediction_type="flow_prediction", shift=shift)


def load_whole(kind: Any, folder: Path, **options: bool) -> Any:
    """`kind.from_pretrained`, which alone would fill missing weights with random numbers.

    Weights that are there only as a variant (`fp16`) are loaded from it, into float32.

    Args:
        kind: a model class of diffusers or transformers.
        folder: holds its configuration and safetensors weights.
        options: arguments of the model's constructor.

    Raises:
        ValueError: a file is truncated, the weights do not fit the configuration, or one is not finite.
    """
    stem = _STEM if (folder / "config.json").is_file() and _variants(folder, _STEM) else "model"
    variants = _variants(folder, stem)
    variant = None if "" in variants or len(variants) != 1 else next(iter(variants))
    if variant is not None:
        logger.warning("%s has %s weights alone; they are loaded as float32", folder, variant)
    try:
        model, info = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            variant=variant,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{folder} holds no readable {kind.__name__}: config.json or a .safetensors file is "
            f"truncated, or they do not fit each other ({first_line}). Copy or write the folder again"
        ) from error
    wrong = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if wrong:
        raise ValueError(
            f"{folder} lacks {len(wrong)} weights of a {kind.__name__} (first: {wrong[0]}): it was "
            "not copied whole, or config.json belongs to other weights. Copy the folder again"
        )
    check_finite(model.state_dict(), f"{folder} cannot be used")
    return model if variant is None else model.float()
