"""Two ways to do the same work, timed in turns, so that a busy machine slows both alike."""

import argparse
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sfv.files import write_json

Work = Callable[[], object]


def arguments(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse what every benchmark takes: `--quick` and `--json FILE`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few repeats: shows that it runs")
    parser.add_argument(
        "--json", type=Path, required=True, metavar="FILE", help="written at the end"
    )
    return parser.parse_args(argv)


def in_turns(ours: Work, theirs: Work, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each repeat of both, after one that is not counted; who goes first alternates."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-1, repeats):
        for which in (0, 1) if repeat % 2 else (1, 0):
            start = perf_counter()
            (ours, theirs)[which]()
            elapsed = perf_counter() - start
            if repeat >= 0:
                seconds[which].append(elapsed)
    return seconds


def compare(ours: Work, theirs: Work, repeats: int) -> dict[str, float]:
    """How many times faster ours is: by medians, and the quartiles over the repeats."""
    mine, other = in_turns(ours, theirs, repeats)
    low, _, high = statistics.quantiles([b / a for a, b in zip(mine, other, strict=True)])
    return {
        "ratio": statistics.median(other) / statistics.median(mine),
        "low": low,
        "high": high,
        "ours_seconds": statistics.median(mine),
        "theirs_seconds": statistics.median(other),
    }


def flops(work: Work) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    found: int = counter.get_total_flops()
    return found


def machine() -> dict[str, Any]:
    """What a ratio depends on besides the code."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mkldnn_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    }


def write_table(path: Path, rows: dict[str, dict[str, float]], context: dict[str, Any]) -> None:
    """Write `{"ratios": {name: value}, "context": {...}}` and print the rows."""
    ratios = {name: row["ratio"] for name, row in rows.items()}
    write_json(path, {"ratios": ratios, "context": {**context, "rows": rows}})
    print(f"{'':<28}{'ours':>9}{'theirs':>9}{'ratio':>7}  (quartiles)")
    for name, row in rows.items():
        print(
            f"{name:<28}{row['ours_seconds']:>8.3f}s{row['theirs_seconds']:>8.3f}s"
            f"{row['ratio']:>7.2f}  ({row['low']:.2f} to {row['high']:.2f})"
        )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
