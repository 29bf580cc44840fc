"""Pretrained models from folders on disk, whole or with an error that names the folder; no downloads."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def find_part(folder: Path, part: str, what: str) -> Path:
    """The folder of one part of a diffusers pipeline: `folder/part`, or `folder` itself.

    Raises:
        FileNotFoundError: if neither holds a configuration and safetensors weights.
    """
    for candidate in (folder / part, folder):
        has_weights = any(candidate.glob("diffusion_pytorch_model*.safetensors"))
        if (candidate / "config.json").is_file() and has_weights:
            return candidate
    raise FileNotFoundError(
        f"{folder} holds no diffusers {what}: expected {part}/config.json and "
        f"{part}/diffusion_pytorch_model.safetensors inside it. Weights in .bin files must be "
        "converted to safetensors first"
    )


def load_whole(kind: Any, folder: Path, **options: bool) -> Any:
    """`kind.from_pretrained`, which alone would fill missing weights with random numbers.

    Args:
        kind: a model class of diffusers or transformers.
        folder: holds its configuration and safetensors weights.
        options: arguments of the model's constructor.

    Raises:
        ValueError: a file is truncated, or the weights do not fit the configuration.
    """
    try:
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
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
    return model
