"""What a memory file may hold: types and sizes of its fields, shapes and values of its tensors.

The same checks run when a file is read and before it is written. All errors are one line: the file, the
field, what was given, what is allowed.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite, prod
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from sfv.storage.weight_files import num_not_finite

T = TypeVar("T")

HEADER_CHARACTERS = 1_000_000
"""Of the whole header as JSON; one of a rollout has about a thousand."""

LIMITS: dict[str, tuple[float, float]] = {
    "base": (1, 200),
    "episode": (1, 1000),
    "origin": (0, 100_000),
    "num_chunks": (0, 10_000_000),
    "r": (1, 65_536),
    "alpha": (-1e6, 1e6),
    "num_steps": (0, 10_000),
    "draws_per_step": (1, 10_000),
    "probe_draws": (0, 10_000),
    "history": (1, 100_000),
    "num_inference_steps": (1, 10_000),
    "guidance_scale": (0, 1e6),
    "seed": (-(2**63), 2**63 - 1),
}
"""By the name of a field: its least and its largest number, or of a text how many characters."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_EXTRAS: dict[str, tuple[tuple[torch.dtype, ...], str]] = {
    "optimizer.step": (_FLOATS, ""),
    "optimizer.exp_avg": (_FLOATS, "p"),
    "optimizer.exp_avg_sq": (_FLOATS, "p"),
    "context": (_FLOATS, "1 c t h w"),
    "history": (_FLOATS, "n c pair h w"),
    "first.latents": (_FLOATS, "1 c pair h w"),
    "first.action": ((torch.uint8,), "characters"),
    "first.chunk_idx": ((torch.int64,), ""),
    "first.loss": ((torch.float64,), ""),
    "undone_in_row": ((torch.int64,), ""),
}
"""Types, and the sizes: equal letters are equal sizes; `p` is the number of Θ's weights."""

_NUMBERS = {
    "optimizer.step": (0, 1e9),
    "first.chunk_idx": (0, LIMITS["num_chunks"][1]),
    "undone_in_row": (1, LIMITS["num_chunks"][1]),
}
_ADDRESSED = {
    "weights": "1 D v",
    "covariance": "1 D D",
    "ridge": "1",
    "shape": "3",
    "extra.pose": "3",
    "extra.context": "1 c t h w",
}
_LONGEST = {"n": 10_000, "characters": 100_000}


