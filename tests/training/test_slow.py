import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from sfv import rng
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel
from sfv.training.fit import train
from tests.training.make import (
    make_data,
    make_datamodule,
    make_learner,
    make_trainer,
    same,
    weights_of,
)


class Record(pl.Callback):
    """Keeps what every slow step saw, and the loss it had."""

    def __init__(self):
        self.batches, self.losses, self.weights = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.losses.append(outputs["loss"].detach().clone())
        self.weights.append(weights_of(pl_module.denoiser))


class Validations(pl.Callback):
    """The loss of every validation, and the slow step it came after."""

    def __init__(self):
        self.steps, self.losses = [], []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
        self.losses.append(trainer.callback_metrics["val/loss"].item())


def still(parameters):
    """An optimiser that changes nothing, so that losses can be computed again afterwards."""
    return torch.optim.SGD(parameters, lr=0.0)


def run(data, steps, **changes):
    learner, record = make_learner(data, **changes), Record()
    make_trainer(steps, [record]).fit(learner, make_datamodule(data))
    return learner, record


@torch.no_grad()
def denoising_loss(learner, latents, actions, generator, num_context=3):
    """Eq. 1 and 2 with the timestep, then the noise, drawn from `generator`."""
    timestep = draw_timesteps(len(actions), learner.schedule, generator)
    noise = torch.randn(latents.shape, generator=generator)
    text, schedule = learner.text(actions), learner.schedule
    return masked_conditional_loss(
        learner.denoiser, latents, text, noise, timestep, num_context, schedule
    ).mean()


def slow_loss(learner, batch, step, text_dropout, context_noise=0.0):
    """One slow step's loss from its definition."""
    generator = rng.stream(7, "slow-noise", step, step, 0)
    drop = torch.rand(len(batch["actions"]), generator=generator) < text_dropout
    actions = ["" if d else a for d, a in zip(drop, batch["actions"], strict=True)]
    latents = batch["latents"].clone()
    if context_noise:
        draws = rng.stream(7, "context-noise", step, step, 0)
        level = context_noise * torch.rand(len(latents), generator=draws).view(-1, 1, 1, 1, 1)
        latents[:, :, :3] += level * torch.randn(latents[:, :, :3].shape, generator=draws)
    return denoising_loss(learner, latents, actions, generator)


def test_noise_is_a_function_of_seed_and_step_alone(data):
    """The loss follows from (seed, step); what else drew random numbers does not matter."""
    torch.manual_seed(123)
    learner, record = run(data, 3, optimizer=still, text_dropout=0.5)
    for step, (batch, loss) in enumerate(zip(record.batches, record.losses, strict=True)):
        expected = slow_loss(learner, batch, step, 0.5)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.manual_seed(456)
    _, again = run(data, 3, optimizer=still, text_dropout=0.5)
    assert torch.equal(torch.stack(record.losses), torch.stack(again.losses))
    _, other = run(data, 3, optimizer=still, text_dropout=0.5, seed=8)
    assert not torch.equal(record.losses[0], other.losses[0])


@pytest.mark.parametrize(("dropout", "trained"), [(1.0, {""}), (0.0, {"turn left", "turn right"})])
def test_text_dropout_decides_which_texts_are_trained(data, dropout, trained):
    """Every window is seen once; with f_p = 3 the first two actions have no window."""
    before = make_learner(data).text.table.detach()
    learner, _ = run(data, 3, text_dropout=dropout)
    rows = zip(learner.text.actions, before, learner.text.table, strict=True)
    assert {action for action, old, new in rows if not torch.equal(old, new)} == trained


