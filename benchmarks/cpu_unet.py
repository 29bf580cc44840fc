"""The denoiser's CPU paths (sfv.backbones.cpu_layers) against the stock U-Net of diffusers, equal weights.

python -m benchmarks.cpu_unet [--quick] --json FILE

A ratio is how many times faster ours is. Both run inside the same `VideoUNet`, learner and optimiser;
only the U-Net differs. Windows are the demo's: 16 frames of 8x8 latents, tiny preset, bfloat16. Beside it,
how far ours is from what the machine could do: operations a second, against those of one large product.
"""

from collections.abc import Sequence

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn

from benchmarks.side_by_side import Work, arguments, compare, flops, in_turns, machine, write_table
from sfv.backbones.video_unet import PresetName, VideoUNet
from sfv.diffusion.objective import masked_conditional_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastLearner, FastSettings
from sfv.fast.modes import autocast
from sfv.fast.temporal_lora import TemporalLoRA
from sfv.rng import stream

PRESET: PresetName = "tiny"
CHANNELS, FRAMES, SIZE, TEXT_DIM, NUM_CONTEXT = 16, 16, 8, 64, 8
SLOW_BATCH, RANK = 4, 16
REPEATS, QUICK_REPEATS = 20, 3
SCHEDULE = NoiseSchedule()
CPU = torch.device("cpu")


def pair() -> tuple[VideoUNet, VideoUNet]:
    """Ours and the stock one; every layer does something (diffusers starts temporal ones at zero)."""
    ours = VideoUNet(PRESET, CHANNELS, TEXT_DIM)
    generator = stream(0, "benchmark-weights")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    stock = VideoUNet(PRESET, CHANNELS, TEXT_DIM)
    stock.unet = UNet3DConditionModel.from_config(ours.unet.config)
    stock.unet.load_state_dict(ours.unet.state_dict())
    for module in stock.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return ours, stock


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and text of the demo's sizes."""
    generator = stream(0, "benchmark-inputs", batch)
    return (
        torch.randn(batch, CHANNELS, FRAMES, SIZE, SIZE, generator=generator),
        torch.randint(1000, (batch,), generator=generator),
        torch.randn(batch, 1, TEXT_DIM, generator=generator),
    )


def forward(denoiser: VideoUNet) -> Work:
    """One call of the sampler."""
    arrays = inputs(1)

    def work() -> Tensor:
        with torch.no_grad(), autocast(CPU, "bf16"):
            return denoiser(*arrays, NUM_CONTEXT)  # type: ignore[no-any-return]

    return work


def slow_step(denoiser: VideoUNet) -> Work:
    """Loss, gradients and Adam over all of Φ."""
    latents, timestep, text = inputs(SLOW_BATCH)
    noise = torch.randn(latents.shape, generator=stream(0, "benchmark-noise"))
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-5)

    def work() -> None:
        with autocast(CPU, "bf16"):
            loss = masked_conditional_loss(
                denoiser, latents, text, noise, timestep, NUM_CONTEXT, SCHEDULE
            ).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return work


def fast_step(denoiser: VideoUNet) -> Work:
    """One fast step on Θ, as in a rollout."""
    text = inputs(1)[2]
    settings = FastSettings(num_steps=1, probe_draws=0)
    weights = TemporalLoRA(denoiser, r=RANK, alpha=float(RANK))
    learner = FastLearner(
        denoiser, weights, SCHEDULE, lambda _: text, NUM_CONTEXT, settings, precision="bf16"
    )
    memory = learner.fresh("benchmark")
    latents = inputs(1)[0]
    return lambda: learner.learn([memory], latents, [""])


def check_equal(ours: VideoUNet, stock: VideoUNet) -> None:
    """A ratio means something only if both compute the same.

    Raises:
        ValueError: outputs differ by more than rounding.
    """
    with torch.no_grad():
        exact = stock(*inputs(2), NUM_CONTEXT)
        found = ours(*inputs(2), NUM_CONTEXT)
        with autocast(CPU, "bf16"):
            rounded, stock_rounded = (net(*inputs(2), NUM_CONTEXT) for net in (ours, stock))
    scale = exact.norm()
    if (found - exact).norm() > 1e-4 * scale:
        raise ValueError("the outputs differ in float32: mend sfv.backbones.cpu_layers first")
    if (rounded - exact).norm() > 1.3 * (stock_rounded - exact).norm():
        raise ValueError("bfloat16 is less exact than stock: mend sfv.backbones.cpu_layers first")


def matmul_rate(repeats: int, size: int = 4096) -> float:
    """Operations a second of a large bfloat16 product: what this machine can do at best."""
    a, b = (torch.ones(size, size, dtype=torch.bfloat16) for _ in range(2))
    seconds, _ = in_turns(lambda: a @ b, lambda: None, repeats)
    return float(2 * size**3 / min(seconds))


def main(argv: Sequence[str] | None = None) -> None:
    """Check, measure, write the table."""
    options = arguments(__doc__, argv)
    repeats = QUICK_REPEATS if options.quick else REPEATS
    check_equal(*pair())
    cases = {
        "forward b1 bf16": forward,
        f"slow step b{SLOW_BATCH} bf16": slow_step,
        "fast step b1 bf16": fast_step,
    }
    rows, rates = {}, {"4096 x 4096 product": matmul_rate(3)}
    for name, make in cases.items():
        ours, stock = pair()
        work = make(ours)
        rows[name] = compare(work, make(stock), repeats)
        rates[name] = flops(work) / rows[name]["ours_seconds"]
    context = {
        **machine(),
        "repeats": repeats,
        "preset": PRESET,
        "latents": [CHANNELS, FRAMES, SIZE, SIZE],
        "lora_rank": RANK,
        "gflops_per_second": {name: rate / 1e9 for name, rate in rates.items()},
    }
    write_table(options.json, rows, context)
    best = rates["4096 x 4096 product"]
    for name, rate in rates.items():
        print(f"{name:24} {rate / 1e9:6.0f} GFLOP/s, {rate / best:.0%} of a large product")


if __name__ == "__main__":
    main()
