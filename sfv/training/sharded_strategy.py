"""FSDP2 as a Lightning strategy: a shard of Φ, its gradients and its optimiser state on each process."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from sfv.files import replacing
from sfv.training.attempts import FencedCheckpointIO
from sfv.training.checkpoints import (
    META,
    FileOrFolder,
    check_numbers,
    check_sums,
    make_room,
    put_in_place,
    read_meta,
    read_shards,
    stored_sizes,
    write_shards,
)
from sfv.training.ema import AVERAGE
from sfv.training.sharding import whole_tensor
from sfv.training.state_names import (
    GROUPS,
    flat_names,
    flat_optimizer,
    named,
    numbered,
    optimizer_state,
    split_names,
)

_WEIGHTS = "state_dict"


class ShardedStrategy(ModelParallelStrategy):
    """Shards the model over all processes; `SlowLearner.configure_model` says by which blocks.

    Lightning's `ModelParallelStrategy`, with checkpoints that are complete at any moment, that any number
    of processes and other strategies can read, and that run no code when they are read.

    Args:
        save_distributed_checkpoint: True: a checkpoint is a folder, into which every process writes its
            shards. False: process 0 gathers everything and writes one file.
        process_group_backend: `nccl` or `gloo`; None takes the device's.
    """

    def __init__(
        self, save_distributed_checkpoint: bool = True, process_group_backend: str | None = None
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        """Give every process of every node a part of the data and of the weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        # Blocks of diffusers return views; nothing here writes into them, which is what it warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimiser's state: shards by name, or for a file all of it as PyTorch numbers it."""
        in_file = not self._save_distributed_checkpoint
        options = StateDictOptions(full_state_dict=in_file, cpu_offload=True)
        plain = getattr(optimizer, "optimizer", optimizer)
        state = get_optimizer_state_dict(self._network, plain, options=options)
        return numbered(state) if in_file and state else state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a file or a folder; what was there before stays until the new one is complete."""
        path = Path(self.broadcast(str(filepath)))
        if not self._save_distributed_checkpoint:
            if AVERAGE in checkpoint:
                checkpoint[AVERAGE] = {
                    name: whole_tensor(tensor, self.is_global_zero)
                    for name, tensor in checkpoint[AVERAGE].items()
                }
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path)
            return
        io = self.checkpoint_io
        attempt = None
        if isinstance(io, FencedCheckpointIO):
            self._together(io.check)
            attempt = io.attempt
        states = checkpoint.pop("optimizer_states", [])
        tensors = flat_names(_WEIGHTS, checkpoint.pop(_WEIGHTS))
        tensors |= flat_names(AVERAGE, checkpoint.pop(AVERAGE, {}))
        for idx, state in enumerate(states):
            tensors |= flat_optimizer(idx, state)
        what = f"checkpoint {path} of slow step {checkpoint.get('global_step')} is not written"
        self._together(lambda: check_numbers(tensors, what))
        checkpoint[GROUPS] = [state["param_groups"] for state in states]
        number = 0 if attempt is None else attempt.number
        part = Path(self.broadcast(str(make_room(path, number)) if self.is_global_zero else ""))
        write_shards(part, tensors)
        self.barrier()
        if self.is_global_zero:
            with replacing(part / META) as temporary:
                torch.save(checkpoint, temporary)
            if attempt is not None:
                attempt.check()  # writing may have taken minutes
            put_in_place(part, path)
        self.barrier()

    def _together(self, check: Callable[[], None]) -> None:
        """Make a check on every process; where one finds a fault, all stop instead of waiting for it.

        Raises:
            ValueError: what was found here, or that another process has found something.
        """
        fault = None
        try:
            check()
        except ValueError as error:
            fault = error
        if self.reduce_boolean_decision(fault is not None, all=False):
            raise fault or ValueError("another process found a fault in a checkpoint, and names it")

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Put weights and optimiser states in place, and return the rest.

        Raises:
            ValueError: the checkpoint is of another model, or damaged.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        return self._load_folder(path) if path.is_dir() else self._load_file(path)

    def _load_folder(self, folder: Path) -> dict[str, Any]:
        self._together(lambda: check_sums(folder, self.global_rank, self.world_size))
        checkpoint, stored = read_meta(folder), stored_sizes(folder)
        weights = dict(self._network.state_dict())
        tensors = flat_names(_WEIGHTS, weights)
        average = {
            name: torch.empty_like(tensor)
            for name, tensor in weights.items()
            if f"{AVERAGE}/{name}" in stored
        }
        tensors |= flat_names(AVERAGE, average)
        for idx, optimizer in enumerate(self.optimizers):
            tensors |= flat_optimizer(idx, get_optimizer_state_dict(self._network, optimizer))
        read_shards(folder, tensors)
        self._together(lambda: check_numbers(tensors, f"checkpoint {folder} cannot be used"))
        groups, parts = checkpoint.pop(GROUPS), split_names(tensors)
        for idx, optimizer in enumerate(self.optimizers):
            state = optimizer_state(parts, idx, groups[idx])
            set_optimizer_state_dict(self._network, optimizer, state)
        if average:
            checkpoint[AVERAGE] = average
        return {**checkpoint, _WEIGHTS: {}}

    def _load_file(self, path: Path) -> dict[str, Any]:
        checkpoint: dict[str, Any] = FileOrFolder().load_checkpoint(path, "cpu", True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._network, checkpoint.pop(_WEIGHTS), options=options)
        names = {id(parameter): name for name, parameter in self._network.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
            set_optimizer_state_dict(self._network, optimizer, named(state, order), options=options)
        return {**checkpoint, _WEIGHTS: {}}

    @property
    def _network(self) -> nn.Module:
        assert self.model is not None
        return self.model
