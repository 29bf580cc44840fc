"""YAML of a user: limits, file and line in errors, texts as they are written."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster.site import Site, load_site
from experiments.cluster.sweep_file import load_sweep
from sfv.cli import main
from sfv.estimate.config import ConfigOnly
from sfv.training.fit import parse, resolved
from sfv.yaml_file import MAX_BYTES, YamlError, parse_yaml, read_yaml

TINY = Path("experiments/configs/doom/tiny.yaml").resolve()
LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)

BAD = [
    ("[" * 100_000, "line 1: nested more than 64 deep"),
    ("{a: " * 100_000, "line 1: nested more than 64 deep"),
    (LAUGHS, "line 6: more than 200000 values"),
    ("a:\n  b: &b [*b]\n", "line 2: alias *b holds itself"),
    ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' stands there twice"),
    ("a: 1\nb: [1, 2\n", "line 3: while parsing a flow sequence"),
    ("a: !!python/object/apply:os.system [id]\n", "line 1: could not determine a constructor"),
    ("a: 1\n---\nb: 2\n", "line 2: expected a single document"),
    ("a: !!int abc\n", "not YAML that can be read"),
    ("a: \0\n", "not YAML that can be read"),
    ("1" * 5000, "not YAML that can be read"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=range(len(BAD)))
def test_what_is_too_much_or_no_yaml_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(YamlError) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path)) and said in str(error.value)


@pytest.mark.parametrize("bad", range(6))
@pytest.mark.parametrize("reader", ["fit", "ablation", "sweep", "site", "benchmark"])
def test_all_files_of_users_are_read_within_the_limits(tmp_path, capsys, reader, bad):
    path = tmp_path / "mine.yaml"
    path.write_text(BAD[bad][0])
    if reader == "fit":
        with pytest.raises(SystemExit):
            main(["fit", f"--config={path}"])
    elif reader == "ablation":
        from experiments.ablation import ablation
        from experiments.command import run_command

        with pytest.raises(SystemExit):
            run_command("experiments.ablation", ablation, ["--config", str(path)])
    elif reader == "benchmark":
        assert (
            main(["evaluate", f"--benchmark={path}", f"--out={tmp_path / 'out'}", "--videos=x"])
            == 2
        )
    else:
        with pytest.raises(ValueError, match=r"mine\.yaml") as error:
            load_sweep(path) if reader == "sweep" else load_site(path)
        print(error.value)
    said = "".join(capsys.readouterr())
    assert str(path) in said and BAD[bad][1] in said


@pytest.mark.parametrize("kind", ["pipe", "folder", "large", "device"])
def test_only_regular_files_of_some_size_are_read(tmp_path, capsys, kind):
    path = tmp_path / "mine.yaml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "large":
            path.write_text("#" * (MAX_BYTES + 1))
        case "device":
            path.symlink_to("/dev/zero")
    assert main(["fit", "--config", str(path)]) == 2
    assert main(["rollout", "--out=x", f"--config={path}"]) == 2
    with pytest.raises((OSError, YamlError), match=r"mine\.yaml"):
        load_site(path)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4:00:00", "4:00:00"), ("0123", "0123"), ("1:30.5", "1:30.5"), ("2026-11-30", "2026-11-30"),
        ("1e3", 1000.0), ("1.5e-3", 1.5e-3), ("-.5", -0.5), ("10_000", 10000), ("0x1F", 31), ("0", 0),
        ("-7", -7), (".inf", float("inf")), ("12.10", 12.1), ("on", True), ("~", None), ("'on'", "on"),
    ],
)  # fmt: skip
def test_numbers_are_what_they_look_like(text, value):
    found = parse_yaml(f"a: {text}", "x")["a"]
    assert found == value and type(found) is type(value)


@dataclass
class Inner:
    text: str = ""


@dataclass
class Outer:
    text: str | None = None
    number: float = 0
    inner: Inner = field(default_factory=Inner)
    many: list[str] = field(default_factory=list)
    by_name: dict[str, Inner] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "text",
    ["4:00:00", "0123", "on", "off", "No", "y", "1e3", "12.10", "2026-11-30", "=", "<<", "0x1F"],
)
def test_a_text_is_what_is_written(text):
    content = f"""
        text: {text}
        number: 12.10
        inner: {{text: {text}}}
        many: [{text}, {text}]
        by_name: {{ON: {{text: {text}}}}}
        anything: {{a: 12.10}}
    """
    assert parse_yaml(content, "x", Outer) == {
        "text": text, "number": 12.1, "inner": {"text": text}, "many": [text, text],
        "by_name": {"ON": {"text": text}}, "anything": {"a": 12.1},
    }  # fmt: skip
    assert parse_yaml("base: &b {text: on}\ninner: {<<: *b}", "x", Outer)["inner"] == {"text": "on"}
    assert parse_yaml("text: null", "x", Outer) == {"text": None}


def test_utf_16_and_a_byte_order_mark_are_read(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.yaml").write_text("partition: größe\n", encoding=encoding)
        assert load_site(tmp_path / "a.yaml") == Site(partition="größe")


def fit(path):
    return parse([f"--config={TINY}", f"--config={path}"], ConfigOnly)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out: ${out}", "the ${...} of out leads to no value"),
        ("out: ${nothing.there}", "the ${...} of out leads to no value"),
        ("out: ${", "the ${...} of out leads to no value"),
    ],
)
def test_an_interpolation_that_leads_nowhere_names_setting_and_file(tmp_path, capsys, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["fit", f"--config={TINY}", f"--config={tmp_path / 'mine.yaml'}"]) == 2
    printed = capsys.readouterr().err
    assert said in printed and str(tmp_path / "mine.yaml") in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out: null", '"out"'),
        ("out: on", "put a text in quotes"),
        ("out: 12.10", "put a text in quotes"),
        ("model: {denoiser: {init_args: {preset: null}}}", '"preset"'),
        ("data: {batch_size: null}", '"data.batch_size"'),
        ("trainer: {max_steps: null}", '"trainer.max_steps"'),
    ],
)
def test_null_and_numbers_where_they_are_not_meant_are_refused(tmp_path, capsys, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit):
        fit(tmp_path / "mine.yaml")
    assert said in capsys.readouterr().err


def test_null_is_refused_by_other_verbs_too(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "--out=x", "--fps=null"])
    assert '"fps"' in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--trainer=", "--actions=", "--start="])
def test_a_pipe_behind_any_flag_is_refused(tmp_path, capsys, flag):
    os.mkfifo(tmp_path / "pipe")
    verb = ["fit"] if flag == "--trainer=" else ["rollout", "--out=x"]
    assert main([*verb, f"{flag}{tmp_path / 'pipe'}"]) == 2
    assert "is a pipe" in capsys.readouterr().err


def test_a_printed_config_can_be_read_again(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "--out=x", "--print_config"])
    content = parse_yaml(capsys.readouterr().out, "x")
    assert content["out"] == "x" and content["start"] is None and content["num_episodes"] is None


@pytest.mark.parametrize("out", ["1e3", "on", "null", "4:00", "0123", "-.5", "a: b", "{a}"])
def test_a_text_in_quotes_comes_back_from_the_resolved_config(tmp_path, out):
    (tmp_path / "mine.yaml").write_text(f"out: '{out}'")
    cli = fit(tmp_path / "mine.yaml")
    (tmp_path / "again.yaml").write_text(cli.parser.dump(cli.config, skip_unset=False))
    again = parse([f"--config={tmp_path / 'again.yaml'}"], ConfigOnly)
    assert cli.config.out == again.config.out == out and resolved(cli) == resolved(again)


def test_a_time_limit_of_the_trainer_is_its_text(tmp_path):
    (tmp_path / "mine.yaml").write_text("trainer: {max_time: 10:00:00:00}")
    assert fit(tmp_path / "mine.yaml").config.trainer.max_time == "10:00:00:00"
