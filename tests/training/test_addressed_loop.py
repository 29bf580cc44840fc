"""The slow-fast loop with an addressed memory: what is written in it, and what slow steps read."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.sampler import SamplerSettings
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.addressed_learner import AddressedLearner, AddressedSettings
from sfv.training.slow_fast import SlowFastSettings, fit_slow_fast, validate_slow_fast
from tests.models.test_address import in_the_world, walked
from tests.training import make
from tests.training.loop import learned, numbered, phase_of
from tests.training.make import make_datamodule, make_trainer, same, weights_of
from tests.training.test_loop_resume import SaveAt
from tests.world import ADDRESS, tiny_wan

SETTINGS = SlowFastSettings(memory="addressed", episodes_per_group=2, slow_batch_size=2, seed=11)
FLOW = NoiseSchedule(prediction_type="flow_prediction")
PAIRS = 2
P, G = 3, 2


def learner_of(data, **changes):
    settings = {
        "denoiser": tiny_wan(text_dim=6),
        "schedule": FLOW,
        "address": ADDRESS,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        **changes,
    }
    return make.make_learner(data, **settings)


class Record(pl.Callback):
    """What the denoiser was told at every slow step, and its table of the memory at each place."""

    def __init__(self):
        self.keys, self.readings, self.losses, self.tables = [], [], [], []

    def table(self, module):
        told = module.denoiser.memory_input
        self.tables.append((bool(told.is_calibrated), told.gain.clone(), told.variance.clone()))

    def on_fast_phase_start(self, trainer, pl_module, num_pairs):
        self.table(pl_module)

    def on_slow_phase_start(self, trainer, pl_module, num_batches):
        self.table(pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.readings.append(pl_module.denoiser.memory_input.reading)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(batch["keys"])
        self.losses.append(outputs["loss"].detach().clone())


def run(data, steps=4, settings=SETTINGS, callbacks=(), resume=None, folder=None, **changes):
    learner, record = learner_of(data, **changes), Record()
    place = {} if folder is None else {"default_root_dir": folder}
    trainer = make_trainer(steps, [*callbacks, record], **place)
    fit_slow_fast(trainer, learner, make_datamodule(data, "episodes"), settings, resume)
    return learner, record


@pytest.fixture(scope="module")
def trained(data):
    """Four slow steps of two pairs: of a group of two episodes, one of one, and one of two again."""
    return run(data)


def written_by_hand(episodes, settings=AddressedSettings()):  # noqa: B008 (frozen)
    """(r, u) of every pair before it was written, by its key; Φ has no part in it."""
    learner = AddressedLearner(tiny_wan(text_dim=6), ADDRESS, P, G, settings)
    found = {}
    for episode in episodes:
        pairs = torch.split(episode["pairs"], 1)
        memory = learner.fresh(episode["key"], pairs[0][:, :, :P])
        for i, (pair, action) in enumerate(zip(pairs, episode["actions"], strict=True)):
            found[f"{episode['key']}/{i}"] = learner.read([memory], [action])
            learner.learn([memory], pair, [action])
    return found


def test_a_slow_step_reads_what_its_own_memory_said_before_the_pair(data, trained):
    _, record = trained
    expected = written_by_hand([episode for _, episode in numbered(data)])
    assert len(record.readings) == 4
    assert [len(keys) for keys in record.keys] == [2] * 4
    for keys, reading in zip(record.keys, record.readings, strict=True):
        for i, key in enumerate(keys):
            assert torch.equal(reading.values[i], expected[key].values[0]), key
            assert torch.equal(reading.uncertainty[i], expected[key].uncertainty[0]), key
    uncertainty = torch.cat([reading.uncertainty for reading in record.readings])
    assert len(uncertainty.unique(dim=0)) > 1, "they are not all alike"


def test_the_denoiser_is_calibrated_once_between_the_first_phases(trained):
    learner, record = trained
    is_calibrated, gains, variances = zip(*record.tables, strict=True)
    assert is_calibrated == (False, *5 * [True])
    assert not torch.equal(gains[0], gains[1])
    assert all(torch.equal(gain, gains[1]) for gain in gains[2:])
    assert all(torch.equal(variance, variances[1]) for variance in variances[2:])
    assert torch.equal(learner.denoiser.memory_input.gain, gains[1])
    assert learner.denoiser.memory_input.reading is None


def test_two_runs_are_identical(data, trained):
    learner, record = run(data)
    assert torch.equal(torch.stack(record.losses), torch.stack(trained[1].losses))
    assert same(weights_of(learner), weights_of(trained[0]))
    assert not same(weights_of(learner), weights_of(learner_of(data))), "Φ has learned"


@pytest.mark.parametrize(("place", "count"), [("batch end", 1), ("fast chunk", 3)])
def test_a_run_cut_in_a_group_goes_on_exactly(data, tmp_path, trained, place, count):
    """In the middle of the first slow phase, and inside the second fast phase."""
    path = tmp_path / "a.ckpt"
    with pytest.raises(RuntimeError, match="stopped"):
        run(data, callbacks=[SaveAt(path, place, count)], folder=tmp_path)
    learner, record = run(data, resume=str(path), folder=tmp_path)
    num = len(record.losses)
    assert 0 < num < 4
    assert torch.equal(torch.stack(record.losses), torch.stack(trained[1].losses[-num:]))
    assert same(weights_of(learner), weights_of(trained[0]))


def test_plain_batches_read_nothing(data):
    _, record = run(data, steps=2, settings=replace(SETTINGS, plain_share=1.0))
    assert record.readings == [None, None]


def test_validation_scores_each_pair_with_the_memory_before_it(data):
    learner = learner_of(data)
    told, losses = [], []
    learner.denoiser.register_forward_pre_hook(
        lambda module, _: told.append(module.memory_input.reading)
    )
    for _ in range(2):
        trainer = make_trainer(1, limit_val_batches=1.0)
        losses.append(
            validate_slow_fast(trainer, learner, make_datamodule(data, "episodes"), SETTINGS)
        )
    assert losses[0] == losses[1] > 0
    (episode,) = make_datamodule(data, "episodes").val_dataloader()
    expected = written_by_hand([episode])
    assert len(told) == 2 * PAIRS
    for reading, by_hand in zip(told, [*expected.values()] * 2, strict=True):
        assert torch.equal(reading.values, by_hand.values)
        assert torch.equal(reading.uncertainty, by_hand.uncertainty)
    assert learner.denoiser.memory_input.reading is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"address": None},
            r"memory is addressed, but the model has no address: set model\.address",
        ),
        ({"context_dropout": 0.5}, r"context_dropout is 0\.5, .*set context_dropout to 0"),
        ({"denoiser": VideoUNet("tiny", 5, 6)}, "no input channels for an addressed memory"),
    ],
)
def test_a_model_that_cannot_read_such_a_memory_is_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        run(data, **change)


@pytest.mark.parametrize("change", [{"start": "learned"}, {"memory_scope": "scene"}])
def test_what_an_addressed_memory_does_not_have_is_refused(change):
    with pytest.raises(
        ValueError, match=r"addressed memory; allowed: fresh, episode: it has no Θ_0"
    ):
        replace(SETTINGS, **change)


def recorded(data):
    """Episodes with poses as a world records them, of their own actions."""
    for _, episode in numbered(data):
        poses = torch.cat([ADDRESS.origin()[None], walked(ADDRESS, episode["actions"], G)])
        places = in_the_world(poses)
        rows = [places[G * i : G * i + G + 1] for i in range(len(episode["actions"]))]
        yield {**episode, "poses": torch.stack(rows)}


@pytest.mark.parametrize("inner_pairs", ["true", "generated"])
def test_recorded_poses_reach_the_inner_phase(data, inner_pairs):
    """Also where it learns from chunks that the model generates."""
    sampler = SamplerSettings("ddim", num_inference_steps=1)
    settings = replace(SETTINGS, inner_pairs=inner_pairs, sampler=sampler)
    uncertainty = []
    for addressed in (AddressedSettings(), AddressedSettings(odometry="recorded")):
        with phase_of(data, replace(settings, addressed=addressed), **phase_parts()) as phase:
            items = learned(phase, list(recorded(data)))
            uncertainty.append(torch.stack([item.theta()[-G:] for item in items]))
    torch.testing.assert_close(*uncertainty, atol=1e-4, rtol=1e-3)
    rows = phase_of(data, replace(settings, addressed=addressed), **phase_parts())
    with rows as phase, pytest.raises(ValueError, match="has no poses; take odometry: actions"):
        learned(phase, [episode for _, episode in numbered(data)])


def phase_parts():
    return {"denoiser": tiny_wan(text_dim=6), "schedule": FLOW, "address": ADDRESS}


def test_calibration_takes_latents_of_one_size(data):
    """A group may hold several; those of the first are used."""
    episodes = [episode for _, episode in numbered(data)]
    small = {**episodes[1], "pairs": episodes[1]["pairs"][..., :4]}
    tables = []
    for group in ([episodes[0], small], [episodes[0]]):
        with phase_of(data, SETTINGS, **phase_parts()) as phase:
            learned(phase, group)
            phase.calibrate()
            tables.append(phase.slow.denoiser.memory_input.gain.clone())
            assert phase.slow.denoiser.memory_input.is_calibrated
    assert torch.equal(*tables)


def test_the_noise_of_poses_is_part_of_what_slow_steps_read(data):
    def seen(settings):
        with phase_of(data, replace(SETTINGS, addressed=settings), **phase_parts()) as phase:
            return [item.theta() for item in learned(phase, [next(recorded(data))])]

    plain, noisy, again = (
        seen(settings)
        for settings in (AddressedSettings(), *2 * [AddressedSettings(pose_noise=(5, 4))])
    )
    assert torch.equal(plain[0], noisy[0]), "the first pair is read before any is written"
    assert not torch.equal(plain[1], noisy[1])
    assert all(torch.equal(one, two) for one, two in zip(noisy, again, strict=True))
