"""What the truth scores beside rows, and an evaluation of a model with an addressed memory."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sfv.data.schema import Action
from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.evaluate import SETTINGS, default_rows, measure, write_outputs
from sfv.evaluation.measures import ExtraMeasures
from sfv.evaluation.score import Scorer
from sfv.evaluation.videos import decoded_truth
from sfv.fast.learner import FastSettings
from sfv.generation.episodes import TrueEpisode
from sfv.generation.settings import GenerationSettings
from sfv.metrics.frame import psnr
from sfv.metrics.motion import motion
from sfv.models.world_model import WorldModel
from sfv.report.table import format_table
from sfv.rng import stream
from tests.data.make import make_meta
from tests.world import untrained_addressed_world, untrained_world

TEXTS = ["walk forward", "turn left"]
CHUNK = 8


def walk(world: WorldModel, key: str, num_out: int = 2, returns: bool = True) -> TrueEpisode:
    """Chunks of 8 frames: the first, a way out, and as long a way back over the same frames."""
    total = (1 + 2 * num_out) * CHUNK
    turn = (1 + num_out) * CHUNK
    places = [*range(turn), *range(turn - 1, turn - 1 - num_out * CHUNK, -1)]
    places = places if returns else list(range(total))
    frames = torch.rand(total, 3, 32, 48, generator=stream(0, "score-test", key))
    actions = [Action(TEXTS[i % 2], CHUNK * i, CHUNK * (i + 1)) for i in range(total // CHUNK)]
    meta = make_meta(key, actions=tuple(actions), num_frames=total, height=32, width=48)
    again = tuple((place, later) for later, place in enumerate(places) if place < later)
    video = frames[torch.tensor(places)]
    meta = dataclasses.replace(meta, revisits=again)
    return TrueEpisode(meta, video, world.encode(video[None]))


@pytest.fixture(scope="module")
def world() -> WorldModel:
    """One that has an addressed memory."""
    return untrained_addressed_world(TEXTS, 8, (32, 48), 3, CHUNK)


def test_the_decoded_truth_and_the_truth_are_scored_once_as_a_row_would_be(world):
    walks = [walk(world, "a"), walk(world, "b", returns=False), walk(world, "c", 1)]
    scorer = Scorer(world, walks, 0)
    truth = scorer.truth()
    coded = [world.decode(one.latents)[0] for one in walks]
    for i, one in enumerate(walks):
        assert truth["motion_ceiling"].episodes[i] == pytest.approx(motion(one.video))
        assert truth["motion_decoded"].episodes[i] == pytest.approx(motion(coded[i]))
    first, third = truth["return_psnr_decoded"].episodes
    for value, i, turn in ((first, 0, 24), (third, 2, 16)):
        wanted = psnr(walks[i].video[None, turn:], coded[i][None, turn:]).mean()
        assert value == pytest.approx(float(wanted), rel=1e-4)
    assert truth["return_psnr_ceiling"].value == 100 and truth["return_lpips_ceiling"].value == 0
    assert truth["return_src_ceiling"].value == pytest.approx(100)
    assert truth["return_src_ceiling"].passport.count == 2
    assert truth["revisit_lpips_decoded"].value == pytest.approx(0, abs=1e-6)
    assert {"psnr_decoded", "ssim_decoded", "lpips_decoded", "return_src_decoded"} <= truth.keys()
    assert not any("floor" in name for name in truth)
    for name in ("return_lpips_decoded", "motion_decoded"):
        assert truth[name].passport.metric == name


def test_the_decoded_truth_is_as_long_as_the_videos_of_a_row(world):
    one = walk(world, "a")
    made = decoded_truth(world, one)
    assert made.returned is not None
    assert (len(made.next_chunk), len(made.returned), len(made.long)) == (16, 40, 40)
    assert torch.equal(made.returned[:24], one.video[:24])
    assert not torch.equal(made.returned[24:], one.video[24:])
    assert decoded_truth(world, walk(world, "b", returns=False)).returned is None


def test_the_temporal_lora_is_a_row_of_its_own_where_the_model_has_another_memory(world):
    assert default_rows(world) == ["none", "temp_lora", "fast"]
    assert default_rows(untrained_world(TEXTS)) == ["none", "fast"]
    assert SETTINGS.fast == dataclasses.replace(FastSettings(), reset_after=3)


def test_a_probe_without_a_temporal_lora_is_refused(world):
    walks = [walk(world, "a"), walk(world, "b")]
    with pytest.raises(ValueError, match=r"for the temporal LoRA, and none of .*'fast'\] has one"):
        measure(world, walks, ["none", "fast"], SETTINGS, ExtraMeasures(probe_draws=1))


@pytest.mark.slow
def test_three_rows_are_measured_compared_and_shown(world: WorldModel, tmp_path: Path):
    generation = GenerationSettings(
        SamplerSettings(num_inference_steps=1), fast=FastSettings(1, learning_rate=0.01, guard=0.1)
    )
    walks = [walk(world, "a"), walk(world, "b")]
    measured = measure(world, walks, default_rows(world), generation)
    report = measured.report
    assert list(report["rows"]) == ["none", "temp_lora", "fast"]
    assert {(gap["row"], gap["against"]) for gap in report["differences"]} == {
        ("fast", "none"), ("temp_lora", "none"), ("fast", "temp_lora"),
    }  # fmt: skip
    assert set(report["gap_closed"]) == {"temp_lora", "fast"}
    share = report["gap_closed"]["fast"]["return_lpips"]["decoded"]
    values = [report["rows"][row]["metrics"]["return_lpips"]["value"] for row in ("none", "fast")]
    end = report["truth"]["metrics"]["return_lpips_decoded"]["value"]
    assert share["value"] == pytest.approx((values[0] - values[1]) / (values[0] - end))
    assert report["learned"] == {"temp_lora": 2 * (4 + 4)}
    assert {"fast/drift", "memory/size"} <= report["curves"].keys()
    write_outputs(tmp_path, walks, measured, "three rows")
    html = (tmp_path / "report.html").read_text()
    for words in ("temporal LoRA", "decoded truth", "of 16 chunks", "to the decoded truth"):
        assert words in html, words
    table = format_table(report)
    assert "temp_lora (n=2)" in table and "fast closes" in table
