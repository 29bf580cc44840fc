"""That a rollout of 1000 frames costs every chunk the same: seconds and memory along its length.

python -m benchmarks.long_rollout [--quick] --json FILE

Fast learning by the paper's rule, the demo's chunks of 8 frames, tiny preset, bfloat16 with Θ in float32.
The ratio is the median second of the last fifth of the chunks over that of the first fifth.
"""

import gc
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cpu_unet import SCHEDULE, pair
from benchmarks.fast_learning import ACTION, DEMO, RANK, SEED, starts, world_of
from benchmarks.side_by_side import arguments, machine
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.memory import Memory
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.files import write_json
from sfv.generation.rollout import Request, Rollout

CHUNKS, QUICK_CHUNKS = 125, 10


def resident_megabytes() -> float:
    """Memory of this process right now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Roll out, keep nothing but numbers, write them."""
    options = arguments(__doc__, argv)
    num = QUICK_CHUNKS if options.quick else CHUNKS
    unet = pair()[0]
    world = world_of(unet, DEMO.chunk_frames)
    seconds, megabytes, drift = [], [], []
    with TemporalLoRA(unet, RANK, float(RANK)) as lora:
        settings = FastSettings()
        learner = FastLearner(
            unet, lora, SCHEDULE, world.text, world.num_context, settings, SEED, "bf16"
        )
        rollout = Rollout(world, DEMO.sampler, learner, SEED, "bf16")
        for chunk in rollout.stream(Request("long", starts(DEMO, 1)[0], [ACTION] * num)):
            gc.collect()
            seconds.append(chunk.seconds)
            megabytes.append(resident_megabytes())
            assert chunk.learned is not None and isinstance(chunk.memory, Memory)
            assert chunk.memory.theta.dtype == torch.float32
            drift.append(chunk.learned.drift)
    fifth = max(1, num // 5)
    ratio = statistics.median(seconds[-fifth:]) / statistics.median(seconds[1 : fifth + 1])
    growth = megabytes[-1] - megabytes[fifth]
    context = {
        **machine(),
        "frames": num * DEMO.chunk_frames,
        "seconds": [round(value, 4) for value in seconds],
        "megabytes": [round(value, 1) for value in megabytes],
        "megabytes_grown_after_first_fifth": round(growth, 1),
        "drift": [round(value, 4) for value in drift],
    }
    write_json(options.json, {"ratios": {"seconds, last fifth : first": ratio}, "context": context})
    print(
        f"{num * DEMO.chunk_frames} frames: {statistics.median(seconds):.3f} s a chunk, last fifth : first "
        f"{ratio:.2f}; memory grew by {growth:.1f} MB after the first fifth"
    )


if __name__ == "__main__":
    main()
