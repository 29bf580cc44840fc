"""One training step on tensors that have shapes but no memory: live bytes and floating-point operations.

The step is Lightning's own, with the real learner, optimiser and precision, under `FakeTensorMode`; so
nothing that the step keeps can be forgotten, and a model of any size is traced in seconds to a minute.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from sfv.training.sharding import blocks_of

_aten = torch.ops.aten


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that live, their peak, and operations, of what runs inside.

    It works on fake and on real tensors. Scratch memory inside a kernel is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self.gradients = self.gradients_at_peak = 0
        self._known: set[int] = set()
        self._gradients: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; a storage counts once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._free, key, size)
        if self.live > self.peak:
            self.peak, self.gradients_at_peak = self.live, self.gradients

    def restart(self) -> None:
        """Begin a new peak here."""
        self.peak, self.gradients_at_peak = self.live, self.gradients

    def watch_gradients(self, module: nn.Module) -> None:
        """Count as `gradients` what the backward pass leaves on a module's parameters."""
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._has_gradient)  # type: ignore[no-untyped-call]

    def _has_gradient(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        storage = gradient.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._gradients:
            return
        self._gradients.add(key)
        self.gradients += size
        weakref.finalize(storage, self._lose_gradient, key, size)

    def _lose_gradient(self, key: int, size: int) -> None:
        self._gradients.discard(key)
        self.gradients -= size

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        self.flops += _flops(func, args, kwargs or {}, output)
        return output


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    """Operations of matrix products, convolutions and attention, as PyTorch's counter counts them."""
    packet = func._overloadpacket
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        shapes = [tensor.shape for tensor in args[:3]]
        return int(sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        shapes = [tensor.shape for tensor in args[:4]]
        return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]
    count = flop_registry.get(packet)
    return 0 if count is None else int(count(*args, **kwargs, out_val=output))


class AnyValue(TorchFunctionMode):
    """Answers what code asks of a tensor that has no values: 1 and true. Memory does not depend on it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.item, Tensor.__float__):
            return 1.0
        if func is Tensor.__bool__:
            return True
        if func is Tensor.tolist:
            return _ones(args[0].shape)
        if func is Tensor.__deepcopy__:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _ones(shape: torch.Size) -> Any:
    return 1.0 if not shape else [_ones(shape[1:]) for _ in range(shape[0])]


@contextmanager
def fake() -> Iterator[None]:
    """Inside, tensors have no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True), AnyValue():
        yield


@dataclass(frozen=True)
class Peak:
    """The largest moment of a phase: all live bytes, and those of gradients among them."""

    total: int
    gradients: int


@dataclass(frozen=True)
class SlowTrace:
    """One slow micro-batch, in bytes.

    Args:
        parameters: Φ and everything else that the learner holds.
        trained: of those, what is trained.
        optimizer: the optimiser's state.
        other: kept between steps besides: an average of the weights.
        backward: peak of the forward and backward pass.
        update: peak of the optimiser's update.
        block: of the largest block of the denoiser, which shards gather as one.
        flops: of forward and backward pass of one micro-batch.
    """

    parameters: int
    trained: int
    optimizer: int
    other: int
    backward: Peak
    update: Peak
    block: int
    flops: int


class StepMeter(pl.Callback):
    """Reads the meter in the last micro-batch of a short training.

    Args:
        meter: is running.
        last: index of that batch.
    """

    def __init__(self, meter: Meter, last: int) -> None:
        self.meter, self.last = meter, last
        self.backward = self.update = Peak(0, 0)
        self.optimizer = self.live = self.gradients = self.flops = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.meter.restart()
        self.flops = self.meter.flops

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        self.backward = Peak(self.meter.peak, self.meter.gradients_at_peak)
        self.meter.restart()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx < self.last:
            return
        self.update = Peak(self.meter.peak, self.meter.gradients_at_peak)
        self.flops = self.meter.flops - self.flops
        self.live, self.gradients = self.meter.live, self.meter.gradients
        states = [o.state.values() for o in trainer.optimizers]
        self.optimizer = sum(
            bytes_of(t) for s in states for v in s for t in v.values() if isinstance(t, Tensor)
        )


class Batches:
    """A loader of equal batches."""

    def __init__(self, make: Callable[[], dict[str, Any]], num: int) -> None:
        self.make, self.num = make, num

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.make() for _ in range(self.num))

    def __len__(self) -> int:
        return self.num


def trace_slow(
    learner: pl.LightningModule,
    make_batch: Callable[[], dict[str, Any]],
    precision: Any,
    accumulate: int,
    callbacks: list[pl.Callback],
    clip: float | int | None,
) -> SlowTrace:
    """Train two slow steps and measure the second, in which the optimiser has its state.

    Args:
        learner: its weights are changed, unless they are fake.
        make_batch: makes a micro-batch.
        precision: Lightning's.
        accumulate: micro-batches a slow step.
        callbacks: averaging of weights, say.
        clip: largest norm of the gradient; None clips nothing.
    """
    micro = min(accumulate, 2)  # gradients stay over the first; more change no peak
    meter = Meter()
    for tensor in (*learner.parameters(), *learner.buffers()):
        meter.add(tensor.data)
    parameters = meter.live
    meter.watch_gradients(learner)
    step = StepMeter(meter, 2 * micro - 1)
    _stay_put(learner)
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        precision=precision,
        accumulate_grad_batches=micro,
        gradient_clip_val=clip,
        callbacks=[*callbacks, step],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    with meter:
        trainer.fit(learner, Batches(make_batch, 2 * micro))
    trained = sum(bytes_of(p) for p in learner.parameters() if p.requires_grad)
    other = step.live - parameters - step.gradients - step.optimizer
    block = largest_block(learner)
    return SlowTrace(
        parameters, trained, step.optimizer, other, step.backward, step.update, block, step.flops
    )


def _stay_put(module: nn.Module) -> None:
    """Lightning moves the module when it starts and ends, but fake weights lie nowhere."""
    stay = MethodType(lambda module, *place: module, module)  # bound, so that a copy returns itself
    module.to = module.cpu = stay  # type: ignore[method-assign]


def largest_block(module: nn.Module) -> int:
    """Bytes of the largest block that shards gather as one; all of them where there are no blocks."""
    sizes = [sum(bytes_of(p) for p in block.parameters()) for block in blocks_of(module)]
    return max(sizes, default=sum(bytes_of(p) for p in module.parameters()))


def bytes_of(tensor: Tensor) -> int:
    """Of a tensor's elements."""
    return tensor.numel() * tensor.element_size()
