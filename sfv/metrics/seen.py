"""A memory of computed features, so that true videos cost once however many rows use them."""

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor


class Seen:
    """Remembers results under the hash of the exact input (its type, shape and bytes)."""

    def __init__(self) -> None:
        self._known: dict[bytes, Tensor] = {}

    def __call__(
        self, data: Shaped[Tensor, "..."], compute: Callable[[Tensor], Tensor]
    ) -> Shaped[Tensor, "..."]:
        """Return `compute(data)`, from memory where equal data was seen before."""
        plain = data.detach().cpu().contiguous()
        digest = hashlib.blake2b(repr((plain.dtype, plain.shape)).encode(), digest_size=16)
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
        key = digest.digest()
        if key not in self._known:
            self._known[key] = compute(plain)
        return self._known[key]
