"""What the true walks score by themselves: measured once, however many rows are compared with them."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from torch import Tensor

from sfv.evaluation.benchmark.spec import Benchmark
from sfv.evaluation.benchmark.walks import Walk
from sfv.metrics.protocol import MetricValue
from sfv.metrics.scene_revisit import exchanged, revisit_lpips, revisit_psnr
from sfv.metrics.suite import score_true
from sfv.rng import stream


class Truth:
    """The walks, with ceilings and floors.

    Args:
        benchmark: that they belong to.
        walks: the truth.
        seed: of exchanged visits.
    """

    def __init__(self, benchmark: Benchmark, walks: Sequence[Walk], seed: int = 0) -> None:
        self.benchmark, self.walks, self.seed = benchmark, walks, seed

    @property
    def revisits(self) -> list[list[tuple[int, int]]]:
        """Of each walk, places on the way out and on the way back."""
        return [walk.revisits for walk in self.walks]

    @cached_property
    def ceilings(self) -> dict[str, MetricValue]:
        """What the true videos score as long videos."""
        return score_true(
            [walk.video for walk in self.walks],
            self.revisits,
            chunk_frames=self.benchmark.chunk_frames,
            fps=self.benchmark.fps,
            seed=self.seed,
        )

    @cached_property
    def floors(self) -> dict[str, list[float]]:
        """Of each walk, what a video scores that shows another true place of it on the way back.

        A walk of one place alone (a robot's table) has no other: there it is the same place without
        its thing, where the episode knows one.
        """
        measures: dict[str, Callable[..., Tensor]] = {
            "return_psnr": revisit_psnr,
            "return_lpips": revisit_lpips,
        }
        pairs = [self._elsewhere(i, walk) for i, walk in enumerate(self.walks)]
        return {
            name: [
                float(measure(walk.video, shown).double().mean()) if shown else math.nan
                for walk, shown in zip(self.walks, pairs, strict=True)
            ]
            for name, measure in measures.items()
        }

    def _elsewhere(self, number: int, walk: Walk) -> list[tuple[int, int]]:
        pairs = exchanged(walk.revisits, stream(self.seed, "src-floor", number))
        back = {later for _, later in walk.revisits}
        without = [(other, frame) for thing in walk.meta.objects for frame, other in thing.without]
        return pairs or [(a, b) for a, b in without if b in back and a < b]
