"""The pages on data sets name commands and options that exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from data_tools.convert import rlbench_export

PAGES = Path(__file__).parents[3] / "docs/datasets"
NAMES = ("driving", "epic_kitchens", "folder", "lerobot", "rlbench", "vpt")
OF_THE_EXPORT = {"--demos", "--camera", "--trust-pickles"}


def text(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def test_each_converter_has_a_page_in_the_table() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*NAMES, "index"}
    assert set(re.findall(r"\]\((\w+)\.md\) \|$", text("index"), re.MULTILINE)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_page_is_understood(name: str) -> None:
    joined = text(name).replace("\\\n", " ")
    (command,) = re.findall(
        rf"^    python -m data_tools\.convert\.{name} (.*)$", joined, re.MULTILINE
    )
    parser = importlib.import_module(f"data_tools.convert.{name}").parser()
    assert parser.parse_args(shlex.split(command)).out


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_page_exist(name: str) -> None:
    parser = importlib.import_module(f"data_tools.convert.{name}").parser()
    known = set(parser.format_help().replace("[", " ").replace("]", " ").split())
    known |= OF_THE_EXPORT if name == "rlbench" else set()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text(name))) - {
        "--repo-type",
        "--local-dir",
    }
    assert named <= known, named - known


def test_all_common_options_stand_in_the_index() -> None:
    from data_tools.convert import vpt

    own = {"--recordings", "--scene-by", "--scene", "--keep-menus", "--help"}
    options = set(re.findall(r"--[a-z][a-z-]+", vpt.parser().format_help())) - own
    table = text("index").split("## Options")[1].split("## How")[0]
    assert {o for o in options if f"`{o}`" not in table} == set()


def test_the_export_is_described_as_it_is_written() -> None:
    from data_tools.convert import rlbench

    assert rlbench_export.FORMAT == rlbench.FORMAT and rlbench.FORMAT in text("rlbench")
    assert set(rlbench_export.SIGNALS) == set(rlbench.WIDTHS)
