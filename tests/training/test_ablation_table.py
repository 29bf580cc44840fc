"""Rows of settings on there-and-back walks, through the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import ablation
from experiments.ablation import Bench, Variant
from sfv.diffusion.sampler import SamplerSettings
from sfv.evaluation.return_walks import partner
from sfv.fast.settings import FastSettings, LoRASettings
from sfv.generation.episodes import load_episodes, num_outbound
from sfv.generation.rollout import Request
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.metrics.protocol import Passport, mean_value
from sfv.models.autoencoder import PCAPatchCodec
from sfv.models.world_model import WorldModel
from sfv.rng import stream

LORA = LoRASettings(r=2, alpha=2.0)
NONE = Variant(FastSettings(num_steps=0, probe_draws=0), LORA)
OWN = Variant(FastSettings(num_steps=1, learning_rate=1e-2, guard=None), LORA)
SAMPLER = SamplerSettings("ddim", num_inference_steps=1)


@pytest.fixture(scope="module")
def bench(demo):
    world = WorldModel.load(demo.model)
    return Bench(world, load_episodes(demo.test_shards, world, None), 1, SAMPLER, "32", 1)


def back_of(bench, variant, **changes):
    bench = replace(bench, **changes)
    settings = GenerationSettings(SAMPLER, variant.lora, variant.fast)
    with rollout_of(bench.world, "fast", settings) as rollout:
        out = bench._learn(rollout.learner, variant)
        return bench._go_back(rollout, rollout.learner, out.memories, variant.memory)


@pytest.mark.slow
def test_the_way_back_is_that_of_a_rollout_that_was_shown_the_way_out(bench):
    """Learning without sampling meanwhile changes nothing: same Θ, same noise."""
    walk = bench.walks[0]
    out, first = num_outbound(walk.meta), walk.meta.actions[0].stop
    turn = walk.meta.actions[out].stop
    request = Request(
        walk.meta.id,
        walk.latents[:, :, :first],
        walk.actions[: out + 1],
        walk.latents[:, :, first:turn],
    )
    settings = GenerationSettings(SAMPLER, LORA, OWN.fast)
    with rollout_of(bench.world, "fast", settings) as rollout:
        chunk = rollout.run_many([request])[0][-1]
    expected = bench.world.codec.decode(chunk.generated)[0]
    assert torch.equal(back_of(bench, OWN)[0], expected)


@pytest.mark.slow
def test_a_memory_of_another_place_makes_another_video_and_none_makes_the_base_models(bench):
    other = replace(OWN, memory="other_scene")
    own, lent, none = (back_of(bench, variant)[0] for variant in (OWN, other, NONE))
    with rollout_of(bench.world, "none", GenerationSettings(SAMPLER)) as rollout:
        walk = bench.walks[0]
        out = num_outbound(walk.meta)
        turn = walk.meta.actions[out].stop
        start = walk.latents[:, :, turn - bench.world.num_context : turn]
        # a rollout without memory counts its chunks from its start, so it is given the same place
        journey = rollout._begin(Request(walk.meta.id, start, walk.actions[out : out + 1]))
        journey.first_chunk = out
        base = bench.world.codec.decode(rollout._sample([journey], None))[0]
    assert torch.equal(none, base)
    assert not torch.equal(own, none) and not torch.equal(own, lent)


@pytest.mark.slow
def test_walks_in_one_batch_come_out_as_alone(bench):
    alone, together = back_of(bench, OWN), back_of(bench, OWN, videos_at_once=2)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_rows_that_learn_the_same_learn_once_and_score_as_if_each_had(bench, monkeypatch):
    ways = []
    real = ablation.learn_ways_out

    def counted(learner, *rest):
        ways.append(learner.settings)
        return real(learner, *rest)

    monkeypatch.setattr(ablation, "learn_ways_out", counted)
    other = replace(OWN, memory="other_scene")
    shown_only = replace(OWN, fast=replace(OWN.fast, own_chunks=False))
    scores = [bench.measure(row, 0) for row in (OWN, other, shown_only)]
    assert len(ways) == 1
    bench.newest.clear()
    assert bench.measure(other, 0)["return_psnr"] == scores[1]["return_psnr"]
    bench.measure(other, 1)
    bench.measure(replace(other, fast=replace(OWN.fast, num_steps=2)), 1)
    assert len(ways) == 4, "another seed or setting learns anew"


@pytest.mark.slow
def test_the_command_writes_a_table_and_goes_on_where_it_stopped(
    demo, tmp_path, capsys, monkeypatch
):
    rows = {
        "none": {"fast": {"num_steps": 0, "probe_draws": 0}, "lora": {"r": 2}},
        "pair": {"fast": {"num_steps": 1, "learning_rate": 1e-2}, "lora": {"r": 2}},
    }
    config = tmp_path / "table.yaml"
    settings = {
        "model": str(demo.model),
        "episodes": str(demo.test_shards),
        "out": str(tmp_path / "out"),
        "rows": rows,
        "seeds": [0, 1],
        "num_back": 1,
        "sampler": {"name": "ddim", "num_inference_steps": 1},
        "precision": "32",
    }
    config.write_text(json.dumps(settings))
    assert ablation.main([f"--config={config}"]) == 0
    said = capsys.readouterr().out
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in said and [line.split("|")[1].strip() for line in table.splitlines()][2:] == [
        "none",
        "pair",
    ]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    kept = [json.loads(p.read_text()) for p in (tmp_path / "out" / "rows").iterdir()]
    assert sorted((row["row"], row["seed"]) for row in kept) == [
        ("none", 0), ("none", 1), ("pair", 0), ("pair", 1),
    ]  # fmt: skip
    psnr = [row["scores"]["return_psnr"] for row in kept if row["row"] == "pair"]
    mean = sum(sum(walks) / len(walks) for walks in psnr) / 2
    assert report["rows"]["pair"]["metrics"]["return_psnr"]["value"] == pytest.approx(mean)
    assert report["rows"]["pair"]["n"] == 2

    def measured_again(*_):
        raise AssertionError("it was measured already")

    monkeypatch.setattr(Bench, "measure", measured_again)
    assert ablation.main([f"--config={config}"]) == 0
    assert (tmp_path / "out" / "table.md").read_text() == table
    assert ablation.main([f"--config={config}", "--against=pair"]) == 0
    turned = (tmp_path / "out" / "table.md").read_text()
    assert "against pair" in turned and "against none" in table
    gain, loss = (
        float(t.splitlines()[line].split("|")[3].split("[")[0])
        for t, line in ((table, 3), (turned, 2))
    )
    assert gain == -loss != 0


@pytest.mark.parametrize(("num", "starred"), [(10, True), (9, False)])
def test_a_gain_has_its_star_from_ten_walks_on(num, starred):
    told = Passport("return_psnr", "return", num)
    base, better = (mean_value([at + i / 10 for i in range(num)], told) for at in (20.0, 21.0))
    assert ablation._against(base, better, 2).endswith(" *") == starred


def test_a_table_needs_something_to_compare_with(demo, tmp_path, capsys):
    arguments = [
        f"--model={demo.model}",
        f"--episodes={demo.test_shards}",
        f"--out={tmp_path / 'o'}",
    ]
    assert ablation.main([*arguments, '--rows={"pair": {}}']) == 2
    assert "a row named 'none'" in capsys.readouterr().err
    rows = "--rows={none: {}, pair: {}}"
    assert ablation.main([*arguments, rows, "--against=other"]) == 2
    assert "against 'other'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_row_may_have_a_model_for_each_seed_if_it_reads_the_same_latents(demo, bench, tmp_path):
    other = WorldModel.load(demo.model)
    with torch.no_grad():
        next(iter(other.denoiser.parameters())).mul_(2.0)
    other.save(tmp_path / "model-7")
    found = bench.with_model(str(tmp_path / "model-{seed}"), 7)
    assert found.world.fingerprint() == other.fingerprint() != bench.world.fingerprint()
    assert found.walks is bench.walks and bench.with_model(None, 7) is bench
    assert found.settings() != bench.settings(), "kept numbers are those of one model"

    codec = PCAPatchCodec(latent_channels=other.codec.latent_channels, patch=8)
    codec.fit(torch.rand(8, 3, 64, 64, generator=stream(1, "test-frames")))
    strange = WorldModel(other.denoiser, codec, other.text, other.schedule, 8, 8)
    strange.save(tmp_path / "strange")
    with pytest.raises(ValueError, match="strange has another codec"):
        bench.with_model(str(tmp_path / "strange"), 0)


def test_a_lent_memory_needs_a_lender(bench):
    with pytest.raises(ValueError, match=r"other_walk needs another walk in scene"):
        partner([bench.walks[0].meta], 0, "other_walk")


@pytest.mark.parametrize("config", sorted(Path("experiments/ablations").glob("*.yaml")), ids=str)
def test_the_shipped_tables_parse(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        ablation.main([f"--config={config}", "--print_config"])
    assert stopped.value.code == 0
    assert "none:" in capsys.readouterr().out
