"""What fast learning costs a generated chunk, and what a batch of episodes saves.

python -m benchmarks.fast_learning [--quick] --json FILE

1. The overhead at the paper's setting (16 + 16 frames, 50 DDIM steps, guidance, K = 2), tiny preset: a
   chunk with fast learning against one without, beside the floor that the count of FLOPs sets: K forward
   passes of Φ and K backward passes through its frozen layers. "stock" is diffusers' U-Net with PEFT's
   layers.
2. Eight episodes at the demo's setting in one batch, each with its own Θ, against eight runs of diffusers
   and PEFT one after another; and how much of that is the batch, how much the CPU paths and the adapter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from benchmarks.cpu_unet import SCHEDULE, pair
from benchmarks.side_by_side import Work, arguments, compare, flops, machine, write_table
from sfv.backbones.video_unet import VideoUNet
from sfv.diffusion.objective import all_frames_loss, draw_timesteps
from sfv.diffusion.sampler import SamplerSettings, sample_chunk, starting_point
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.modes import autocast
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.generation.rollout import Request, Rollout
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.schedulers import make_scheduler
from sfv.models.text import ActionTable
from sfv.models.world_model import WorldModel
from sfv.rng import stream

CPU, CHANNELS, SIZE, TEXT_DIM, RANK, SEED = torch.device("cpu"), 16, 8, 64, 32, 0
ACTION = "walk forward"
EPISODES = 8


@dataclass(frozen=True)
class Setting:
    """One way to make videos.

    Args:
        chunk_frames: f_p = f_g.
        sampler: sampling steps and guidance.
        num_chunks: chunks of one work.
        fast: how Θ learns.
    """

    chunk_frames: int
    sampler: SamplerSettings
    num_chunks: int
    fast: FastSettings


BARE = FastSettings(num_steps=2, probe_draws=0, guard=None)
PAPER = Setting(16, SamplerSettings("ddim", 50, 7.5), 1, BARE)
DEMO = Setting(8, SamplerSettings("ddim", 4), 2, BARE)


def world_of(denoiser: VideoUNet, frames: int) -> WorldModel:
    """A world model around a U-Net; its codec is not used."""
    codec = PCAPatchCodec(latent_channels=CHANNELS, patch=8)
    codec.fit(torch.rand(8, 3, 64, 64, generator=stream(SEED, "benchmark-frames")))
    text = ActionTable((ACTION,), text_dim=TEXT_DIM)
    for part in (denoiser, codec, text):
        part.requires_grad_(False).eval()
    return WorldModel(denoiser, codec, text, SCHEDULE, frames, frames)


def starts(setting: Setting, num: int) -> list[Tensor]:
    """First frames of some episodes."""
    shape = (1, CHANNELS, setting.chunk_frames, SIZE, SIZE)
    return [torch.randn(shape, generator=stream(SEED, "benchmark-start", i)) for i in range(num)]


def ours(
    world: WorldModel, setting: Setting, num: int, lora: TemporalLoRA | None, at_once: int
) -> Callable[[], list[Tensor]]:
    """Videos of `num` episodes, `at_once` in a batch; with fast learning where there is a LoRA."""
    learner = None
    if lora is not None:
        learner = FastLearner(
            world.denoiser,
            lora,
            SCHEDULE,
            world.text,
            world.num_context,
            setting.fast,
            SEED,
            "bf16",
        )
    rollout = Rollout(world, setting.sampler, learner, SEED, "bf16")
    actions = [ACTION] * setting.num_chunks
    requests = [Request(f"e{i}", s, actions) for i, s in enumerate(starts(setting, num))]

    def work() -> list[Tensor]:
        made = []
        for first in range(0, num, at_once):
            made += rollout.run_many(requests[first : first + at_once])
        return [torch.cat([chunk.kept for chunk in chunks], dim=2) for chunks in made]

    return work


class Stock:
    """The same rollout as a user of diffusers and PEFT writes it: one episode, PEFT's layers, Adam.

    Args:
        world: around a stock U-Net; PEFT's layers are put into it.
        setting: the same as ours.
        lora: names the layers and draws Θ.
    """

    def __init__(self, world: WorldModel, setting: Setting, lora: TemporalLoRA) -> None:
        self.world, self.setting, self.lora = world, setting, lora
        names = [layer.name for layer in lora.layers]
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names)
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, world.denoiser, "memory")
        named = world.denoiser.named_parameters()
        self.theta = {n.replace(".memory.", "."): p for n, p in named if ".lora_" in n}
        sampler = setting.sampler
        self.scheduler = make_scheduler(SCHEDULE, sampler.name, sampler.steps(SCHEDULE))

    def videos(self, num: int) -> list[Tensor]:
        """One episode after the other."""
        first = starts(self.setting, num)
        return [self.video(f"e{i}", start) for i, start in enumerate(first)]

    def video(self, episode: str, context: Tensor) -> Tensor:
        """Sample, learn, go on."""
        fresh = self.lora.state(self.lora.fresh(stream(SEED, "theta0", episode)))
        for name, parameter in self.theta.items():
            parameter.data.copy_(fresh[name])
        optimizer = torch.optim.Adam(self.theta.values(), lr=self.setting.fast.learning_rate)
        made = []
        for i in range(self.setting.num_chunks):
            new = self.sample(episode, context, i)
            self.learn(episode, torch.cat([context, new], dim=2), i, optimizer)
            made.append(new)
            context = new
        return torch.cat(made, dim=2)

    def sample(self, episode: str, context: Float[Tensor, "1 c t h w"], i: int) -> Tensor:
        """One chunk."""
        generator = stream(SEED, "sample-noise", episode, i)
        noise = torch.randn(context.shape[1:], generator=generator)[None]
        text, null = self.world.text([ACTION]), self.world.text([""])
        scale = self.setting.sampler.guidance_scale
        with torch.no_grad(), autocast(CPU, "bf16"):
            return sample_chunk(
                self.world.denoiser,
                self.scheduler,
                context,
                text,
                null,
                noise.shape[2],
                scale,
                starting_point(self.setting.sampler.start, context, noise, SCHEDULE),
            )

    def learn(self, episode: str, chunks: Tensor, i: int, optimizer: torch.optim.Optimizer) -> None:
        """K plain steps of eq. 3."""
        for step in range(self.setting.fast.num_steps):
            generator = stream(SEED, "fast-noise", episode, i, step)
            timestep = draw_timesteps(1, SCHEDULE, generator)
            noise = torch.randn(chunks.shape, generator=generator)
            with autocast(CPU, "bf16"):
                loss = all_frames_loss(
                    self.world.denoiser, chunks, self.world.text([""]), noise, timestep, SCHEDULE
                ).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


def overhead(repeats: int, setting: Setting = PAPER) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows and context of the first table; a ratio of 1.04 is an overhead of 4 %."""
    rows = {}
    ours_unet, stock_unet = pair()
    world = world_of(ours_unet, setting.chunk_frames)
    lora = TemporalLoRA(ours_unet, RANK, float(RANK))
    guarded = Setting(setting.chunk_frames, setting.sampler, setting.num_chunks, FastSettings())
    without = ours(world, setting, 1, None, 1)
    for name, with_memory in (
        ("chunk with fast learning", ours(world, setting, 1, lora, 1)),
        ("  and with probes and guard", ours(world, guarded, 1, lora, 1)),
    ):
        rows[name] = compare(without, with_memory, repeats)
    step, least_step = one_step(world, setting, lora)
    rows["fast step : passes of Φ alone"] = compare(least_step, step, repeats)
    stock_world = world_of(stock_unet, setting.chunk_frames)
    plain = ours(stock_world, setting, 1, None, 1)
    base = rows_of_stock(plain, stock_unet, setting, lora, repeats)
    sampling = flops(without)
    learning = flops(ours(world, setting, 1, lora, 1)) - sampling
    least = setting.fast.num_steps * flops(lambda: through(ours_unet, setting))
    context = {
        "flops_sampling": sampling,
        "flops_learning": learning,
        "flops_floor": least,
        "floor": 1 + least / sampling,
        "by_our_flops": 1 + learning / sampling,
    }
    lora.remove()
    return {**rows, "chunk, stock, fast learning": base}, context


