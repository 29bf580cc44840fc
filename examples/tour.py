"""Fast learning in 60 lines of library calls: `python -m examples.tour`, under a minute on one CPU core.

Films two walks in the engine of Doom, trains a tiny Φ on one for 24 slow steps, and lets Θ learn the
other chunk by chunk. Such a Φ makes no pictures worth looking at; the numbers show what Θ does.
"""

import tempfile
from pathlib import Path

import torch

from data_tools.collect import doom
from data_tools.collect.runner import collect
from sfv import rng
from sfv.backbones.video_unet import VideoUNet
from sfv.data.schema import from_json
from sfv.diffusion.objective import draw_timesteps, masked_conditional_loss
from sfv.diffusion.sampler import SamplerSettings
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.rollout import Rollout
from sfv.generation.tasks import read_start
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel

CHUNK, CHUNKS = 8, 5


def film(folder: Path, split: str) -> tuple[torch.Tensor, list[str]]:
    """A walk of 40 frames on a map of this split, `1 t 3 64 64`, and its actions."""
    words = f"--out {folder} --split {split} --walk return --chunks {CHUNKS}"
    settings = doom.settings_of(doom.parser().parse_args(words.split()))
    (row,) = collect(settings, folder, episodes=1, workers=1, resume=False)["walks"]
    meta = from_json((folder / f"{row['id']}.json").read_text())
    return read_start(folder / f"{meta.id}.mp4", CHUNK * CHUNKS), [a.text for a in meta.actions]


def train(model: WorldModel, latents: torch.Tensor, actions: list[str], num_steps: int) -> float:
    """Slow learning in a plain loop: windows of two chunks, the loss on the second alone."""
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    for step in range(num_steps):
        generator = rng.stream(0, "tour", step)
        first = step % (CHUNKS - 1)
        window = latents[:, :, first * CHUNK : (first + 2) * CHUNK]
        noise = torch.randn(window.shape, generator=generator)
        t = draw_timesteps(1, model.schedule, generator)
        text = model.text([actions[first + 1] if step % 5 else ""])  # Θ learns without text
        args = (model.denoiser, window, text, noise, t, CHUNK, model.schedule)
        loss = masked_conditional_loss(*args).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main() -> None:
    """Film, train slowly, learn fast, generate."""
    with tempfile.TemporaryDirectory() as folder:
        other, other_actions = film(Path(folder, "train"), "train")
        walk, actions = film(Path(folder, "test"), "test")
    codec = PCAPatchCodec().fit(other[0])
    names = sorted({*actions, *other_actions})
    schedule = NoiseSchedule(prediction_type="v_prediction")
    unet, text = VideoUNet("tiny", text_dim=64), ActionTable(names, text_dim=64)
    model = WorldModel(unet, codec, text, schedule, CHUNK, CHUNK)
    loss = train(model, codec.encode(other), other_actions, 24)
    print(f"Φ: 24 slow steps on another walk, loss {loss:.3f}")

    latents = codec.encode(walk)
    with TemporalLoRA(unet, r=16, alpha=16.0) as lora:
        settings = FastSettings(num_steps=4, learning_rate=1e-3, probe_draws=4)
        learner = FastLearner(unet, lora, schedule, text, CHUNK, settings)
        rollout = Rollout(model, SamplerSettings(num_inference_steps=4), learner)
        shown = latents[:, :, CHUNK:]  # the true walk is shown, so that Θ learns it
        chunks = rollout.run("walk", latents[:, :, :CHUNK], actions[1:], shown=shown)
    for chunk in chunks:
        report = chunk.learned
        assert report is not None
        print(
            f"chunk {chunk.chunk_idx + 1}, {chunk.action:<13}: learned in {report.seconds:.1f} s, "
            f"held-out loss down by {report.gain:.4f}, drift {report.drift:.3f}"
        )
    print(f"Θ holds {lora.num_weights:,} numbers; Φ is what it was")


if __name__ == "__main__":
    main()
