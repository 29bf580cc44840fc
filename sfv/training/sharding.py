"""Φ in shards over processes (FSDP2), and the two ways to have it whole for a while.

Only weights that are trained are sharded: the denoiser block by block and a learned text encoder. The frame
codec and a frozen text encoder stay whole on every process. Names and classes of modules stay readable: no
module is wrapped in another.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sfv.backbones.base import Backbone


def blocks_of(part: nn.Module) -> Sequence[nn.Module]:
    """The large blocks of a backbone; none in other networks."""
    return part.blocks() if isinstance(part, Backbone) else []


def shard(parts: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Spread the weights of each part over the processes of a mesh; a part that is not trained stays whole.

    A forward pass gathers one block at a time, and so does the backward pass, which leaves on each process
    the mean gradient of its shard.

    Args:
        parts: modules that are called by themselves (denoiser, text encoder); each holds equal weights on
            every process. They are changed in place, with their names.
        mesh: of one dimension.
    """
    for part in parts:
        if not any(parameter.requires_grad for parameter in part.parameters()):
            continue
        for module in (*blocks_of(part), part):
            # The root too: weights that stay whole after validation would be stale in the next slow step.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """The modules inside, and `module` itself, that gather weights of their own."""
    return [child for child in module.modules() if isinstance(child, FSDPModule)]


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Have Φ whole inside, so that no forward or backward pass needs another process.

    The fast phase runs inside: processes may then take different numbers of fast steps, or none, without
    waiting for each other. Nothing happens where no weight is sharded. Slow steps do not belong inside:
    their gradients would not be shared.

    Every process of the mesh must enter; entering and leaving gather and drop weights together.
    """
    modules = sharded_modules(module)
    for child in modules:
        child.set_reshard_after_forward(False, recurse=False)
        child.set_reshard_after_backward(False, recurse=False)
        child.unshard()
    try:
        yield
    finally:
        for child in modules:
            child.set_reshard_after_forward(True, recurse=False)
            child.set_reshard_after_backward(True, recurse=False)
            child.reshard()


@contextmanager
def whole(module: nn.Module, keep: bool) -> Iterator[None]:
    """Have plain tensors on the CPU inside, as if nothing had been sharded: for saving and hashing.

    Weights come one after the other, so that a device never holds more than one of them whole. Every
    process of the mesh must enter. Nothing happens where no weight is sharded.

    Args:
        module: what to make whole.
        keep: whether this process wants the weights; the others only take part.
    """
    places = [
        (child, name, parameter)
        for child in module.modules()
        for name, parameter in child.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    classes: list[tuple[Any, Any]] = [(child, type(child)) for child in sharded_modules(module)]
    plain = {id(shards): whole_tensor(shards, keep) for _, _, shards in places}
    try:
        if keep:
            for child, name, shards in places:
                taken = plain[id(shards)]
                assert taken is not None
                child.register_parameter(name, nn.Parameter(taken, shards.requires_grad))
            for part, changed in classes:
                part.__class__ = _class_before(changed)
        yield
    finally:
        for part, changed in classes:
            part.__class__ = changed
        for child, name, shards in places:
            child.register_parameter(name, shards)


def whole_tensor(tensor: Tensor, keep: bool = True) -> Tensor | None:
    """The tensor on the CPU, gathered if it is sharded; None where it is not kept."""
    full = tensor.detach()
    if isinstance(full, DTensor):
        full = full.full_tensor()
    return full.cpu() if keep else None


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(full: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that belongs here, sharded and placed as `like`."""
    full = full.to(like.device, copy=True)
    if not isinstance(like, DTensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    # Every process has the whole tensor: each cuts its own part, and none is sent.
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def _class_before(changed: Any) -> Any:
    """The class that `fully_shard` derived from: it stands behind `FSDPModule`."""
    return changed.__mro__[2]


def reshard(module: nn.Module) -> None:
    """Drop gathered weights, after the shards have been written to."""
    for child in sharded_modules(module):
        child.reshard()


def named_trained(module: nn.Module) -> dict[str, torch.nn.Parameter]:
    """Weights that training changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
