"""A function as a command: options from its signature, errors of the input as one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_cli

from sfv.texts import printable
from sfv.yaml_file import guard_flags


def run_command(name: str, function: Callable[..., Any], args: Sequence[str] | None = None) -> int:
    """Call `function` with what the command line says.

    Args:
        name: module of the command, `experiments.ablation` say, for its help and errors.
        function: its arguments are the options; ValueError and OSError are errors of the input.
        args: the command line; None takes that of the process.

    Returns:
        Exit code: 2 after an error of the input.
    """
    try:
        guard_flags(sys.argv[1:] if args is None else args)
        auto_cli(function, args=args, as_positional=False, prog=f"python -m {name}")
    except (ValueError, OSError) as error:
        print(f"{name}: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    return 0
