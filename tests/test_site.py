"""The documentation site: built with warnings as errors, whole, and without anything from elsewhere."""

import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)[^>]* src=\"?([^\" >]+)|<link[^>]*href=\"?([^\" >]+)"
)


def tool(name):
    """A script of docs/tools, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[:2000]
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 55
    loaded = {a or b for page in pages for a, b in LOADED.findall(page.read_text())}
    assert len(loaded) > 10
    assert [link for link in loaded if re.match(r"https?:|//", link)] == []


@pytest.mark.slow
def test_pages_from_elsewhere_in_the_repository_are_there_and_linked(site):
    readme = (site / "readme.html").read_text()
    assert 'href="method.html"' in readme and 'href="choices.html"' in readme
    assert 'href="data_sources.html"' in readme and 'href="notice.txt"' in readme
    assert 'href="datasets/lerobot.html"' in (site / "data_sources.html").read_text()
    assert 'href="../choices.html#' in (site / "concepts/slow_learner.html").read_text()
    assert (site / "notice.txt").read_text() == (ROOT / "NOTICE").read_text()


@pytest.mark.slow
def test_the_method_shows_equations_and_the_code_that_does_them(site):
    method = (site / "method.html").read_text()
    assert method.count("<math") == 6
    assert "masked_conditional_loss" in method and "<!-- code:" not in method
    tour = (site / "tour.html").read_text()
    assert "TemporalLoRA" in tour and "<!-- code:" not in tour
    figure = (site / "concepts/loop.html").read_text()
    assert 'class="sfv-figure"' in figure and "figures/loop.svg" not in figure


@pytest.mark.slow
def test_every_public_module_has_its_docstrings_in_the_reference(site):
    hooks = tool("hooks")
    for package, page in hooks.api_pages():
        html = (site / page).with_suffix(".html").read_text()
        for module in hooks.modules(ROOT.joinpath(*package.split("."))):
            assert re.search(rf"<h2[^>]*>{re.escape(module)}<", html), module
    assert 'id="sfv.fast.settings.FastSettings"' in (site / "api/sfv.fast.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_follow_the_page_and_search_finds(page, address, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/concepts/fast_learner.html")
    shown = page.eval_on_selector("body", "e => e.getAttribute('data-md-color-scheme')")
    assert shown == {"light": "default", "dark": "slate"}[scheme]
    ink = page.eval_on_selector(".sfv-figure text", "e => getComputedStyle(e).fill")
    paper = page.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor")
    assert abs(brightness(ink) - brightness(paper)) > 100
    page.keyboard.press("/")
    page.keyboard.type("passport")
    page.locator(".md-search-result__item").first.wait_for()


def brightness(colour):
    """Of `rgb(r, g, b)`, from 0 to 255."""
    return sum(float(value) for value in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_figures_are_up_to_date():
    figures = tool("figures")
    for name, draw in figures.FIGURES.items():
        assert (figures.FOLDER / f"{name}.svg").read_text() == draw(), (
            "python docs/tools/figures.py"
        )


def test_code_that_is_gone_is_an_error():
    hooks = tool("hooks")
    assert "def add_noise" in hooks.code_of("sfv/diffusion/schedule.py", "NoiseSchedule.add_noise")
    with pytest.raises(LookupError, match=r"has no NoiseSchedule\.gone"):
        hooks.code_of("sfv/diffusion/schedule.py", "NoiseSchedule.gone")


def test_every_page_has_a_place_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    pages |= {name for name in tool("hooks").ELSEWHERE.values() if name.endswith(".md")}
    assert pages - set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE)) == set()
