"""What `make check` runs, so that the plain test command checks all of it; and rules no tool has."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("sfv", "data_tools", "experiments", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FILE_LINES, FUNCTION_LINES = 400, 50

ALLOWED = {
    ("experiments/cluster/study.py", "RandomSampler"): "Optuna's; seeded by sweep and trial",
    ("sfv/backbones/video_unet.py", "torch.manual_seed"): "diffusers initialises; under fork_rng",
    ("sfv/backbones/wan.py", "torch.manual_seed"): "diffusers initialises; under fork_rng",
    ("sfv/training/slow.py", "torch.manual_seed"): "dropout has no generator; seeded each step",
}
"""Uses of a global random generator, with the reason."""

SEEDS = re.compile(r"^(torch|pl|pytorch_lightning)\.(\w+\.)*(\w*seed\w*)$|^seed_everything$")
DRAWS = re.compile(
    r"^(torch|nn|F)\.(\w+\.)*(rand\w*|normal|bernoulli|multinomial|poisson)$"
    r"|(^|\.)init\.\w+_$"
    r"|\.(normal|uniform|bernoulli|exponential|random|log_normal|cauchy|geometric)_$"
    r"|(^|\.)(DataLoader|RandomSampler|random_split)$"
)
NUMPY = re.compile(r"^(np|numpy)\.random\.(?!(default_rng|Generator|SeedSequence)$)")
NOT_RANDOM = re.compile(
    r"nn\.(init|utils)\.(zeros_|ones_|constant_|clip_grad\w*)$|\.requires_grad_$"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["ruff format --check .", "ruff check .", "mypy", "lint-imports"]
)
def test_tools_find_nothing(command):
    tool, *arguments = command.split()
    program = Path(sys.executable).with_name(tool)
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_sources_to_check():
    assert len(SOURCES) > 70


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= FUNCTION_LINES, f"{node.name} has {code_lines(node)} lines"


def code_lines(function):
    """Lines of a function without those of its docstring, which may be a verb's whole help."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - documented


def test_a_long_function_is_found():
    body = "    x = 1\n" * FUNCTION_LINES
    documented = ast.parse(f'def f():\n    """One.\n\n    Two.\n    """\n{body}').body[0]
    assert code_lines(documented) == FUNCTION_LINES + 1
    assert code_lines(ast.parse(f"def f():\n{body}").body[0]) == FUNCTION_LINES + 1


def global_draws(text):
    """Calls and imports that read or set a generator which belongs to everybody."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "random"]
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            seeded = any(keyword.arg == "generator" for keyword in node.keywords)
            empty = not node.args and not node.keywords
            if (
                SEEDS.search(name)
                or NUMPY.search(name)
                or (DRAWS.search(name) and not NOT_RANDOM.search(name) and not seeded)
                or (name.endswith("random.default_rng") and empty)
            ):
                found.append(name)
    return found


def test_nothing_draws_from_a_global_generator():
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in SOURCES
        for name in global_draws(path.read_text())
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        "import random",
        "from random import choice",
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "pl.seed_everything(1)",
        "np.random.seed(0)",
        "np.random.rand(3)",
        "np.random.default_rng()",
        "torch.randn(3)",
        "torch.rand(3, device=device)",
        "torch.randn_like(latents)",
        "torch.randperm(n)",
        "weight.normal_()",
        "nn.init.kaiming_uniform_(weight)",
        "DataLoader(data, batch_size=2)",
    ],
)
def test_a_global_draw_is_found(line):
    assert len(global_draws(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.Generator().manual_seed(seed_of(0, 'x'))",
        "np.random.default_rng(seed_of(0, 'x'))",
        "rng.normal(size=3)",
        "torch.randn(3, generator=generator)",
        "weight.uniform_(generator=generator)",
        "nn.init.zeros_(weight)",
        "F.relu_(x)",
        "DataLoader(data, generator=generator)",
    ],
)
def test_a_named_draw_is_allowed(line):
    assert global_draws(line) == []
