"""`sfv`: one entry point, one verb for each stage."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from sfv import __version__
from sfv.texts import printable
from sfv.yaml_file import guard_flags

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("sfv.demo.run:demo", "collect, train, roll out and measure on a small world"),
    "fit": (
        "sfv.training.fit:fit",
        "train from a YAML config: slow learning, the slow-fast loop; or `inverse_dynamics`",
    ),
    "rollout": ("sfv.generation.verb:rollout", "generate long videos, with or without memory"),
    "memory": ("sfv.fast.memory_verbs:VERBS", "inspect, compare, merge, fork, export memories"),
    "evaluate": (
        "sfv.evaluation.evaluate:evaluate",
        "measure a world model on test episodes, or run a --benchmark",
    ),
    "plan": (
        "sfv.planning.verb:plan",
        "plan long tasks with a world model, execute the plans in a real engine",
    ),
    "estimate": (
        "sfv.estimate.verb:estimate",
        "memory, compute and days of a fit config, without a GPU, data or weights",
    ),
    "play": ("sfv.play.verb:play", "drive a world model by keyboard, in a browser"),
    "board": ("sfv.report.board:board", "open TensorBoard on a run, a sweep or a folder of them"),
    "rate": (
        "sfv.report.rating.verb:rate",
        "let people rate videos blindly, and sum up what they say",
    ),
}
"""Verb → (where its function lives, what it does). Imported only when asked for: torch is slow."""

BENCHMARK = "sfv.evaluation.benchmark.run:benchmark"
"""`sfv evaluate` with `--benchmark` takes other options."""


def usage() -> str:
    """The text of `sfv --help`."""
    verbs = "\n".join(f"  {name:<10} {text}" for name, (_, text) in VERBS.items())
    return (
        f"sfv {__version__}: slow-fast learning for action-driven long video generation\n\n"
        f"usage: sfv VERB [options]\n\nverbs:\n{verbs}\n\n"
        "sfv VERB --help explains a verb's options, their units and defaults.\n"
        "SFV_TRACEBACK=1 shows where an error came from."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments after the program's name; None takes the process's.

    Returns:
        0, or 2 after an error of the input, which is printed in one line.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = args
    if verb not in VERBS:
        print(
            f"sfv: no verb {verb!r}; allowed: {', '.join(VERBS)}. See sfv --help", file=sys.stderr
        )
        return 2
    # Read when torch loads: threads that spin long at barriers make a busy machine ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        _run(verb, rest)
    except _input_errors() as error:
        if os.environ.get("SFV_TRACEBACK"):
            raise
        print(f"sfv {verb}: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nsfv {verb}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _input_errors() -> tuple[type[Exception], ...]:
    """What a user can cause; Lightning's own class only once it is loaded."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (ValueError, OSError) + (
        () if lightning is None else (lightning.MisconfigurationException,)
    )


def _run(verb: str, args: list[str]) -> None:
    if verb == "fit":
        _fit(args)
        return
    runs_benchmark = verb == "evaluate" and any(a.startswith("--benchmark") for a in args)
    place = BENCHMARK if runs_benchmark else VERBS[verb][0]
    module, _, name = place.partition(":")
    function: Any = getattr(import_module(module), name)
    if verb == "estimate":
        function(args)  # parses as `sfv fit` does
        return
    from jsonargparse import auto_cli

    guard_flags(args)
    # A verb is a function, or functions under names of their own; those take what they need by position.
    is_group = isinstance(function, dict)
    by_position = is_group or verb == "board"
    args = _gathered(args, "folders") if verb == "rate" else args
    arguments = _with_flags(function, args) if not is_group else _underscored(args)
    auto_cli(function, args=arguments, prog=f"sfv {verb}", as_positional=by_position)


def _gathered(args: list[str], name: str) -> list[str]:
    """Make one list of the words before the first option: `a b -o c` is `--folders=["a","b"] -o c`."""
    num = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return [f"--{name}={json.dumps(args[:num])}", *args[num:]] if num else args


def _fit(args: list[str]) -> None:
    """Catch a cluster's signals first, while torch and Lightning load too; LightningCLI parses."""
    from sfv.training import signals

    with signals.caught():
        if args[:1] == ["inverse_dynamics"]:
            from sfv.training.fit_inverse import fit_inverse

            fit_inverse(args[1:])
            return
        from sfv.training.fit import fit

        fit(args)


def _with_flags(function: Callable[..., Any], args: list[str]) -> list[str]:
    """Let a switch stand alone: `--quick` for `--quick true`; and `--out-put` be `--out_put`."""
    parameters = inspect.signature(function).parameters.values()
    switches = {f"--{p.name}" for p in parameters if p.annotation in (bool, bool | None)}
    args = _underscored(args)
    following = [*args, ""][1:]
    return [
        f"{arg}=true" if arg in switches and after.lower() not in ("true", "false", "null") else arg
        for arg, after in zip(args, following, strict=True)
    ]


def _underscored(args: list[str]) -> list[str]:
    """Options may be written with hyphens: `--resume-from` for `--resume_from`."""
    found = []
    for arg in args:
        name, equals, value = arg.partition("=")
        long = name.startswith("--") and len(name) > 2
        found.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if long else arg)
    return found


if __name__ == "__main__":
    sys.exit(main())
