"""A learned Θ_0: saved with the model, and where memories begin that use the model."""

from dataclasses import replace

import pytest
import torch

from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.models.world_model import WorldModel
from sfv.storage.weight_files import read_tensors, write_tensors
from tests.training import make
from tests.training.loop import SETTINGS, fit, phase_of
from tests.training.make import make_trainer

LEARNED = replace(SETTINGS, start="learned", max_chunks=1)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    learner, _, trainer = fit(data, 1, LEARNED, trainer=make_trainer(1))
    folder = tmp_path_factory.mktemp("start") / "model"
    learner.world_model.save(folder)
    return folder, trainer.fit_loop.fast_loop.phase.learner.start


def test_rollouts_of_the_model_begin_at_the_learned_start(folder):
    world = WorldModel.load(folder[0])
    settings = GenerationSettings(lora=LEARNED.lora)
    with rollout_of(world, "fast", settings) as rollout:
        assert torch.equal(rollout.learner.fresh("any").theta, folder[1])
        assert max(rollout.learner.weights.drift(folder[1]).values()) > 0


def test_a_loop_that_starts_from_the_model_goes_on_with_its_start(data, folder):
    with phase_of(data, LEARNED, init_from=str(folder[0])) as phase:
        assert torch.equal(phase.learner.start, folder[1])
    with phase_of(data, LEARNED) as phase:
        assert not torch.equal(phase.learner.start, folder[1])
    with phase_of(data, SETTINGS, init_from=str(folder[0])) as phase:
        assert phase.learner.start is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alpha": 4.0}, "has alpha = 2.0, but lora.alpha is 4.0"), ({"r": 3}, "r")],
)
def test_another_shape_of_memory_is_refused(data, folder, change, message):
    settings = replace(LEARNED, lora=replace(LEARNED.lora, **change))
    with (
        pytest.raises(ValueError, match=message),
        phase_of(data, settings, init_from=str(folder[0])),
    ):
        pass


def test_a_model_without_a_start_has_no_file_of_it(data, tmp_path, folder):
    assert (folder[0] / "start.safetensors").exists()
    make.make_learner(data).world_model.save(tmp_path / "model")
    assert not (tmp_path / "model" / "start.safetensors").exists()
    assert WorldModel.load(tmp_path / "model").start is None


def test_a_start_of_another_model_is_an_error(data, folder, tmp_path):
    learner = make.make_learner(data, init_from=str(folder[0]))
    learner.world_model.save(tmp_path / "model")
    start = read_tensors(tmp_path / "model" / "start.safetensors")[0]
    write_tensors(
        tmp_path / "model" / "start.safetensors", {k: v + 1 for k, v in start.items()}, {}
    )
    with pytest.raises(ValueError, match=r"start.safetensors is damaged"):
        WorldModel.load(tmp_path / "model")
