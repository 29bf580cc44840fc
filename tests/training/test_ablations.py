"""The update rules of the paper's Table 4, each a config that `sfv evaluate` takes."""

from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml

from sfv.evaluation.evaluate import evaluate
from sfv.fast.settings import RULES
from sfv.generation.settings import rollout_of
from tests.training.make import make_learner

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "experiments" / "configs" / "ablations").glob("*.yaml"))


def parse(config):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(evaluate)
    return parser.instantiate_classes(parser.parse_args([f"--config={config}"]))


def test_every_rule_has_its_config():
    names = {config.stem for config in CONFIGS}
    assert names == {*RULES, "none"}
    for config in CONFIGS:
        relative = config.relative_to(ROOT)
        assert config.read_text().startswith(f"# sfv evaluate --config {relative}\n# ")
        content = yaml.safe_load(config.read_text())
        rule = content["generation"].get("fast", {}).get("rule")
        assert rule == (None if config.stem == "none" else config.stem)
        assert content["out"].endswith(config.stem)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_and_makes_a_video(config, data):
    found = parse(config)
    (row,) = found.rows
    learner = make_learner(data)
    world = learner.world_model
    start = torch.zeros(1, 5, 3, 4, 6)
    with rollout_of(world, row, found.generation) as rollout:
        chunks = rollout.run("e", start, ["walk forward", "turn left"])
    assert torch.cat([chunk.kept for chunk in chunks], dim=2).shape == (1, 5, 4, 4, 6)
    assert [chunk.learned is not None for chunk in chunks] == [row == "fast"] * 2
