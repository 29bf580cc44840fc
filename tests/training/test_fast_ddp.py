"""Θ under DistributedDataParallel: ranks learn different numbers of fast steps, then share a slow one."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from sfv import rng
from sfv.diffusion.objective import masked_conditional_loss
from sfv.diffusion.schedule import NoiseSchedule
from sfv.fast.learner import FastLearner, FastSettings
from sfv.backbones.video_unet import VideoUNet
from sfv.fast.temporal_lora import TemporalLoRA

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
schedule = NoiseSchedule()

def text(actions):
    return torch.zeros(len(actions), 1, 9)

def pair(which):
    return torch.randn(1, 5, 2, 2, 4, generator=rng.stream(0, "pair", which))

def slow_loss(network, which):
    noise = torch.randn(1, 5, 2, 2, 4, generator=rng.stream(0, "slow", which))
    timestep = torch.tensor([400])
    loss = masked_conditional_loss(network, pair(which), text([""]), noise, timestep, 1, schedule)
    return loss.sum()

for static in (False, True):
    denoiser = VideoUNet("tiny", 5, 9)
    lora = TemporalLoRA(denoiser, r=2)
    wrapped = DistributedDataParallel(denoiser, static_graph=static)
    settings = FastSettings(num_steps=1, learning_rate=1e-2)
    learner = FastLearner(denoiser, lora, schedule, text, 1, settings)
    memories = [learner.fresh(f"e{which}") for which in range(2)]
    for phase in range(2):
        for _ in range(rank + 1):  # unequal numbers: a collective in here would hang
            learner.learn([memories[rank]], pair(rank), [""])
        denoiser.zero_grad()
        with lora.use(memories[rank].theta[None]):
            slow_loss(wrapped, rank).backward()
    other = 1 - rank
    for _ in range(2 * (other + 1)):
        learner.learn([memories[other]], pair(other), [""])
    ours = []
    for which in range(2):
        with lora.use(memories[which].theta[None]):
            ours.append(torch.autograd.grad(slow_loss(denoiser, which), denoiser.parameters()))
    for parameter, a, b in zip(denoiser.parameters(), *ours, strict=True):
        torch.testing.assert_close(parameter.grad, (a + b) / 2, rtol=1e-3, atol=1e-6)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_learn_fast_on_their_own_and_slow_together(tmp_path):
    """The gradient of Φ is the mean over both ranks, each through its own Θ; static graph or not."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
