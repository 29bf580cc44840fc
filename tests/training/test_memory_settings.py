"""The settings in a memory's header: what a file may ask a rollout to do."""

from dataclasses import asdict

import pytest

from sfv.fast.settings import FastSettings
from sfv.generation.settings import GenerationSettings, settings_from
from sfv.generation.tasks import read_actions


def test_settings_are_read_as_they_were_written():
    given = GenerationSettings(fast=FastSettings(num_steps=7, guard=None), seed=3, precision="bf16")
    assert settings_from(asdict(given), "temp_lora", "x") == given


@pytest.mark.parametrize(
    ("part", "field", "given", "allowed"),
    [
        ("fast", "rule", "all", "one of pair, text_style"),
        ("fast", "rule", ["pair"], "one of pair"),
        ("fast", "optimizer", "lion", "one of adam, sgd"),
        ("fast", "num_steps", 10**9, "a whole number of 0 to 10000"),
        ("fast", "num_steps", "2", "a whole number"),
        ("fast", "draws_per_step", 10**9, "a whole number of 1 to 10000"),
        ("fast", "history", 10**9, "a whole number of 1 to 100000"),
        ("fast", "learning_rate", float("nan"), "a number"),
        ("fast", "guard", "no", "a number or null"),
        ("fast", "own_chunks", 1, "true or false"),
        ("lora", "r", 10**9, "a whole number of 1 to 65536"),
        ("lora", "targets", "none", "one of temporal, attention, all"),
        ("sampler", "num_inference_steps", 10**9, "a whole number of 1 to 10000"),
        ("sampler", "name", None, "one of ddim"),
    ],
)
def test_a_wrong_setting_is_named(part, field, given, allowed):
    content = asdict(GenerationSettings())
    content[part][field] = given
    with pytest.raises(ValueError, match=f"^m: settings.{part}.{field} is .*; allowed: {allowed}"):
        settings_from(content, "temp_lora", "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fast": None}, "settings.fast is None; allowed: an object with num_steps"),
        ({"fast": {"later": 1}}, "settings.fast.later is not known; allowed: num_steps"),
        ({"fast": {"low": 0.9, "high": 0.1}}, "settings.fast: .*noise range"),
        ({"precision": "8"}, "settings.precision is '8'; allowed: one of"),
        ({"seed": 2**70}, "settings.seed is"),
    ],
)
def test_settings_of_another_form_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        settings_from({**asdict(GenerationSettings()), **change}, "temp_lora", "m")
    with pytest.raises(ValueError, match=r"settings.sampler is missing.*give the --generation"):
        settings_from({}, "temp_lora", "m")


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("rule", "x", "rule='x'; allowed: pair"),
        ("optimizer", "x", "optimizer='x'; allowed: adam, sgd"),
        ("learning_rate", float("nan"), "learning_rate=nan"),
        ("guard", float("nan"), "guard=nan"),
    ],
)
def test_code_may_not_give_other_settings_either(field, given, message):
    settings = FastSettings()
    object.__setattr__(settings, field, given)  # past the tests' own check of types
    with pytest.raises(ValueError, match=message):
        settings.__post_init__()


@pytest.mark.parametrize(
    ("name", "content", "actions"),
    [
        ("a.txt", "\ufeffwalk\u2028on\r\n\r\nturn\x0bleft\rstop", ["walk\u2028on", "turn\x0bleft", "stop"]),
        ("a.jsonl", '\ufeff{"text": "walk\u2028on"}\r\n{"text": "a\x85b"}\n', ["walk\u2028on", "a\x85b"]),
        ("a.json", '\ufeff["walk\u2028on",\r\n "stop"]', ["walk\u2028on", "stop"]),
    ],
)  # fmt: skip
def test_actions_end_at_line_ends_alone(tmp_path, name, content, actions):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_actions(path) == actions
    path.write_bytes(b"walk\xff")
    with pytest.raises(ValueError, match=r"is not UTF-8 text: byte 4 is 0xff"):
        read_actions(path)
