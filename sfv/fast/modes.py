"""States in which a network computes for a while: Φ frozen, half precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sfv.types import Precision


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze Φ and switch dropout off inside; gradients accumulated so far stay as they are."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    was_training = module.training
    module.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        module.train(was_training)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bfloat16 for `"bf16"`; full precision for `"32"`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
