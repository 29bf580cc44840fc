from dataclasses import replace

import numpy as np
import torch

from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.benchmark.context import (
    ContextRollout,
    bought_frames,
    long_context,
    pose_distances,
    retrieval,
)
from sfv.evaluation.benchmark.spec import find_benchmark
from sfv.evaluation.benchmark.walks import load_walks
from sfv.evaluation.return_walks import request_back
from sfv.fast.settings import FastSettings
from sfv.generation.rollout import Rollout
from sfv.models.world_model import WorldModel


def test_the_compute_of_learning_buys_frames(world):
    """3 x 4 x 2 + 3 probes = 27 passes of 5 frames, over 8 calls: 16.9 frames."""
    model = WorldModel.load(world)
    sampler = SamplerSettings("ddim", num_inference_steps=8)
    fast = FastSettings(num_steps=4, draws_per_step=2, probe_draws=1, guard=0.1)
    assert bought_frames(model, sampler, fast) == 27 * 5 // 8
    assert bought_frames(model, sampler, replace(fast, guard=None)) == 26 * 5 // 8
    assert bought_frames(model, replace(sampler, guidance_scale=2.0), fast) == 27 * 5 // 16


def test_a_long_context_is_the_newest_frames_that_exist():
    pick = long_context(3, 4)
    assert list(pick(20)) == [13, 14, 15, 16, 17, 18, 19]
    assert list(pick(5)) == [0, 1, 2, 3, 4]


def test_retrieval_finds_the_chunk_that_was_seen_from_the_pose_to_come():
    """Out over x = 0..9 and back over 8, 7, ...: frames 10 and 11 show x = 8, 7."""
    places = [*range(10), *range(8, -1, -1)]
    pick = retrieval([(float(x), 0.0, 0.0, 90.0) for x in places], 2, 2)
    assert list(pick(12)) == [5, 6, 10, 11], "to make: x = 6, 5"
    assert list(pick(16)) == [1, 2, 14, 15], "to make: x = 2, 1"
    assert list(pick(3)) == [1, 2], "nothing older than the context is long enough"


def test_distances_count_turns_around_the_circle_and_ways_in_the_walks_own_steps():
    poses = np.array([[0, 0, 0, 359.0], [0, 12, 0, 359.0], [0, 24, 0, 359.0], [0, 24, 0, 1.0]])
    apart = pose_distances(poses)
    np.testing.assert_allclose(apart[0], [0, 1, 2, 3])
    np.testing.assert_allclose(apart, apart.T)


def test_with_the_usual_context_it_is_a_rollout_without_memory(made_up, world):
    """Same noise, also for chunks behind a way out that nothing was generated of."""
    model, sampler = WorldModel.load(world), SamplerSettings("ddim", num_inference_steps=2)
    benchmark = find_benchmark(str(made_up))
    trip = load_walks(benchmark, made_up, ["return-12"])[1].trip(model)
    chunks = Rollout(model, sampler, seed=5).run_many([request_back(trip, 3)])[0]
    ours = ContextRollout(model, sampler, 5, "32")
    made = ours.run(
        trip.episode.meta.id,
        trip.episode.latents[:, :, : trip.turn],
        trip.actions_back,
        trip.num_out,
        lambda now: range(now - 3, now),
    )
    assert torch.equal(made, torch.cat([chunk.generated for chunk in chunks], dim=2))
    wider = ours.run(
        trip.episode.meta.id,
        trip.episode.latents[:, :, : trip.turn],
        trip.actions_back[:1],
        trip.num_out,
        long_context(3, 2),
    )
    assert wider.shape[2] == 2 and not torch.equal(wider, made[:, :, :2])
