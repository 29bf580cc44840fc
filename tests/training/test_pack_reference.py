import json
import shutil

import pytest
import yaml

from experiments import pack_reference
from sfv.generation.tasks import read_actions, read_start
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.models.model_folder import find_example
from sfv.models.world_model import WorldModel

CONFIG = {
    "seed_everything": 7,
    "trainer": {"max_steps": 5},
    "slow_fast": {"slow_batch_size": 2},
}


@pytest.fixture
def run(demo, tmp_path, monkeypatch):
    """The demo's data and model as if `experiments.reference` had made them, in two trainings."""
    made = tmp_path / "made"
    monkeypatch.setattr(pack_reference, "OUT", made)
    made.mkdir()
    (made / "shards").symlink_to(demo.folder / "shards")
    (made / "episodes").mkdir()
    (made / "episodes" / "val").symlink_to(
        demo.folder / "episodes" / "test"
    )  # walks that come back
    InverseDynamics(("walk forward",)).save(made / "inverse")
    score = {"value": 0.5, "passport": {"count": 3}}
    metrics = {"pair_accuracy": score, "action_accuracy": score}
    report = {"rows": {"true_video": {"metrics": metrics}}}
    (made / "inverse" / "report.json").write_text(json.dumps(report))
    first, folder = made / "first", made / "slow"
    first.mkdir()
    earlier = CONFIG | {"model": {"init_from": None}, "trainer": {"max_steps": 3}}
    (first / "config.yaml").write_text(yaml.safe_dump(earlier))
    shutil.copytree(demo.folder / "slow" / "model", folder / "model")
    config = CONFIG | {"model": {"init_from": str(first / "model")}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "9.9"}}))
    return folder


@pytest.mark.slow
def test_the_package_gets_the_weights_an_example_and_a_card(run, demo, tmp_path):
    out = tmp_path / "reference"
    pack_reference.pack(run / "model", out, demo.folder / "report.json")
    world = WorldModel.load(out)
    whole = WorldModel.load(run)
    pack_reference.rounded(whole)
    assert world.fingerprint() == whole.fingerprint()
    shown, actions = find_example(out)
    video, told = read_start(shown, None), read_actions(actions)
    num_shown = video.shape[1] // world.num_context - 1
    assert video.shape[2:] == (3, 32, 32) and 0 < num_shown < len(told)
    world.text(told)
    card = (out / "README.md").read_text()
    assert world.fingerprint() in card and "seed 7" in card
    assert "slow-fast loop: 3, then 5; batch 2" in card
    assert "0.50 of frame pairs" in card
    assert InverseDynamics.load(out / "inverse").actions == ("walk forward",)
    assert "| data | 3 walks of" in card and "torch 9.9" in card and "Return PSNR" in card


@pytest.mark.slow
def test_what_is_too_large_leaves_the_old_one_there(run, tmp_path, monkeypatch):
    out = tmp_path / "reference"
    pack_reference.pack(run / "model", out)
    before = (out / "README.md").read_bytes()
    monkeypatch.setattr(pack_reference, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"MB; allowed: 0 MB"):
        pack_reference.pack(run / "model", out)
    assert (out / "README.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "reference"]
