"""What may not be loaded by whom: in a process of its own, for here everything is loaded already."""

import subprocess
import sys

import pytest


def modules_after(imports):
    """Names of the modules that are loaded behind an import."""
    code = f"import sys, {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_the_command_line_loads_no_torch_before_it_knows_its_verb():
    heavy = {"torch", "pytorch_lightning", "diffusers", "numpy"}
    assert not heavy & set(modules_after("sfv.cli"))


@pytest.mark.slow
def test_what_generates_and_measures_loads_no_lightning():
    verbs = "sfv.generation.verb, sfv.evaluation.evaluate, sfv.evaluation.benchmark.run"
    names = modules_after(f"{verbs}, sfv.play.verb, sfv.play.player, sfv.planning.verb")
    assert "sfv.generation.rollout" in names
    assert not [n for n in names if n.startswith(("pytorch_lightning", "sfv.training"))]
