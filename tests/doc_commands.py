"""Commands in the pages: found in code blocks, and taken as far as the end of their parsing."""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jsonargparse
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "data_tools/README.md",
]
SHELL = ("bash", "sh", "shell")
PROGRAMS = (
    "apt|apt-get|cat|cd|cmp|conda|cp|curl|docker|export|git|grep|hf|ls|make|mkdir|mkdocs|mypy|npm|pip|pytest|"
    "python|python3|ruff|sacct|sbatch|scancel|sfv|source|squeue|srun|tar|tensorboard|torchrun|uv|wget"
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\S*bin/)?(?:{PROGRAMS})(?= (?!\S*:(?: |$))|$)")


class Parsed(BaseException):
    """A command line was accepted; it is not run."""


def blocks(text: str) -> Iterator[tuple[str | None, list[str]]]:
    """(language, lines) of fenced blocks, and (None, lines) of indented ones."""
    language, held = "", []
    fenced = False
    for line in [*text.splitlines(), ""]:
        if fence := re.match(r"\s*```(\w*)\s*$", line):
            if fenced or held:
                yield (language if fenced else None), held
            fenced, language, held = not fenced, fence[1], []
        elif fenced:
            held.append(line)
        elif line.startswith("    ") and not re.match(r"\s+([-*]|\d+\.) ", line):
            held.append(line[4:])
        elif held:
            yield None, held
            held = []


def commands(text: str) -> list[str]:
    """Every command of a page, lines that go on joined, without comment and prompt."""
    found = []
    for language, lines in blocks(text):
        joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
        for line in map(str.strip, joined):
            prompt = line.startswith("$ ")
            line = line.removeprefix("$ ")
            if not line or line.startswith("#"):
                continue
            if prompt or language in SHELL or (language in (None, "") and COMMAND.match(line)):
                found.append(shlex.join(shlex.split(line, comments=True)))
    return found


@contextmanager
def stopping_after_parsing() -> Iterator[None]:
    """Inside, every parser raises `Parsed` once it has accepted its arguments."""
    with pytest.MonkeyPatch.context() as patch:
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            patch.setattr(parser, "parse_args", _then_stop(parser.parse_args))
        yield


def _then_stop(parse):
    def parse_args(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    return parse_args


def parse(module: str, argv: Sequence[str]) -> None:
    """Call a module's `main` until its arguments are accepted; `SystemExit` where they are not."""
    main = importlib.import_module(module).main
    with pytest.MonkeyPatch.context() as patch, stopping_after_parsing():
        patch.setattr(sys, "argv", [f"python -m {module}", *argv])
        try:
            code = main()
        except Parsed:
            return
    raise AssertionError(f"{module} {shlex.join(argv)} ended with {code} before it parsed anything")
