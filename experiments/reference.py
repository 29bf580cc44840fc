"""Train the reference checkpoint: collect walks, encode them, learn to read actions, learn slowly.

    python -m experiments.reference

Everything lands in runs/reference, the world model in runs/reference/slow_fast/model. A call that was cut
off goes on where it was; a step that is done takes seconds.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OUT = Path("runs/reference")
CONFIGS = Path("experiments/configs/reference")
WALKS = {"train": 2000, "val": 40}


def commands() -> list[list[str]]:
    """Arguments of Python for every step, in order; each goes on with what it began."""
    episodes = {split: str(OUT / "episodes" / split) for split in WALKS}
    collect = [
        [
            "data_tools.collect.doom",
            f"--out={episodes[split]}",
            f"--split={split}",
            f"--episodes={num}",
            "--resume",
        ]
        for split, num in WALKS.items()
    ]
    shards, latents = f"--out={OUT / 'shards'}", f"--out={OUT / 'latents'}"
    pack = ["data_tools.write_shards", *episodes.values(), shards, "--resume"]
    encode = ["data_tools.encode_latents", f"--shards={OUT / 'shards'}", latents, "--resume"]
    slow = ("slow", "slow_noisy", "slow_contextless", "slow_fast")
    fit = [["sfv.cli", "fit", f"--config={CONFIGS / f'{name}.yaml'}"] for name in slow]
    inverse = ["sfv.cli", "fit", "inverse_dynamics", f"--config={CONFIGS / 'inverse.yaml'}"]
    return [["-m", *step] for step in (*collect, pack, encode, inverse, *fit)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; the exit code of the first that fails."""
    p = argparse.ArgumentParser(prog="experiments.reference", description=__doc__.splitlines()[0])
    p.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    dry_run = p.parse_args(argv).dry_run
    for step in commands():
        print(f"$ python {' '.join(step)}", flush=True)
        if dry_run:
            continue
        code = subprocess.run([sys.executable, *step], check=False).returncode
        if code:
            print("stopped; the same command again goes on from here", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
