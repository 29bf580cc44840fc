import pytest
import torch

from sfv.diffusion.objective import (
    all_frames_loss,
    draw_timesteps,
    masked_conditional_loss,
    noise_context,
    noise_targets,
)
from sfv.diffusion.schedule import NoiseSchedule
from sfv.rng import stream

B, C, T, H, W, NUM_CONTEXT = 2, 3, 7, 4, 5, 4


class Affine:
    """A denoiser whose output is known: it depends on latents, timestep, text and context."""

    latent_channels, text_dim = C, 6

    def __call__(self, latents, timestep, text, num_context):
        self.seen, self.num_context = latents, num_context
        shift = text.mean(dim=(1, 2)) + timestep / 1000
        return 0.5 * latents + shift.view(-1, 1, 1, 1, 1)


@pytest.fixture
def batch():
    generator = stream(0, "objective-test")
    return {
        "latents": torch.randn(B, C, T, H, W, generator=generator),
        "text": torch.randn(B, 2, 6, generator=generator),
        "noise": torch.randn(B, C, T, H, W, generator=generator),
        "timestep": torch.tensor([37, 912]),
    }


def loop_loss(batch, schedule, num_context):
    """Eq. 2, one sample and frame at a time."""
    losses = []
    for b in range(B):
        t = int(batch["timestep"][b])
        kept = schedule.alphas_cumprod()[t]
        squares = []
        for frame in range(num_context, T):
            clean, noise = batch["latents"][b, :, frame], batch["noise"][b, :, frame]
            noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
            prediction = 0.5 * noisy + batch["text"][b].mean() + t / 1000
            target = noise
            if schedule.prediction_type == "v_prediction":
                target = kept.sqrt() * noise - (1 - kept).sqrt() * clean
            squares.append((prediction - target).square().mean())
        losses.append(torch.stack(squares).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_context", [0, 1, NUM_CONTEXT, T - 1])
def test_masked_conditional_loss_equals_a_plain_loop(batch, prediction_type, num_context):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    loss = masked_conditional_loss(Affine(), **batch, num_context=num_context, schedule=schedule)
    torch.testing.assert_close(loss, loop_loss(batch, schedule, num_context))


def test_all_frames_loss_equals_a_plain_loop_over_all_frames(batch):
    denoiser, schedule = Affine(), NoiseSchedule()
    loss = all_frames_loss(denoiser, **batch, schedule=schedule)
    torch.testing.assert_close(loss, loop_loss(batch, schedule, 0))
    assert denoiser.num_context == 0


def test_the_context_stays_clean_bit_for_bit_and_the_rest_is_noised(batch):
    schedule = NoiseSchedule()
    noisy = noise_targets(
        batch["latents"], batch["noise"], batch["timestep"], NUM_CONTEXT, schedule
    )
    assert torch.equal(noisy[:, :, :NUM_CONTEXT], batch["latents"][:, :, :NUM_CONTEXT])
    expected = schedule.add_noise(batch["latents"], batch["noise"], batch["timestep"])
    assert torch.equal(noisy[:, :, NUM_CONTEXT:], expected[:, :, NUM_CONTEXT:])


def test_the_denoiser_sees_the_clean_context_and_is_told_its_length(batch):
    denoiser = Affine()
    masked_conditional_loss(denoiser, **batch, num_context=NUM_CONTEXT, schedule=NoiseSchedule())
    assert torch.equal(denoiser.seen[:, :, :NUM_CONTEXT], batch["latents"][:, :, :NUM_CONTEXT])
    assert denoiser.num_context == NUM_CONTEXT


def test_the_loss_ignores_what_is_predicted_for_context_frames(batch):
    class Wrong(Affine):
        def __call__(self, latents, timestep, text, num_context):
            output = super().__call__(latents, timestep, text, num_context)
            return torch.cat([output[:, :, :num_context] + 1e3, output[:, :, num_context:]], dim=2)

    settings = {**batch, "num_context": NUM_CONTEXT, "schedule": NoiseSchedule()}
    right = masked_conditional_loss(Affine(), **settings)
    assert torch.equal(masked_conditional_loss(Wrong(), **settings), right)


def test_each_sample_has_its_own_loss(batch):
    settings = {**batch, "num_context": NUM_CONTEXT, "schedule": NoiseSchedule()}
    before = masked_conditional_loss(Affine(), **settings)
    settings["noise"] = batch["noise"].clone()
    settings["noise"][1] += 1
    after = masked_conditional_loss(Affine(), **settings)
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("num_context", [-1, T, T + 2])
def test_a_context_that_leaves_no_frame_to_generate_is_refused(batch, num_context):
    with pytest.raises(ValueError, match=f"num_context is {num_context} in a window of 7 frames"):
        masked_conditional_loss(
            Affine(), **batch, num_context=num_context, schedule=NoiseSchedule()
        )


def test_timesteps_cover_the_whole_range_and_nothing_else():
    schedule = NoiseSchedule(num_train_timesteps=20)
    drawn = draw_timesteps(2000, schedule, stream(0, "timesteps"))
    assert drawn.unique().tolist() == list(range(20))
    part = draw_timesteps(2000, schedule, stream(0, "timesteps"), low=0.25, high=0.6)
    assert part.unique().tolist() == list(range(5, 12))


def test_timesteps_come_from_the_generator_alone():
    first = draw_timesteps(9, NoiseSchedule(), stream(5, "timesteps", 1))
    torch.rand(3)
    assert torch.equal(first, draw_timesteps(9, NoiseSchedule(), stream(5, "timesteps", 1)))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.7, 0.2), (-0.1, 0.5), (0.0, 1.2)])
def test_an_impossible_timestep_range_is_refused(low, high):
    with pytest.raises(ValueError, match=f"low={low}, high={high} must satisfy"):
        draw_timesteps(3, NoiseSchedule(), stream(0, "timesteps"), low, high)


def test_context_noise_reaches_the_context_alone_and_its_level_differs_by_sample():
    latents = torch.zeros(64, C, T, H, W)
    noisy = noise_context(latents, NUM_CONTEXT, 0.5, stream(0, "context-noise-test"))
    assert torch.equal(noisy[:, :, NUM_CONTEXT:], latents[:, :, NUM_CONTEXT:])
    level = noisy[:, :, :NUM_CONTEXT].flatten(1).std(dim=1)
    assert level.max() < 0.55 and level.min() < 0.1
    assert level.mean() == pytest.approx(0.25, abs=0.05)  # uniform from 0 to 0.5
