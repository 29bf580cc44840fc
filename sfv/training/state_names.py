"""Names for what a checkpoint holds: flat ones for shards, and the two ways to point at a weight.

PyTorch's `Optimizer.state_dict` numbers weights in the optimiser's order; shards go by the weights' names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

OPTIMIZER, GROUPS = "optimizer", "optimizer_groups"


def flat_names(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`PART/NAME` for each name."""
    return {f"{part}/{name}": tensor for name, tensor in tensors.items()}


def split_names(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo `flat_names`: part to name to tensor."""
    parts: dict[str, dict[str, Tensor]] = {}
    for flat, tensor in tensors.items():
        part, _, name = flat.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def flat_optimizer(idx: int, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """`optimizer/IDX/SLOT/NAME` for what an optimiser has gathered for each weight."""
    return {
        f"{OPTIMIZER}/{idx}/{slot}/{name}": value
        for name, slots in state["state"].items()
        for slot, value in slots.items()
    }


def optimizer_state(
    parts: Mapping[str, Mapping[str, Tensor]], idx: int, groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Undo `flat_optimizer`: an optimiser's state by the names of weights."""
    state: dict[str, dict[str, Tensor]] = {}
    for flat, value in parts.get(OPTIMIZER, {}).items():
        number, slot, name = flat.split("/", 2)
        if int(number) == idx:
            state.setdefault(name, {})[slot] = value
    return {"state": state, "param_groups": groups}


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state by the numbers that PyTorch's own `state_dict` gives to weights."""
    order = _in_order(state["param_groups"])
    number = {name: i for i, name in enumerate(order)}
    groups = [{**g, "params": [number[n] for n in g["params"]]} for g in state["param_groups"]]
    return {"state": {number[n]: s for n, s in state["state"].items()}, "param_groups": groups}


def named(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Undo `numbered`, with the names of an optimiser's weights in its order."""
    groups = [{**g, "params": [names[i] for i in g["params"]]} for g in state["param_groups"]]
    return {"state": {names[i]: s for i, s in state["state"].items()}, "param_groups": groups}


def _in_order(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for group in groups for name in group["params"]]