def test_context_noise_is_drawn_from_a_stream_of_its_own(data):
    """Timesteps and targets' noise are those of a run without it; the batch itself stays clean."""
    learner, record = run(data, 3, optimizer=still, context_noise=0.8)
    for step, (batch, loss) in enumerate(zip(record.batches, record.losses, strict=True)):
        expected = slow_loss(learner, batch, step, 0.1, 0.8)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        assert not torch.isclose(loss, slow_loss(learner, batch, step, 0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan")])
def test_a_context_noise_out_of_range_says_what_is_allowed(data, noise):
    with pytest.raises(ValueError, match=f"context_noise is {noise}; allowed: 0 and above"):
        make_learner(data, context_noise=noise)


def test_a_step_without_context_noises_and_supervises_every_frame_under_no_action(data):
    """Which steps do is decided by a stream of its own: with this seed the second of three."""
    learner, record = run(data, 3, optimizer=still, context_dropout=0.5, context_noise=0.8)
    draws = [rng.stream(7, "context-dropout", step, step, 0) for step in range(3)]
    dropped = [float(torch.rand((), generator=generator)) < 0.5 for generator in draws]
    assert dropped == [False, True, False]
    for step, (batch, loss) in enumerate(zip(record.batches, record.losses, strict=True)):
        if dropped[step]:
            generator = rng.stream(7, "slow-noise", step, step, 0)
            torch.rand(len(batch["actions"]), generator=generator)  # which texts are dropped
            nothing = [""] * len(batch["actions"])
            expected = denoising_loss(learner, batch["latents"], nothing, generator, 0)
        else:
            expected = slow_loss(learner, batch, step, 0.1, 0.8)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_context_dropout_out_of_range_says_what_is_allowed(data, dropout):
    with pytest.raises(ValueError, match=f"context_dropout is {dropout}; allowed: 0 to below 1"):
        make_learner(data, context_dropout=dropout)


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_a_text_dropout_out_of_range_says_what_is_allowed(data, dropout):
    with pytest.raises(ValueError, match=f"text_dropout is {dropout}; allowed: 0 to 1"):
        make_learner(data, text_dropout=dropout)


def test_validation_has_fixed_noise_and_drops_no_text(data):
    """Φ rests, so every validation must give the loss that follows from the definition."""
    learner, found = make_learner(data, optimizer=still, text_dropout=1.0), Validations()
    datamodule = make_datamodule(data, batch_size=1)
    trainer = make_trainer(3, [found], limit_val_batches=1.0, val_check_interval=1)
    trainer.fit(learner, datamodule)
    by_hand = [
        float(
            denoising_loss(
                learner, batch["latents"], batch["actions"], rng.stream(7, "val-noise", i, 0)
            )
        )
        for i, batch in enumerate(datamodule.val_dataloader())
    ]
    assert len(by_hand) == 2
    assert found.losses == [pytest.approx(sum(by_hand) / 2, rel=1e-5)] * 3
    assert len(set(found.losses)) == 1


def test_phi_and_the_learned_text_take_gradients_and_the_codec_none(data):
    codec = PCAPatchCodec.load(data.codec)
    codec.weight = torch.nn.Parameter(torch.ones(2))  # learned codecs have parameters
    learner, trainer = make_learner(data, codec), make_trainer(1)
    before = weights_of(learner.codec)
    trainer.fit(learner, make_datamodule(data))
    assert same(before, weights_of(learner.codec))
    assert not codec.weight.requires_grad
    (optimizer,) = trainer.optimizers
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = [*learner.denoiser.parameters(), *learner.text.parameters()]
    assert trained == {id(p) for p in wanted}


def test_init_from_takes_over_phi_and_text(data, tmp_path):
    trained, _ = run(data, 1)
    trained.world_model.save(tmp_path / "model")
    fresh = make_learner(data)
    assert not same(weights_of(fresh), weights_of(trained))
    started = make_learner(data, init_from=str(tmp_path / "model"))
    assert same(weights_of(started), weights_of(trained))
    assert all(p.requires_grad for p in started.denoiser.parameters())


def test_init_from_a_model_with_another_codec_names_both(data, tmp_path):
    make_learner(data).world_model.save(tmp_path / "model")
    other = make_data(tmp_path / "other", 5, 2, (4, 6), 4, seed=1)
    with pytest.raises(ValueError, match=r"trained with codec PCAPatchCodec \w{16}, but .* \w{16}"):
        make_learner(other, init_from=str(tmp_path / "model"))


def test_the_saved_model_holds_the_averaged_weights(data, tmp_path):
    record, average = Record(), EMAWeightAveraging(decay=0.5, use_buffers=False)
    trainer = make_trainer(3, [record, average])
    train(trainer, make_learner(data), make_datamodule(data), None, tmp_path, {})
    saved = WorldModel.load(tmp_path / "model").denoiser.state_dict()
    expected = record.weights[0]  # the average starts as the first weights it is given
    for weights in record.weights[1:]:
        expected = {name: 0.5 * expected[name] + 0.5 * weights[name] for name in expected}
    for name, value in saved.items():
        torch.testing.assert_close(value, expected[name])
    assert not same(saved, record.weights[-1])


def test_two_runs_give_identical_weights_and_another_seed_differs(data):
    first, second, other = (run(data, 2, seed=s)[0] for s in (7, 7, 8))
    assert same(weights_of(first), weights_of(second))
    assert not same(weights_of(first), weights_of(other))


def test_the_model_keeps_the_size_of_its_training_frames(data):
    learner, record = run(data, 2)
    height, width = record.batches[0]["latents"].shape[3:]
    factor = learner.codec.spatial_factor
    assert learner.world_model.frame_size == (height * factor, width * factor)
    checkpoint = {}
    learner.on_save_checkpoint(checkpoint)
    resumed = make_learner(data)
    resumed.on_load_checkpoint(checkpoint)
    assert resumed.world_model.frame_size == learner.world_model.frame_size
    resumed.on_load_checkpoint({"latent_sizes": [(1, 1)]})
    assert resumed.world_model.frame_size is None, "trained on two sizes: neither is the one"
