import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sfv.data.schema import Action
from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.evaluate import measure
from sfv.evaluation.measures import (
    ExtraMeasures,
    check_measurable,
    drawn,
    extra_curves,
    extra_scores,
    probe,
)
from sfv.evaluation.swap import make_swaps
from sfv.evaluation.videos import generate, num_predicted
from sfv.fast.learner import FastSettings
from sfv.generation.episodes import TrueEpisode
from sfv.generation.rollout import Request
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.metrics.curves import binned
from sfv.metrics.protocol import Passport, Row, paired_differences, report_json
from sfv.models.inverse_dynamics import InverseDynamics
from sfv.models.world_model import WorldModel
from sfv.report.curves import parse_curves
from sfv.rng import stream
from tests.data.make import make_meta
from tests.world import untrained_world

TEXTS = ["walk forward", "turn left", "walk backward"]
SETTINGS = GenerationSettings(
    sampler=SamplerSettings(num_inference_steps=1),
    fast=FastSettings(num_steps=1, learning_rate=1e-2, probe_draws=0, guard=None),
)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    """An untrained world model with f_p = 3 and f_g = 4 frames of 32 x 48 pixels."""
    return untrained_world(TEXTS, 8, (32, 48), num_generated=4)


def episode(world: WorldModel, key: str, num_chunks: int = 4, revisits=()) -> TrueEpisode:
    actions = tuple(Action(TEXTS[i % 3], 4 * i, 4 * (i + 1)) for i in range(num_chunks))
    meta = make_meta(key, actions=actions, num_frames=4 * num_chunks, height=32, width=48)
    meta = dataclasses.replace(meta, revisits=revisits)
    video = torch.rand(4 * num_chunks, 3, 32, 48, generator=stream(0, "measure-test", key))
    return TrueEpisode(meta, video, world.codec.encode(video[None]))


def test_a_swap_changes_nothing_but_the_action(world):
    episodes = [episode(world, "a"), episode(world, "b", 3)]
    with rollout_of(world, "none", SETTINGS) as rollout:
        first, second = make_swaps(rollout, episodes, 2)
        assert [(s.asked, s.other) for s in first] == [
            (TEXTS[1], TEXTS[2]),
            (TEXTS[0], TEXTS[2]),
        ]
        assert len(second) == 2
        swap = first[0]
        assert torch.equal(swap.context, episodes[0].video[1:4])
        start = episodes[0].latents[:, :, 1:4]
        for action, made in ((swap.asked, swap.made), (swap.other, swap.swapped)):
            (chunk,) = rollout.run_many([Request("a/swap-1", start, [action])])[0]
            torch.testing.assert_close(made, world.codec.decode(chunk.generated)[0])
        assert not torch.allclose(swap.made, swap.swapped)
        with pytest.raises(ValueError, match="a swap test needs at least one swap and two actions"):
            make_swaps(rollout, episodes, 0)


def test_a_probe_learns_the_way_out_alone(world):
    episodes = [
        episode(world, "a", revisits=((7, 9), (3, 13))),
        episode(world, "b", revisits=((7, 9),)),
    ]
    changed = [dataclasses.replace(e, latents=e.latents.clone()) for e in episodes]
    for one in changed:
        one.latents[:, :, 8:] = 0.0  # frames of the way back
    found, same = (probe(world, given, SETTINGS, 2) for given in (episodes, changed))
    assert set(found) == {"memory_gain", "memory_gain_other", "memory_held"}
    for name, value in found.items():
        assert value.episodes == same[name].episodes
    gaps = zip(found["memory_gain"].episodes, found["memory_gain_other"].episodes, strict=True)
    assert found["memory_held"].episodes == pytest.approx([a - b for a, b in gaps])
    assert found["memory_held"].passport.settings == "2 noise levels a chunk; rule pair"


