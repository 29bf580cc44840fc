"""What a refactoring must leave as it is: two short trainings, a rollout and its memory, in numbers.

`python -m tests.golden FOLDER` runs them and prints what `tests/golden.json` holds; replace the file only
with a change that means to change numbers, and say so in the commit.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from safetensors.torch import load_file

from sfv.cli import main
from sfv.report.video import encode_mp4
from tests.training.make import ACTIONS, make_data

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs" / "doom"
KNOWN = Path(__file__).with_suffix(".json")
STEPS = 20


def machine() -> dict[str, str]:
    """Equal machines compute equal bytes; others agree up to rounding."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    kept = ("vendor_id", "cpu family", "model", "stepping", "flags")
    cpu = dict.fromkeys(line for line in lines if line.startswith(kept))
    return {
        "torch": torch.__version__,
        "cpu": hashlib.sha256("\n".join(cpu).encode()).hexdigest()[:16],
        "threads": str(torch.get_num_threads()),
    }


def run(folder: Path) -> dict[str, Any]:
    """Train slowly, train in the loop, roll out; the numbers of each."""
    data = make_data(folder / "data", 16, 8, (2, 4), 8)
    shared = [
        f"--model.codec.init_args.file={data.codec}",
        f"--data.train={data.train}",
        f"--data.val={data.val}",
        f"--trainer.max_steps={STEPS}",
        "--trainer.precision=32-true",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false",
    ]
    slow, loop = folder / "slow", folder / "loop"
    _sfv("fit", f"--config={CONFIGS / 'tiny.yaml'}", f"--out={slow}", *shared)
    more = [f"--model.init_from={slow / 'model'}", "--slow_fast.precision=32"]
    _sfv("fit", f"--config={CONFIGS / 'tiny_slow_fast.yaml'}", f"--out={loop}", *shared, *more)
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 32, 3), dtype=np.uint8)
    (folder / "start.mp4").write_bytes(encode_mp4(frames, 8.0))
    (folder / "actions.txt").write_text("\n".join(ACTIONS[:3]))
    _sfv(
        "rollout",
        f"--model={loop}",
        f"--out={folder / 'rollout'}",
        f"--start={folder / 'start.mp4'}",
        f"--actions={folder / 'actions.txt'}",
        "--generation.sampler.num_inference_steps=3",
        "--generation.fast.learning_rate=0.001",
    )
    tensors = {
        "slow": _weights(slow / "model"),
        "loop": _weights(loop / "model"),
        "memory": load_file(folder / "rollout" / "start.memory.safetensors"),
        "none": {"video": _video(folder / "rollout" / "start-none.mp4")},
        "fast": {"video": _video(folder / "rollout" / "start-fast.mp4")},
    }
    return {name: _summary(found) for name, found in tensors.items()}


def _sfv(*arguments: str) -> None:
    assert main(arguments) == 0, arguments


def _weights(model: Path) -> dict[str, torch.Tensor]:
    (found,) = (model / "unet").glob("*.safetensors")
    return load_file(found) | load_file(model / "text.safetensors")


def _video(path: Path) -> torch.Tensor:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).double()


def _summary(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A hash of all bytes, and sums that tell how far a number moved."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    every = torch.cat([tensor.double().flatten() for _, tensor in sorted(tensors.items())])
    return {
        "sha256": digest.hexdigest(),
        "count": every.numel(),
        "mean": float(every.mean()),
        "norm": float(every.norm()),
    }


if __name__ == "__main__":
    made = run(Path(sys.argv[1]))
    print(json.dumps({"machine": machine(), "numbers": made}, indent=1))