def one_step(world: WorldModel, setting: Setting, lora: TemporalLoRA) -> tuple[Work, Work]:
    """A fast step, and what it could cost at least: forward and backward through the frozen network."""
    fast = FastSettings(num_steps=1, probe_draws=0, guard=None)
    learner = FastLearner(
        world.denoiser, lora, SCHEDULE, world.text, world.num_context, fast, SEED, "bf16"
    )
    memory = learner.fresh("step")
    shape = (1, CHANNELS, 2 * setting.chunk_frames, SIZE, SIZE)
    pairs = torch.randn(shape, generator=stream(SEED, "benchmark-step"))
    step = lambda: learner.learn([memory], pairs, [ACTION])  # noqa: E731
    return step, lambda: through(world.denoiser, setting)


def through(denoiser: VideoUNet, setting: Setting) -> Tensor:
    """Forward through the frozen network and back to its input: what any fast step costs at least."""
    shape = (1, CHANNELS, 2 * setting.chunk_frames, SIZE, SIZE)
    latents = torch.randn(shape, generator=stream(SEED, "benchmark-floor")).requires_grad_(True)
    inside = latents.clone()  # the counter follows no leaf into a module
    with autocast(CPU, "bf16"):
        output = denoiser(inside, torch.tensor([500]), torch.zeros(1, 1, TEXT_DIM), 0)
    return torch.autograd.grad(output.float().square().mean(), latents)[0]


