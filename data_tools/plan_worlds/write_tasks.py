"""Write a file of planning tasks: drawn from a seed, performed once in the engine, kept with a hash.

    python -m data_tools.plan_worlds.write_tasks doom --out tasks.json
    python -m data_tools.plan_worlds.write_tasks metaworld --out tasks.json

`doom`: to landmark A, then B, then back to the origin on the same way, in levels of the test split.
`metaworld`: carry a puck to the goal area, then back to where it was.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.collect.runner import MissingEngine
from data_tools.plan_worlds.doom_tasks import doom_tasks
from data_tools.plan_worlds.metaworld_tasks import metaworld_tasks
from sfv.files import check_writable
from sfv.planning.tasks import TaskSet, save_tasks
from sfv.texts import printable

MAKERS: dict[str, Callable[[str, int, int, int, int], TaskSet]] = {
    "doom": doom_tasks,
    "metaworld": metaworld_tasks,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="data_tools.plan_worlds.write_tasks",
        description="Write a file of planning tasks for `sfv plan`.",
    )
    p.add_argument("world", choices=sorted(MAKERS))
    p.add_argument("--out", type=Path, required=True, help="the .json file to write")
    p.add_argument("--tasks", type=int, default=20, help="how many (default: 20)")
    p.add_argument("--seed", type=int, default=0, help="decides the tasks (default: 0)")
    p.add_argument("--size", type=int, default=64, help="of the frames, pixels (default: 64)")
    p.add_argument(
        "--chunks", type=int, default=8, help="doom: chunks out, an even number (default: 8)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    try:
        if args.tasks < 1 or args.chunks < 2 or args.chunks % 2 or not 16 <= args.size <= 120:
            raise ValueError(
                f"--tasks {args.tasks} --chunks {args.chunks} --size {args.size}: allowed are tasks >= 1, "
                "an even number of chunks >= 2, 16 <= size <= 120"
            )
        check_writable(args.out.parent)
        tasks = MAKERS[args.world](args.out.stem, args.tasks, args.seed, args.size, args.chunks)
        save_tasks(tasks, args.out)
    except (ValueError, OSError, MissingEngine) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    print(f"{len(tasks.tasks)} tasks: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
