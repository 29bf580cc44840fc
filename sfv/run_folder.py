"""A run is one folder: resolved config, code version, environment, logs, checkpoints, model."""

import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

import sfv
from sfv.files import claim_folder, replacing_parts, write_bytes, write_json
from sfv.moved import current_names
from sfv.yaml_file import parse_yaml, read_yaml

CONFIG = "config.yaml"
MACHINES = ("accelerator", "devices", "num_nodes", "strategy")
MEASURED = "test"
"""What an inverse model is measured on at the end, which may be asked for later."""


def open_run_folder(folder: Path, config: str) -> None:
    """Make a run folder, or reopen the folder of the same run.

    Args:
        folder: where the run lives.
        config: the resolved configuration as YAML. What says only which machines compute (devices, nodes,
            accelerator, strategy) may change over the life of a run.

    Raises:
        FileExistsError: the folder belongs to another run, or is no run folder; the message names the
            first setting that differs.
        ValueError: the folder's config is no YAML.
    """
    claim_folder(folder, CONFIG, "a run folder")
    path = folder / CONFIG
    if path.exists():
        there = _of_the_run(read_yaml(path), path)
        difference = first_difference(there, _of_the_run(parse_yaml(config, "the settings"), path))
        if difference:
            raise FileExistsError(
                f"{folder} belongs to another run: its config.yaml differs ({difference}). "
                "Give another --out, or the settings this folder was started with to go on with it"
            )
        return
    with replacing_parts(folder, CONFIG) as part:  # cut off, it would be no run folder
        write_json(part / "environment.json", environment())
        commit, diff = git_state()
        write_bytes(part / "git.txt", commit.encode())
        write_bytes(part / "git.diff", diff.encode())
        write_bytes(part / CONFIG, config.encode())


def _of_the_run(content: Any, path: Path) -> str:
    """A config without what says only which machines compute, and what is measured at the end."""
    if not isinstance(content, dict) or not isinstance(content.get("trainer", {}), dict):
        raise ValueError(f"{path} holds no settings of a run; it may be cut off")
    left = {name: value for name, value in content.items() if name != MEASURED}
    if "trainer" in left:
        left["trainer"] = {k: v for k, v in left["trainer"].items() if k not in MACHINES}
    text: str = yaml.safe_dump(_whole(left), allow_unicode=True, sort_keys=False)
    return text


def _whole(content: Any) -> Any:
    """Floats without a fraction as integers: a config with `${...}` holds 1000.0, one without 1000."""
    match content:
        case dict():
            return {key: _whole(value) for key, value in content.items()}
        case list():
            return [_whole(value) for value in content]
        case float() if content.is_integer():
            return int(content)
    return content


def first_difference(old: str, new: str) -> str:
    """Name the first line in which two configs differ; empty when they are equal."""
    old_lines, new_lines = (current_names(text).split("\n") for text in (old, new))
    for before, after in zip(old_lines, new_lines, strict=False):
        if before != after:
            return f"`{before.strip()}` there, `{after.strip()}` now"
    if len(old_lines) != len(new_lines):
        return f"{len(old_lines)} lines there, {len(new_lines)} now"
    return ""


def environment() -> dict[str, Any]:
    """Python, platform and package versions; no environment variables, which may hold secrets."""
    packages = {d.metadata["Name"]: d.version for d in distributions()}
    return {
        "sfv": sfv.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": dict(sorted(packages.items())),
    }


def git_state() -> tuple[str, str]:
    """Commit and uncommitted diff of the checkout that `sfv` runs from; empty without one."""
    root = Path(sfv.__file__).parent

    def git(*args: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""

    return git("rev-parse", "HEAD"), git("diff", "HEAD")