def rows_of_stock(
    plain: Work, unet: VideoUNet, setting: Setting, lora: TemporalLoRA, repeats: int
) -> dict[str, float]:
    """The overhead of diffusers and PEFT; the plain chunk runs on an equal U-Net without PEFT's layers."""
    twin = pair()[1]
    twin.load_state_dict(unet.state_dict())
    stock = Stock(world_of(twin, setting.chunk_frames), setting, lora)
    return compare(plain, lambda: stock.videos(1), repeats)


def batch(repeats: int, num: int = EPISODES) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows and context of the second table."""
    ours_unet, stock_unet = pair()
    world = world_of(ours_unet, DEMO.chunk_frames)
    lora = TemporalLoRA(ours_unet, RANK, float(RANK))
    together, alone = ours(world, DEMO, num, lora, num), ours(world, DEMO, num, lora, 1)
    stock = Stock(world_of(stock_unet, DEMO.chunk_frames), DEMO, lora)
    difference = check_equal(together(), stock.videos(num))
    operations = flops(together)
    rows = {
        f"{num} episodes: batched : stock": compare(together, lambda: stock.videos(num), repeats),
        "  of it the batch": compare(together, alone, repeats),
        "  of it CPU paths, adapter": compare(alone, lambda: stock.videos(num), repeats),
    }
    lora.remove()
    return rows, {
        "episodes": num,
        "largest_relative_difference": difference,
        "flops_batch": operations,
    }


def check_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """A ratio means something only if both make the same videos, up to bfloat16.

    Raises:
        ValueError: they do not.
    """
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    if not max(gaps) < 0.1:
        raise ValueError(f"the videos differ by {max(gaps):.3f} of their norm: mend that first")
    return max(gaps)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, measure, write the table."""
    options = arguments(__doc__, argv)
    quick = options.quick
    setting = PAPER
    if quick:
        setting = Setting(16, SamplerSettings("ddim", 5, 7.5), 1, BARE)
    rows, context = overhead(2 if quick else 7, setting)
    more_rows, more_context = batch(2 if quick else 7, 2 if quick else EPISODES)
    context = {
        **machine(),
        **context,
        **more_context,
        "sampling_steps": setting.sampler.num_inference_steps,
        "lora_rank": RANK,
        "preset": "tiny",
    }
    write_table(options.json, {**rows, **more_rows}, context)
    print(f"by FLOPs: floor {context['floor']:.3f}, ours {context['by_our_flops']:.3f}")


if __name__ == "__main__":
    main()
