"""The entry point: what it lists, explains, refuses, and gives back to the shell."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sfv import __version__, cli

RECORDED = []


def record(quick: bool = False, again: bool | None = False, name: str = "x") -> None:
    """A verb that keeps what it was called with.

    Args:
        quick: a switch.
        again: another switch; null is a value too.
        name: a word.
    """
    RECORDED.append((quick, again, name))


def of_bad_value() -> None:
    """A verb that is given a wrong value."""
    raise ValueError("r is 0; it must be at least 1")


def of_a_full_disk() -> None:
    """A verb that cannot write."""
    Path("/dev/full").write_text("x")


def of_lightning() -> None:
    """A verb whose trainer is set up wrongly."""
    import pytorch_lightning as pl

    pl.Trainer(max_steps=-5)


def with_a_bug() -> None:
    """A verb with an error of ours."""
    {}["key"]


def interrupted() -> None:
    """A verb that the user stops."""
    raise KeyboardInterrupt


@pytest.fixture
def verb(monkeypatch):
    """Make a function of this file the verb `try`."""

    def install(function):
        target = f"{__name__}:{function.__name__}"
        monkeypatch.setitem(cli.VERBS, "try", (target, "tried in a test"))

    return install


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_lists_every_verb_with_what_it_does(args, capsys):
    assert cli.main(args) == 0
    printed = capsys.readouterr().out
    for name, (_, text) in cli.VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", printed, re.MULTILINE)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_verb_is_told_what_is_allowed(capsys):
    assert cli.main(["trian", "--help"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        "sfv: no verb 'trian'; allowed: demo, fit, rollout, memory, evaluate"
    )
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("command", ["import sfv, sfv.cli", "from sfv import cli; cli.main([])"])
def test_the_list_of_verbs_needs_no_torch(command):
    code = f"{command}; import sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_installed_command_is_this_one():
    command = [str(Path(sys.executable).with_name("sfv"))]
    done = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True)
    assert done.stdout == cli.usage() + "\n"
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    module = subprocess.run(
        [sys.executable, "-m", "sfv.cli", "nothing"], capture_output=True, text=True
    )
    assert (module.returncode, module.stderr) == (2, done.stderr)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], (False, False, "x")),
        (["--quick"], (True, False, "x")),
        (["--quick", "--again"], (True, True, "x")),
        (["--quick", "--name", "y"], (True, False, "y")),
        (["--name=y", "--again"], (False, True, "y")),
        (["--quick", "false", "--again", "True"], (False, True, "x")),
        (["--quick=false"], (False, False, "x")),
        (["--quick", "--again", "null"], (True, None, "x")),
        (["--name", "quick"], (False, False, "quick")),
    ],
)
def test_switches_stand_alone_or_take_a_value(args, expected, verb):
    verb(record)
    RECORDED.clear()
    assert cli.main(["try", *args]) == 0
    (found,) = RECORDED
    assert found == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quikc"], "unrecognized arguments: --quikc"),
        (["--quick", "maybe"], "maybe"),
        (["y"], "unrecognized arguments: y"),
    ],
)
def test_arguments_that_do_not_parse_are_named(args, message, verb, capsys):
    verb(record)
    RECORDED.clear()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["try", *args])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "usage: sfv try" in printed and message in printed
    assert RECORDED == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (of_bad_value, "r is 0; it must be at least 1"),
        (of_a_full_disk, "[Errno 28] No space left on device"),
        (of_lightning, "`max_steps` must be a non-negative integer or -1 (infinite steps). "),
    ],
)
def test_an_error_of_the_input_is_one_line(function, message, verb, capsys, monkeypatch):
    monkeypatch.delenv("SFV_TRACEBACK", raising=False)
    verb(function)
    assert cli.main(["try"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"sfv try: {message}")
    assert printed.count("\n") == 1


def test_the_traceback_is_shown_on_request(verb, monkeypatch):
    monkeypatch.setenv("SFV_TRACEBACK", "1")
    verb(of_bad_value)
    with pytest.raises(ValueError, match="r is 0"):
        cli.main(["try"])


def test_an_error_of_ours_keeps_its_traceback(verb):
    verb(with_a_bug)
    with pytest.raises(KeyError):
        cli.main(["try"])


def test_an_interrupt_says_how_to_go_on(verb, capsys):
    verb(interrupted)
    assert cli.main(["try"]) == 130
    assert "sfv try: interrupted; run the same command again to go on" in capsys.readouterr().err


def help_of(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def explained(printed, option):
    """Whether the help says more of an option than its type and default."""
    flag = f"  --{option} "
    start = printed.index(flag if flag in printed else f"  {option} ")
    entry = printed[start:].split("\n  --")[0]
    words = re.sub(r"\((required, )?type:.*", "", " ".join(entry.split()[2:]))
    return len(words.split()) >= 2


@pytest.mark.slow  # importing everything
@pytest.mark.parametrize(
    "name", [name for name in cli.VERBS if name not in ("fit", "memory", "estimate")]
)
def test_a_verb_explains_every_parameter(name, capsys):
    module, _, function = cli.VERBS[name][0].partition(":")
    parameters = inspect.signature(getattr(import_module(module), function)).parameters
    printed = help_of(name, capsys)
    assert f"usage: sfv {name}" in printed
    assert len(parameters) >= 3
    for parameter in parameters:
        if parameter != "generation":
            assert explained(printed, parameter), parameter
    if "generation" in parameters:
        options = re.findall(r"^  --(generation\.[\w.]+) ", printed, re.MULTILINE)
        assert "generation.fast.learning_rate" in options
        for option in options:
            assert explained(printed, option), option


@pytest.mark.slow
def test_memory_lists_its_verbs_and_each_explains_its_parameters(capsys):
    from sfv.fast.memory_verbs import VERBS

    printed = help_of("memory", capsys)
    assert "{inspect,list,diff,merge,fork,rewind,export,import}" in printed
    for name, verb in VERBS.items():
        with pytest.raises(SystemExit):
            cli.main(["memory", name, "--help"])
        printed = capsys.readouterr().out
        for parameter in inspect.signature(verb).parameters:
            assert re.search(rf"^  (--)?{parameter}\b.*", printed, re.MULTILINE), (name, parameter)


def test_options_may_be_written_with_hyphens():
    args = ["--resume-from=a-b.json", "--out-x", "-h", "--", "c-d", "--generation.fast.low=-1"]
    assert cli._underscored(args) == [
        *("--resume_from=a-b.json", "--out_x", "-h", "--", "c-d", "--generation.fast.low=-1")
    ]


@pytest.mark.slow
def test_fit_explains_every_parameter_that_is_not_linked(capsys):
    from sfv.data.datamodule import EpisodeDataModule
    from sfv.training.slow import SlowLearner

    linked = {
        *("model.seed", "data.seed", "data.mode", "data.codec_fingerprint"),
        *("data.num_context", "data.num_generated"),
    }
    printed = help_of("fit", capsys)
    assert "usage: sfv fit" in printed
    options = {"out", "checkpoint_every", "slow_fast"}
    for prefix, made in (("model", SlowLearner), ("data", EpisodeDataModule)):
        options |= {f"{prefix}.{name}" for name in inspect.signature(made).parameters}
    for option in sorted(options - linked - {"model.schedule"}):
        assert explained(printed, option), option
    for option in linked:
        assert f"  --{option} " not in printed, f"{option} is decided by another setting"
