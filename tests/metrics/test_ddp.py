"""Two gloo processes with unequal shares give what one process gives with everything."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sfv.metrics.frame import PSNR
from sfv.metrics.fvd import FVD
from sfv.metrics.motion import Motion
from tests.metrics.scenes import noisy, pan
from tests.metrics.test_fvd import Corners


def _metrics(shares: list[list[int]]) -> list[float]:
    psnr, motion, fvd = PSNR(), Motion(), FVD(Corners(), num_features=6)
    for share in shares:
        real = torch.stack([pan(i, 4, 20, 24) for i in share])
        fake = torch.stack([noisy(v, 0.1, i) for i, v in zip(share, real, strict=True)])
        psnr.update(real, fake)
        motion.update(fake)
        fvd.update(real, fake)
    return [metric.compute().item() for metric in (psnr, motion, fvd)]


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    shares = [[[0, 1, 2], [3]], [[4]]][rank]
    torch.save(torch.tensor(_metrics(shares), dtype=torch.float64), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    expected = _metrics([[0, 1, 2, 3, 4]])
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert values.tolist() == pytest.approx(expected, rel=1e-9)
