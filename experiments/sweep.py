"""Try many settings of one config, on a cluster or here.

python -m experiments.sweep experiments/sweeps/fast_learning_rate.yaml --site my-site.yaml
python -m experiments.sweep status experiments/sweeps/fast_learning_rate.yaml
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sfv.extras import require
from sfv.texts import printable

VERBS = ("run", "status", "stop", "best")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="experiments.sweep",
        description="Try many settings of one config: start a sweep or go on with it (run), list its "
        "trials (status), end it (stop), list the best trials (best).",
    )
    p.add_argument("verb", choices=VERBS, help="may be left out: run")
    p.add_argument("file", type=Path, help="the sweep's YAML file")
    p.add_argument("--site", type=Path, help="YAML with the cluster's defaults; default: $SFV_SITE")
    p.add_argument("--local", type=int, metavar="N", help="N trials at a time here, without SLURM")
    p.add_argument("--dry-run", action="store_true", help="print the batch script, write nothing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in (*VERBS, "-h", "--help"):
        words.insert(0, "run")
    args = parser().parse_args(words)
    try:
        require("cluster", "sweeps", "optuna")
        return _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from experiments.cluster.launch import Launch, start  # these import Optuna
    from experiments.cluster.overview import best_lines, status_lines, stop
    from experiments.cluster.site import load_site
    from experiments.cluster.sweep_file import load_sweep

    if args.verb == "run":
        return start(args.file, Launch(load_site(args.site), args.local, args.dry_run))
    sweep = load_sweep(args.file)
    lines = {"status": status_lines, "stop": stop, "best": best_lines}[args.verb]
    print("\n".join(map(printable, lines(Path(sweep.out), sweep))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
