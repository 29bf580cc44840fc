"""What the site adds to the pages in docs/; MkDocs calls the functions.

Pages that live elsewhere in the repository, an API page a package, figures that follow the switch between
light and dark, equations as MathML, and the code that does them (where a page says
<!-- code: FILE FUNCTION -->, or a whole file without a function).

Links are written for a plain repository viewer. Here, those between pages of docs/ stay as they are; those
from or to a page that lives elsewhere are put right.
"""

import ast
import posixpath
import re
import textwrap
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs"

ELSEWHERE = {
    "README.md": "readme.md",
    "CHOICES.md": "choices.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "data_tools/README.md": "data_sources.md",
    "NOTICE": "notice.txt",
    "LICENSE": "licence.txt",
}
"""Path in the repository → path on the site."""

PACKAGES = ("sfv", "data_tools", "experiments")

LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]*)(#[^)\s]*)?(\))")
CODE = re.compile(r"^<!-- code: (\S+)(?: (\S+))? -->$", re.MULTILINE)
FIGURE = re.compile(r'<img alt="([^"]*)" src="([^"]*figures/\w+\.svg)" ?/?>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write equations in fences named `math`, as repository viewers know them."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": mathml}]
    }
    api = [{name: page} for name, page in api_pages()]
    for entry in config.nav or []:
        if "API" in entry:
            entry["API"] = api
    return config


def mathml(source: str, *_: Any, **__: Any) -> str:
    """The lines of a fence, each an equation."""
    return "\n".join(convert(line, display="block") for line in source.splitlines() if line.strip())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere, and those of the API."""
    for path, name in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for package, name in api_pages():
        files.append(File.generated(config, name, content=api_text(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put links right that lead from or to a page which lives elsewhere."""
    site_path = page.file.src_uri
    path = {name: key for key, name in ELSEWHERE.items()}.get(site_path, f"{DOCS}/{site_path}")

    def replaced(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        if not target:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        place = ELSEWHERE.get(found) or found.removeprefix(f"{DOCS}/")
        link = posixpath.relpath(place, posixpath.dirname(site_path) or ".")
        return f"{before}{link}{anchor or ''}{after}"

    return CODE.sub(lambda match: code_of(match[1], match[2]), LINK.sub(replaced, markdown))


def code_of(path: str, name: str | None = None) -> str:
    """A file, or one function's lines without its docstring, as a block with the file above it.

    Raises:
        LookupError: there is no such function.
    """
    source = (ROOT / path).read_text()
    lines = source.splitlines() if name is None else function_lines(source, path, name)
    text = textwrap.dedent("\n".join(lines))
    return f'\n```python title="{path}"\n{text}\n```\n'


def function_lines(source: str, path: str, name: str) -> list[str]:
    """The lines of `name` (a function, or CLASS.METHOD) without its docstring.

    Raises:
        LookupError: there is no such function.
    """
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        inside = [child for child in ast.walk(node) if getattr(child, "name", None) == part]
        if not inside:
            raise LookupError(f"{path} has no {name}; mend the <!-- code: --> of the page")
        node = inside[0]
    assert isinstance(node, ast.FunctionDef)
    lines = source.splitlines()
    first, last = node.lineno - 1, node.end_lineno
    if ast.get_docstring(node) is None:
        return lines[first:last]
    quoted = node.body[0]
    return lines[first : quoted.lineno - 1] + lines[quoted.end_lineno : last]


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put figures into the page, where the site's colours reach them."""
    here = (ROOT / DOCS / page.file.src_uri).parent
    return FIGURE.sub(lambda match: (here / match[2]).read_text(), html)


def api_pages() -> list[tuple[str, str]]:
    """(package, page) of all packages that hold modules."""
    found = []
    for top in PACKAGES:
        for init in sorted((ROOT / top).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            if modules(init.parent):
                found.append((name, f"api/{name}.md"))
    return found


def modules(folder: Path) -> list[str]:
    """Public modules of one package, without those of packages inside."""
    names = (path.stem for path in sorted(folder.glob("*.py")))
    prefix = ".".join(folder.relative_to(ROOT).parts)
    return [f"{prefix}.{name}" for name in names if not name.startswith("_")]


def api_text(package: str) -> str:
    """The page of a package."""
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false"
    names = modules(ROOT.joinpath(*package.split(".")))
    listed = "\n\n".join(f"## {name}\n\n::: {name}\n{options}" for name in names)
    return f"# {package}\n\n{listed}\n"
