"""A loss that is not finite stops every kind of training, and nothing of it is saved."""

import json
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from sfv.cli import main
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastReport
from sfv.generation.rollout import Rollout
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel
from sfv.storage.weight_files import write_tensors
from sfv.training.checkpoints import check_numbers
from sfv.training.fast_phase import check_report
from sfv.training.finite_loss import FiniteLoss
from tests.training.make import make_datamodule, make_learner, make_trainer
from tests.training.test_fit import flags, short


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


@pytest.mark.parametrize(
    ("rate", "said"), [(1e30, r"slow step 2: the loss is NaN.*now 1e\+30"), (0.05, None)]
)
def test_a_run_that_diverges_stops_and_its_last_checkpoint_is_finite(data, tmp_path, rate, said):
    checkpoint = ModelCheckpoint(
        tmp_path, "newest", every_n_train_steps=1, enable_version_counter=False
    )
    trainer = make_trainer(
        4, [checkpoint, FiniteLoss()], enable_checkpointing=True, default_root_dir=tmp_path
    )
    learner = make_learner(data, optimizer=sgd(rate))
    if said is None:
        trainer.fit(learner, make_datamodule(data))
    else:
        with pytest.raises(ValueError, match=said):
            trainer.fit(learner, make_datamodule(data))
    state = torch.load(tmp_path / "newest.ckpt", weights_only=True)
    assert state["global_step"] == (1 if said else 4)
    check_numbers(state, "")


class Spoiled(FiniteLoss):
    """Puts NaN into the batch of slow step 2."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._step == 2:
            batch["latents"][1, 0, -1] = torch.nan


def test_data_that_are_not_finite_are_named_as_the_cause(data):
    trainer = make_trainer(4, [Spoiled()])
    with pytest.raises(
        ValueError, match=r"slow step 2: the latents of the batch hold NaN .*train-"
    ):
        trainer.fit(make_learner(data), make_datamodule(data))


class Device:
    """Stands for a GPU: `FiniteLoss` looks at the type of its device before it waits for it."""

    type = "cuda"


class OnDevice:
    """A loss there."""

    device = Device()

    def __init__(self, value):
        self.isfinite = torch.tensor(value).isfinite


def test_a_device_is_asked_only_at_logged_steps_and_knows_the_first_bad_one(monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *args, device, **given: zeros(*args, **given))
    watch, trainer = FiniteLoss(), make_trainer(9, log_every_n_steps=5)
    module = pl.LightningModule()
    for step, loss in enumerate([1.0, torch.inf, 1.0, torch.nan, 1.0], start=1):
        watch._step = step
        if step < 5:
            watch.on_train_batch_end(trainer, module, {"loss": OnDevice(loss)}, {}, 0)
    with pytest.raises(ValueError, match="slow step 2: the loss is NaN or infinite"):
        watch.on_train_batch_end(trainer, module, {"loss": OnDevice(1.0)}, {}, 0)
    with pytest.raises(ValueError, match="slow step 2: the loss is NaN or infinite"):
        watch.on_save_checkpoint(trainer, module, {})


def test_a_validation_loss_that_is_not_finite_stops_too(data):
    trainer = make_trainer(2, [FiniteLoss()], limit_val_batches=1.0, val_check_interval=1)
    learner = make_learner(data, optimizer=sgd(1e30))
    with pytest.raises(ValueError, match=r"slow step 1: val/loss is NaN or infinite"):
        trainer.fit(learner, make_datamodule(data))


REPORT = FastReport(0.5, 0.1, 0.2, False)


@pytest.mark.parametrize(
    ("report", "fine"),
    [
        (REPORT, True),
        (replace(REPORT, loss=float("nan")), True),  # no fast step was asked for
        (replace(REPORT, loss=float("inf"), undone=True), True),
        (replace(REPORT, loss=float("inf")), False),
        (replace(REPORT, drift=float("nan")), False),
    ],
)
def test_fast_learning_that_diverges_is_an_error_unless_the_guard_took_it_back(report, fine):
    if fine:
        check_report(report, 7)
        return
    with pytest.raises(ValueError, match=r"chunk pair 7: .*lower slow_fast\.fast\.learning_rate"):
        check_report(report, 7)


def test_sfv_fit_says_so_in_one_line_and_saves_no_model(config_data, tmp_path, capsys):
    out = tmp_path / "run"
    hot = ["--model.optimizer.init_args.lr=1e30", "--model.lr_scheduler=null"]
    limits = ["--trainer.limit_val_batches=0", "--trainer.gradient_clip_val=null"]
    assert main(["fit", *flags(config_data), *short(out, 4), *hot, *limits]) == 2
    said = capsys.readouterr().err
    assert "sfv fit: slow step 2: the loss is NaN or infinite" in said and "1e+30" in said
    assert not list((out / "model").glob("*"))


def test_a_rollout_whose_latents_are_not_finite_is_an_error(data, tmp_path):
    """The weights are finite, and too large for what they compute."""
    world = make_learner(data).world_model
    with torch.no_grad():
        world.denoiser.unet.conv_out.weight.fill_(1e38)
    world.save(tmp_path / "model")
    WorldModel.load(tmp_path / "model")
    rollout = Rollout(world, SamplerSettings(num_inference_steps=2))
    with pytest.raises(ValueError, match=r"chunk 1 of walk came out as NaN or infinite: the start"):
        rollout.run("walk", torch.randn(1, 5, 3, 4, 6), ["turn left"])


def test_a_codec_that_is_not_finite_is_neither_fitted_nor_read(tmp_path):
    frames = torch.full((2, 3, 8, 8), torch.nan)
    with pytest.raises(ValueError, match="the codec cannot be fitted to these frames"):
        PCAPatchCodec(latent_channels=4, patch=4).fit(frames)
    with pytest.raises(ValueError, match="is not written"):
        write_tensors(tmp_path / "codec", {"mean": frames}, {"sizes": json.dumps([1])})