def read_fields(kind: type[T], given: object, where: str) -> T:
    """Make a dataclass of what a file says; `LIMITS` hold for its numbers and texts.

    Args:
        kind: the dataclass; its fields may be dataclasses too.
        given: what JSON held.
        where: the file and the name of the field that this is.

    Raises:
        ValueError: names the field, what was given and what is allowed.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(given, dict):
        raise ValueError(f"{where} is {_shown(given)}; allowed: an object with {', '.join(known)}")
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ValueError(f"{where}.{unknown[0]:.60} is not known; allowed: {', '.join(known)}")
    hints, values = get_type_hints(kind), {}
    for name, field in known.items():
        hint = hints[name]
        if name in given:
            values[name] = _value(hint, given[name], name, f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}.{name} is missing; allowed: {_allowed(hint, name)}")
    try:
        return kind(**values)
    except ValueError as error:  # of the dataclass's own checks
        raise ValueError(f"{where}: {error}") from error


def check_episode(name: str, where: str) -> None:
    """Refuse a name that leads elsewhere when it becomes part of a file's name.

    Raises:
        ValueError: it does.
    """
    if Path(name).name != name or name == ".." or "\0" in name:
        raise ValueError(
            f"{where} is {_shown(name)}; allowed: a name that a file may have, without /"
        )


def check_weights(weights: Mapping[str, Tensor], r: int, where: str) -> None:
    """Every A has its B; both are of rank r and of a linear layer's or a convolution's form.

    Raises:
        ValueError: names the first tensor that is not.
    """
    if not weights:
        raise ValueError(
            f"{where}: holds no weights; allowed: pairs NAME.lora_A.weight, lora_B.weight"
        )
    for name, tensor in weights.items():
        layer, _, letter = name.removesuffix(".weight").rpartition(".lora_")
        other = weights.get(f"{layer}.lora_{'B' if letter == 'A' else 'A'}.weight")
        if not layer or letter not in ("A", "B") or not name.endswith(".weight") or other is None:
            raise ValueError(
                f"{where}: tensor {_shown(name)} is no half of a pair; allowed: NAME.lora_A.weight with "
                "NAME.lora_B.weight"
            )
        rank = tensor.shape[letter == "B"] if tensor.ndim in (2, 5) else 0
        good = rank == r and tensor.ndim == other.ndim and tensor.dtype in _FLOATS
        flat = letter == "A" or set(tensor.shape[2:]) <= {1}
        if not (good and flat and tensor.numel()):
            raise ValueError(
                f"{where}: tensor {_shown(name)} is {_form(tensor)}; allowed for rank {r}: floats, A of "
                "r x inputs (x kernel), B of outputs x r (x 1 x 1 x 1)"
            )
    require_finite(weights, where)


def check_extras(extras: Mapping[str, Tensor], num_weights: int, where: str) -> None:
    """What going on needs has the forms that `Memory.extras` gives it.

    Args:
        extras: some or none of them.
        num_weights: of Θ, which the optimiser's state is as long as.
        where: the file.

    Raises:
        ValueError: names the first tensor that has not.
    """
    sizes = {"p": num_weights}
    for name, tensor in extras.items():
        if name not in _EXTRAS:
            raise ValueError(
                f"{where}: extra.{name:.60} is not known; allowed: {', '.join(_EXTRAS)}"
            )
        dtypes, form = _EXTRAS[name]
        if tensor.dtype not in dtypes or not _fits(tensor, form, sizes):
            given = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            types = "floats" if dtypes is _FLOATS else str(dtypes[0]).removeprefix("torch.")
            raise ValueError(
                f"{where}: extra.{name} is {_form(tensor)}; allowed: {types} [{form}] where {given}"
            )
        low, high = _NUMBERS.get(name, (0, 0))
        if name in _NUMBERS and not low <= tensor.item() <= high:
            raise ValueError(
                f"{where}: extra.{name} is {tensor.item()}; allowed: {low} to {high:.0f}"
            )
    for group in ("optimizer.", "first."):
        needed = {name for name in _EXTRAS if name.startswith(group)}
        missing = sorted(needed - extras.keys())
        if missing and len(missing) < len(needed):
            raise ValueError(
                f"{where}: extra.{missing[0]} is missing; allowed: all of "
                f"{', '.join(sorted(needed))}, or none"
            )
    require_finite({f"extra.{name}": tensor for name, tensor in extras.items()}, where)
    _check_values(extras, where)


def check_addressed(
    weights: Mapping[str, Tensor], extras: Mapping[str, Tensor], key_size: int, where: str
) -> None:
    """An addressed memory holds W, P and λ of one episode, its pose, and the newest frames or none.

    Raises:
        ValueError: names the first tensor that is missing, unknown or of another form.
    """
    given = {**weights, **{f"extra.{name}": tensor for name, tensor in extras.items()}}
    sizes = {"D": key_size}
    for name in sorted(given.keys() | _ADDRESSED.keys() - {"extra.context"}):
        form, tensor = _ADDRESSED.get(name), given.get(name)
        if (
            form is None
            or tensor is None
            or tensor.dtype not in _FLOATS
            or not _fits(tensor, form, sizes)
        ):
            found = "missing" if tensor is None else _form(tensor)
            raise ValueError(
                f"{where}: tensor {_shown(name)} is {found}; allowed in an addressed memory of key size "
                f"{key_size}: {', '.join(f'{n} [{f}]' for n, f in _ADDRESSED.items())}, all floats"
            )
    require_finite(given, where)
    shape, context = weights["shape"].tolist(), given.get("extra.context")
    if any(size < 1 or size % 1 for size in shape) or prod(shape) != weights["weights"].shape[2]:
        raise ValueError(
            f"{where}: tensor weights has rows of {weights['weights'].shape[2]} numbers, but tensor shape "
            f"is {shape}; allowed: channels, height and width of the latents, whose product that is"
        )
    if context is not None and [*context.shape[1:2], *context.shape[3:]] != shape:
        raise ValueError(
            f"{where}: tensor extra.context is {_form(context)}; allowed: frames of the latents that "
            f"tensor shape names, {shape}"
        )
    if not bool((weights["ridge"] > 0).all()):
        raise ValueError(f"{where}: tensor ridge is {weights['ridge'].tolist()}; allowed: above 0")


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: names the first tensor that holds any.
    """
    for name, tensor in tensors.items():
        if num := num_not_finite(tensor):
            raise ValueError(
                f"{where}: {_shown(name)} holds {num} of {tensor.numel()} numbers that are NaN or "
                "infinite; take an earlier memory (sfv memory rewind), or learn with a smaller "
                "learning_rate or with the guard"
            )


