"""Train the reference checkpoint: collect walks, encode them, learn to read actions, run the loop.

    python -m experiments.reference

Everything lands in runs/reference, the world model in runs/reference/loop/model. A call that was cut off
resumes where it was; a step that is done takes seconds. About two hours on one CPU core.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OUT = Path("runs/reference")
CONFIGS = Path("experiments/configs/reference")
WALKS = {"train": ("mixed", 1600), "val": ("return", 24)}
"""Split → kind of walk, and how many, each in a maze of its own."""


def commands() -> list[list[str]]:
    """Arguments of Python for every step, in order; each goes on with what it began."""
    episodes = {split: str(OUT / "episodes" / split) for split in WALKS}
    collect = [
        [
            "data_tools.collect.doom_mazes",
            f"--out={episodes[split]}",
            f"--split={split}",
            "--look=plain",
            f"--walk={walk}",
            "--chunks=17",
            f"--episodes={num}",
            f"--mazes={num}",
            "--resume",
        ]
        for split, (walk, num) in WALKS.items()
    ]
    shards, latents = f"--out={OUT / 'shards'}", f"--out={OUT / 'latents'}"
    pack = ["data_tools.write_shards", *episodes.values(), shards, "--resume"]
    shards_of = f"--shards={OUT / 'shards'}"
    encode = ["data_tools.encode_latents", shards_of, latents, "--channels=64", "--resume"]
    inverse = ["sfv.cli", "fit", "inverse_dynamics", f"--config={CONFIGS / 'inverse.yaml'}"]
    fit = ["sfv.cli", "fit", f"--config={CONFIGS / 'loop.yaml'}"]
    return [["-m", *step] for step in (*collect, pack, encode, inverse, fit)]


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
