"""Commands, files and markers that the documentation names exist."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from sfv.cli import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "data_tools/README.md",
]
WITH_COMMENTS = [*PAGES, *sorted(ROOT.glob("experiments/**/*.yaml"))]


def named(pattern, pages=WITH_COMMENTS):
    """(file, first group) of every match."""
    return {
        (str(page.relative_to(ROOT)), match)
        for page in pages
        for match in re.findall(pattern, page.read_text(), re.MULTILINE)
    }


def in_code(pattern):
    """Matches at the start of inline code, of an indented line, of a fenced line or a comment."""
    return named(rf"(?:`|^(?: {{4}}|\$ |# |))(?:\.venv/bin/)?{pattern}")


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = in_code(r"make ([a-z]+)\b")
    assert {target for _, target in found} >= {"demo", "test", "check", "format"}
    assert [(page, target) for page, target in found if target not in targets] == []


def test_make_explains_its_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "format", "clean"):
        assert f"make {target} " in done.stdout


def test_every_verb_exists():
    found = in_code(r"sfv ([a-z]+)\b")
    assert {verb for _, verb in found} >= {"demo", "fit", "rollout", "evaluate"}
    assert [(page, verb) for page, verb in found if verb not in VERBS] == []


def test_every_module_that_is_run_exists():
    found = named(r"python -m ((?:data_tools|experiments|benchmarks|sfv)[\w.]*)")
    assert ("data_tools/README.md", "data_tools.collect.doom") in found
    missing = [(page, name) for page, name in found if importlib.util.find_spec(name) is None]
    assert missing == []


def test_every_link_and_file_exists():
    links = {
        (page, (ROOT / page).parent / target)
        for page, target in named(r"\]\((?!https?://|mailto:)([^)#]+)", PAGES)
    }
    files = {
        (page, ROOT / target)
        for page, target in named(
            r"(?<![\w/.])((?:docs|sfv|tests|experiments|benchmarks|requirements|data_tools)/"
            r"[\w./-]+\.(?:md|py|yaml|txt|json))\b"
        )
    }
    assert len(links) > 4 and len(files) > 4
    assert [(page, str(target)) for page, target in links | files if not target.exists()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md"])
def test_markers_are_those_of_pytest(page):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = {m.split(":")[0] for m in settings["tool"]["pytest"]["ini_options"]["markers"]}
    table = (ROOT / page).read_text().split("| marker |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == markers


def test_hooks_before_a_commit_are_tools_of_the_environment():
    hooks = re.findall(r"entry: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    pinned = (ROOT / "requirements" / "dev.txt").read_text()
    assert len(hooks) == 4
    for hook in hooks:
        tool = Path(hook).name.replace("lint-imports", "import-linter")
        assert hook.startswith(".venv/bin/") and f"\n{tool}==" in pinned