@pytest.mark.slow
def test_everything_that_is_asked_for_is_measured_of_its_rows(world, tmp_path):
    InverseDynamics(TEXTS, side=16, widths=(8,), hidden=8).save(tmp_path / "inverse")
    episodes = [episode(world, "a"), episode(world, "b", revisits=((11, 13), (9, 15)))]
    videos = {}
    for row in ("none", "fast"):
        with rollout_of(world, row, SETTINGS) as rollout:
            videos[row] = generate(rollout, episodes)
    extra = ExtraMeasures(
        transnet=True, probe_draws=1, inverse_dynamics=tmp_path / "inverse", swaps=1
    )
    scores = extra_scores(world, episodes, videos, SETTINGS, extra)
    rows = {row: set(found) for row, found in scores.items()}
    both = {"scuts_transnet", "scuts_transnet_ceiling"}
    both |= {"action_accuracy", "action_accuracy_floor", "action_accuracy_ceiling"}
    assert rows["none"] & rows["fast"] == both
    assert rows["none"] - both == {"swap_obeyed", "swap_kept", "swap_read", "swap_change"}
    assert rows["fast"] - both == {"memory_gain", "memory_gain_other", "memory_held"}
    assert all(value.passport.count == 2 for value in scores["fast"].values())
    assert {gap["metric"] for gap in paired_differences(scores, [("fast", "none")])} <= both
    report_json({row: Row(2, scores[row]) for row in scores}, {})
    curves = extra_curves(world, episodes, videos, 0)
    assert {"recall_psnr", "recall_true_psnr", "drift_psnr"} <= curves["none"].keys()
    assert curves["fast"]["drift_psnr"].bins[0].value.passport.count == 2
    assert curves["fast"]["recall_psnr"].bins[0].value.passport.count == 1
    recall = parse_curves(drawn(curves))["recall_psnr"]
    assert recall.axis == "gap (frames)" and recall.rows.keys() == {"none", "fast"}
    middles = [(b.start + b.stop - 1) / 2 for b in curves["none"]["recall_psnr"].bins]
    assert recall.x == middles
    assert recall.rows["fast"] == [b.value.value for b in curves["fast"]["recall_psnr"].bins]


def test_an_inverse_model_of_other_actions_is_refused_before_anything_is_generated(world, tmp_path):
    InverseDynamics(TEXTS[:2], side=16, widths=(8,), hidden=8).save(tmp_path / "inverse")
    extra = ExtraMeasures(inverse_dynamics=tmp_path / "inverse")
    message = r"have actions \['walk backward'\], which the inverse model does not read; it reads \['walk f"
    with pytest.raises(ValueError, match=message):
        check_measurable(world, [episode(world, "a", 9)], extra, ("none",))


def test_a_row_without_a_bin_is_drawn_with_a_gap():
    passport = Passport("recall", "long", 2)
    early, late = ((np.array([gap]), np.array([5.0 + gap])) for gap in (1, 2))
    curves = {
        "none": {"recall": binned("recall", "gap", [early, early], [1, 2, 4], passport)},
        "fast": {"recall": binned("recall", "gap", [early, late], [1, 2, 4], passport)},
    }
    found = drawn(curves)["recall"]
    assert found["x"] == [1.0, 2.5]
    assert found["rows"] == {"none": [6.0, None], "fast": [6.0, 7.0]}
    assert found["low"] == {"none": [6.0, None], "fast": [None, None]}, (
        "one episode has no interval"
    )


def test_settings_that_cannot_be_measured_are_named(tmp_path):
    with pytest.raises(ValueError, match="swaps=2 without inverse_dynamics; give the model folder"):
        ExtraMeasures(swaps=2)
    with pytest.raises(ValueError, match="probe_draws=-1, swaps=0; allowed: 0"):
        ExtraMeasures(probe_draws=-1)


@pytest.mark.parametrize(
    ("num_chunks", "count", "extra", "message"),
    [
        (4, 2, {}, "the video has 12 frames, one clip needs 16"),
        (5, 1, {}, "1 clips of 16 frames; FVD needs at least 2"),
        (9, 1, {"probe_draws": 1}, "1 episode; a memory probe compares with another one"),
        (5, 2, {"inverse_dynamics": Path("nothing")}, "nothing holds no inverse dynamics model"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_generated(
    world, num_chunks, count, extra, message
):
    walks = [episode(world, name, num_chunks) for name in "ab"[:count]]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        measure(world, walks, ["none"], SETTINGS, ExtraMeasures(**extra))


def test_lengths_tell_what_the_videos_will_be(world):
    walks = [episode(world, "a", 9, revisits=((15, 24),)), episode(world, "b", 5)]
    with rollout_of(world, "none", SETTINGS) as rollout:
        made = generate(rollout, walks)
    assert [len(v.next_chunk) for v in made] == [num_predicted(world, walk) for walk in walks]