def _check_values(extras: Mapping[str, Tensor], where: str) -> None:
    squares = extras.get("optimizer.exp_avg_sq")
    if squares is not None and bool((squares < 0).any()):
        raise ValueError(
            f"{where}: extra.optimizer.exp_avg_sq holds negative numbers; allowed: 0 or more"
        )
    action = extras.get("first.action")
    try:
        bytes([] if action is None else action.tolist()).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: extra.first.action is no text ({error}); allowed: UTF-8"
        ) from error


def _fits(tensor: Tensor, form: str, sizes: dict[str, int]) -> bool:
    """Whether the sizes are those of the form; letters met for the first time are noted."""
    letters = form.split()
    if tensor.ndim != len(letters):
        return False
    return all(
        size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        and (size >= 1 or letter == "characters")
        and size <= _LONGEST.get(letter, size)
        for size, letter in zip(tensor.shape, letters, strict=True)
    )


def _value(hint: Any, value: Any, name: str, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return read_fields(hint, value, where)
    if not _is_a(hint, value, name):
        raise ValueError(f"{where} is {_shown(value)}; allowed: {_allowed(hint, name)}")
    return tuple(value) if get_origin(hint) is tuple else value


def _is_a(hint: Any, value: Any, name: str) -> bool:
    low, high = LIMITS.get(name, (-float("inf"), float("inf")))
    origin = get_origin(hint) or hint
    if origin is UnionType:
        return any(_is_a(part, value, name) for part in get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is tuple:  # JSON has lists alone
        parts = get_args(hint)
        return (
            isinstance(value, list | tuple)
            and len(value) == len(parts)
            and all(_is_a(part, each, name) for part, each in zip(parts, value, strict=True))
        )
    if origin is int:
        return type(value) is int and low <= value <= high
    if origin is float:  # an integer may be larger than any float
        number = type(value) is int or (type(value) is float and isfinite(value))
        return number and max(low, -1e300) <= value <= min(high, 1e300)
    if origin is str:
        return isinstance(value, str) and low <= len(value) <= high
    return type(value) is origin


def _allowed(hint: Any, name: str) -> str:
    """What `_is_a` takes, in words."""
    origin = get_origin(hint) or hint
    if origin is UnionType:
        return " or ".join(_allowed(part, name) for part in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(get_args(hint))
    if origin is tuple:
        return "a list of " + ", ".join(_allowed(part, name) for part in get_args(hint))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    words |= {dict: "an object", NoneType: "null"}
    low, high = LIMITS.get(name, (None, None))
    bounded = origin in (int, float, str) and low is not None
    of = " characters" if origin is str else ""
    return words[origin] + (f" of {low} to {high}{of}" if bounded else "")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _shown(value: object) -> str:
    """A value in an error: short, and printed without effect."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
