"""Two gloo processes with unequal shares give what one process gives with everything."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric

import sfv.metrics
from sfv.metrics.action_following import ActionAccuracy
from sfv.metrics.frame import LPIPS, PSNR, SSIM
from sfv.metrics.fvd import FVD, KVD
from sfv.metrics.motion import BorderJump, Motion
from sfv.metrics.scene_cuts import SceneCuts
from sfv.metrics.scene_revisit import RevisitLPIPS, RevisitPSNR, SceneRevisit
from sfv.metrics.transnet import SceneCutsTransNet
from sfv.metrics.video_mean import VideoMean
from tests.metrics.scenes import Corners, Drift, MeanColour, noisy, pan

FRAMES, HEIGHT, WIDTH = 8, 33, 37
STILL = 4
"""A video in which nothing moves: its border jump is undefined."""


def _real(key: int) -> Tensor:
    if key == STILL:
        return pan(key, 1, HEIGHT, WIDTH).expand(FRAMES, -1, -1, -1)
    first, second = pan(key, 5, HEIGHT, WIDTH), pan(key + 10, 3, HEIGHT, WIDTH)
    return torch.cat([first, second])


def _metrics() -> dict[Metric, Callable[[Metric, Tensor, Tensor, list[int]], None]]:
    """Every class, with how it is fed."""

    def pair(metric: Metric, real: Tensor, fake: Tensor, _: list[int]) -> None:
        metric.update(real, fake)

    def alone(metric: Metric, real: Tensor, fake: Tensor, _: list[int]) -> None:
        metric.update(real)

    def visits(metric: Metric, real: Tensor, fake: Tensor, share: list[int]) -> None:
        metric.update(fake, [[[0, 2 + k], [1, 3 + k]][: 1 + k % 2] for k in share])

    def chunks(metric: Metric, real: Tensor, fake: Tensor, share: list[int]) -> None:
        metric.update(real, [[("right", 0, 5), ("left", 5, 8)][: 1 + k % 2] for k in share])

    paired: list[Metric] = [PSNR(), SSIM(), LPIPS(), FVD(Corners(), 6), KVD(Corners(), 6)]
    single: list[Metric] = [
        Motion(),
        BorderJump(3),
        SceneCuts(fps=8, min_scene_len=2),
        SceneCutsTransNet(),
    ]
    returning: list[Metric] = [SceneRevisit(MeanColour()), RevisitPSNR(), RevisitLPIPS()]
    read: list[Metric] = [ActionAccuracy(Drift())]
    kinds = ((paired, pair), (single, alone), (returning, visits), (read, chunks))
    return {metric: feed for metrics, feed in kinds for metric in metrics}


def _values(shares: list[list[int]]) -> dict[str, float]:
    values = {}
    for metric, feed in _metrics().items():
        for share in shares:
            real = torch.stack([_real(key) for key in share])
            fake = torch.stack([noisy(v, 0.1, k) for k, v in zip(share, real, strict=True)])
            feed(metric, real, fake, share)
        values[type(metric).__name__] = metric.compute().item()
    return values


SHARES = ([[[0, 1, 2], [3]], [[4]]], [[[0, 1, 2, 3, 4]], []])
"""Uneven, and all with one process."""


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for i, shares in enumerate(SHARES):
        torch.save(_values(shares[rank]), f"{folder}/{i}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    expected = _values([[0, 1, 2, 3, 4]])
    assert all(map(math.isfinite, expected.values()))
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == 4
    for file in files:
        assert torch.load(file, weights_only=True) == pytest.approx(expected, rel=1e-6)


def test_every_class_is_tested() -> None:
    modules = [
        importlib.import_module(f"sfv.metrics.{m.name}")
        for m in pkgutil.iter_modules(sfv.metrics.__path__)
    ]
    found = {
        kind.__name__
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Metric) and kind.__module__.startswith("sfv.")
    }
    assert found - {VideoMean.__name__} == {type(metric).__name__ for metric in _metrics()}


def test_undefined_videos_are_left_out_and_counted() -> None:
    jumps = BorderJump(3)
    jumps.update(torch.stack([_real(0), _real(STILL)]))
    alone = BorderJump(3)
    alone.update(_real(0)[None])
    assert jumps.compute() == alone.compute() > 0
    assert (jumps.count, jumps.undefined, alone.undefined) == (1, 1, 0)
