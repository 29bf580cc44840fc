"""How far parallel training is from one process: the table in docs/parallel.md.

python -m tests.training.parallel_table
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from sfv.models.world_model import WorldModel
from sfv.training.checkpoints import newest_checkpoint
from tests.training.make import make_data, weights_of
from tests.training.rank_jobs import Run, same_batches, slow, slow_fast
from tests.training.ranks import on_ranks
from tests.training.test_parallel import joined, one_process


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of two weights."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def row(
    what: str, losses: list[tuple[float, float]], phi: float, theta: float | None = None
) -> None:
    loss = max(abs(ours - theirs) / abs(theirs) for ours, theirs in losses) if losses else None
    columns = ["–" if value is None else f"{value:.0e}" for value in (loss, phi, theta)]
    print(f"| {what} | {' | '.join(columns)} |", flush=True)


def pairs(a: list[float], b: list[float]) -> list[tuple[float, float]]:
    return list(zip(a, b, strict=True))


def slow_rows(data: Any, root: Path) -> None:
    found = {k: on_ranks(2, slow, root / k, Run(data, k, 2, 2, root)) for k in ("ddp", "folder")}
    losses, weights = joined(data, found["ddp"])
    for kind, name in (("ddp", "DDP"), ("folder", "shards")):
        mean = [sum(p) / 2 for p in zip(*(rank["losses"] for rank in found[kind]), strict=True)]
        distance = apart(found[kind][0]["weights"], weights)
        row(f"{name}, 2 processes, joined batch", pairs(mean, losses), distance)


def fast_rows(data: Any, root: Path) -> None:
    learner, _, thetas = one_process(data)
    for kind, name in (("ddp", "DDP"), ("folder", "shards")):
        folder = root / f"fast-{kind}"
        ranks = on_ranks(2, slow_fast, folder, Run(data, kind, 2, 2, folder))
        theta = max(float((r["theta"] - t).abs().max()) for r, t in zip(ranks, thetas, strict=True))
        distance = apart(ranks[0]["weights"], weights_of(learner))
        row(f"{name}, 2 processes, fast phases", [], distance, theta)


def resume_rows(data: Any, root: Path) -> None:
    straight = same_batches(Run(data, "one", 1, 3, root / "straight", ema=True))
    for kind in ("folder", "file"):
        run = Run(data, kind, 2, 2, root / f"run-{kind}", ema=True)
        on_ranks(2, same_batches, root / f"saved-{kind}", run)
        for world in (1, 4):
            out = root / f"{kind}-{world}"
            again = Run(data, kind, world, 3, out, newest_checkpoint(run.folder), ema=True)
            rest = on_ranks(world, same_batches, out / "r", again)[0]
            saved = WorldModel.load(out / "model").denoiser.state_dict()
            saved = {f"denoiser.{name}": weight for name, weight in saved.items()}
            losses = pairs(rest["losses"], straight["losses"][2:])
            row(f"2 processes → {kind} → {world}, EMA", losses, apart(saved, straight["weights"]))


def main() -> None:
    print(
        "| against one process | losses, relative | Φ, absolute | Θ, absolute |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = make_data(root / "data", 5, 2, (4, 6), 4)
        slow_rows(data, root)
        fast_rows(data, root)
        resume_rows(data, root)


if __name__ == "__main__":
    main()
