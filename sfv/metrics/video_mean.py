"""The one state that most metrics need: a mean over videos that adds up over processes."""

import torch
from jaxtyping import Shaped
from torch import Tensor
from torchmetrics import Metric


class VideoMean(Metric):
    """Mean over videos of one number each; subclasses call `_add` in `update`.

    Videos whose number is undefined (NaN) are left out of the mean and counted in `undefined`.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("count", zero.clone(), dist_reduce_fx="sum")
        self.add_state("undefined", zero.clone(), dist_reduce_fx="sum")

    def _add(self, values: Shaped[Tensor, "b ..."]) -> None:
        """Count each video once, with the mean of its values."""
        means = values.double().flatten(1).mean(1)
        known = ~means.isnan()
        self.total += means[known].sum().to(self.total.device)
        self.count += int(known.sum())
        self.undefined += int((~known).sum())

    def compute(self) -> Tensor:
        """Mean over all videos of all processes, float64; NaN where it is defined for none."""
        return self.total / self.count
