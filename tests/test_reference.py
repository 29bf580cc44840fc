"""The reference checkpoint's recipe: its steps fit together; training itself takes hours."""

import argparse
from importlib import import_module

import pytest
import yaml

from experiments import reference


def test_every_step_reads_what_the_steps_before_it_wrote(capsys):
    assert reference.main(["--dry-run"]) == 0
    assert capsys.readouterr().out.count("$ python -m ") == len(reference.commands()) == 6
    out = str(reference.OUT)
    slow, loop = (
        yaml.safe_load((reference.CONFIGS / f"{name}.yaml").read_text())
        for name in ("slow", "slow_fast")
    )
    assert slow["out"] == f"{out}/slow" and loop["out"] == f"{out}/slow_fast"
    assert loop["model"]["init_from"] == f"{slow['out']}/model"
    for config in (slow, loop):
        assert config["model"]["codec"]["init_args"]["file"] == f"{out}/latents/codec.safetensors"
        assert [config["data"][s] for s in ("train", "val")] == [
            f"{out}/latents/train",
            f"{out}/latents/val",
        ]


def test_the_tools_know_their_flags(monkeypatch):
    """Each tool parses its step's flags; none of them runs."""

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(vars(parse(self, args, namespace)))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    for _, module, *arguments in reference.commands():
        if module.startswith("data_tools."):
            with pytest.raises(Parsed) as parsed:
                import_module(module).main(arguments)
            assert parsed.value.args[0]["resume"] is True


def test_a_step_that_fails_stops_the_others(monkeypatch, capfd):
    monkeypatch.setattr(reference, "commands", lambda: [["-c", "exit(3)"], ["-c", "print(1)"]])
    assert reference.main([]) == 3
    said = capfd.readouterr()
    assert "the same command again goes on" in said.err and "\n1\n" not in said.out
