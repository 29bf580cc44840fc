import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from sfv.training.ema import AVERAGE, EMA
from tests.training.make import make_datamodule, make_learner, make_trainer, same, weights_of
from tests.training.rank_jobs import Record, adam


def fit(data, average, steps, resume=None, **changes):
    learner, record = make_learner(data, optimizer=adam), Record()
    settings = {"limit_val_batches": 1, "val_check_interval": 1, **changes}
    trainer = make_trainer(steps, [record, *average], **settings)
    trainer.fit(learner, make_datamodule(data), ckpt_path=resume, weights_only=True)
    return weights_of(learner), record


def test_it_averages_as_lightning_does(data):
    """Every validation scores the average, and the run ends with it."""
    stock, scores = fit(data, [EMAWeightAveraging(decay=0.5, use_buffers=False)], 3)
    ours, record = fit(data, [EMA(decay=0.5)], 3)
    for name, weight in stock.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-7)
    assert record.scores == pytest.approx(scores.scores, rel=1e-6)
    assert record.losses == scores.losses, "training goes on with the weights themselves"
    assert not same(ours, fit(data, [], 3)[0])


def test_it_starts_late_and_counts_accumulated_batches_once(data):
    stock = EMAWeightAveraging(decay=0.5, use_buffers=False, update_starting_at_step=1)
    settings = {"accumulate_grad_batches": 2, "limit_val_batches": 0}
    expected, _ = fit(data, [stock], 3, **settings)
    ours, _ = fit(data, [EMA(decay=0.5, update_starting_at_step=1)], 3, **settings)
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("moment", ["on_train_batch_end", "on_validation_batch_end"])
def test_a_run_goes_on_with_weights_and_average_whenever_it_was_saved(data, tmp_path, moment):
    """Also from a checkpoint of the middle of validation, where the two have changed places."""
    expected, _ = fit(data, [EMA(decay=0.5)], 3)

    class Save(Record):
        pass

    def save(self, trainer, *rest):
        if trainer.global_step == 2:
            trainer.save_checkpoint(tmp_path / "two.ckpt")

    setattr(Save, moment, save)
    fit(data, [EMA(decay=0.5), Save()], 2)
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert saved[AVERAGE].keys() == saved["state_dict"].keys() - {
        name for name in saved["state_dict"] if name.startswith("codec.")
    }
    ours, _ = fit(data, [EMA(decay=0.5)], 3, str(tmp_path / "two.ckpt"))
    assert same(ours, expected)


def test_a_checkpoint_from_a_run_without_average_starts_one(data, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="newest", every_n_train_steps=1)
    fit(data, [checkpoint], 1, enable_checkpointing=True)
    plain, _ = fit(data, [], 2, str(tmp_path / "newest.ckpt"))
    ours, _ = fit(data, [EMA(decay=0.5)], 2, str(tmp_path / "newest.ckpt"))
    assert same(ours, plain), "its first step is its average"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay": 1.0}, "decay of the average is 1.0; allowed: at least 0, below 1"),
        ({"decay": -0.1}, "decay of the average is -0.1"),
        ({"update_starting_at_step": -1}, "update_starting_at_step is -1; allowed: 0 or more"),
        ({"use_buffers": True}, "only weights are averaged; set it to false"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, said):
    with pytest.raises(ValueError, match=said):
        EMA(**settings)
