"""Rows of a benchmark for a model with an addressed memory, and the decoded truth."""

from dataclasses import replace

import pytest
import torch

from sfv.cli import main
from sfv.evaluation.benchmark.generate import Maker, RowTask
from sfv.evaluation.benchmark.methods import Method, standard
from sfv.evaluation.benchmark.spec import find_benchmark
from sfv.evaluation.benchmark.walks import load_walks
from sfv.evaluation.return_walks import learn_ways_out, lent
from sfv.fast.addressed_learner import AddressedLearner, AddressedSettings
from sfv.fast.settings import FastSettings
from sfv.generation.settings import GenerationSettings, rollout_of
from sfv.generation.videos import read_video
from sfv.models.world_model import WorldModel
from tests.evaluation.benchmark.make import make_addressed_world
from tests.evaluation.benchmark.test_run import arguments, refused, report_of

ROWS = ("none", "fast", "addressed", "other_addressed", "readout", "decoded_truth")
ADDRESSED = AddressedSettings()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_addressed_world(tmp_path_factory.mktemp("addressed") / "model")


@pytest.fixture(scope="module")
def run(made_up, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(arguments(made_up, out, ckpt=model, rows=f"[{','.join(ROWS)}]")) == 0
    return out


@pytest.mark.slow
def test_the_decoded_truth_stands_beside_the_rows_and_gaps_end_at_it(run, made_up, model):
    report = report_of(run)
    assert set(report["rows"]) == set(ROWS) - {"decoded_truth"}
    truth = report["truth"]["metrics"]
    assert truth["return_psnr_ceiling"]["value"] == 100 > truth["return_psnr_decoded"]["value"] > 10
    assert {"motion_decoded", "open_return_lpips_decoded"} <= truth.keys()
    assert set(report["gap_closed"]) == {"fast", "addressed", "other_addressed", "readout"}
    pairs = {(gap["row"], gap["against"]) for gap in report["differences"]}
    more = {("addressed", row) for row in ("fast", "other_addressed", "readout")}
    assert more <= pairs and not any("decoded_truth" in pair for pair in pairs)
    assert report["learned"] == {}, "no row has a guard"
    world = WorldModel.load(model)
    for walk in load_walks(find_benchmark(str(made_up)), made_up, ["return-12"]):
        video = read_video(run / "rows" / "decoded_truth" / "return" / f"{walk.meta.id}.mp4")
        coded = world.decode(world.encode(walk.video[None].float() / 255))[0]
        assert torch.equal(
            video[walk.turn :], (coded.clamp(0, 1) * 255).round().byte()[walk.turn :]
        )


@pytest.mark.slow
def test_what_a_memory_says_is_its_own_walks_and_needs_no_network(run, made_up):
    made = {row: read_video(run / "rows" / row / "return" / "return-12-01.mp4")[8:] for row in ROWS}
    for row in ("fast", "addressed", "other_addressed", "readout"):
        assert not torch.equal(made[row], made["none"]) or row == "fast", row
    assert not torch.equal(made["addressed"], made["other_addressed"])
    assert not (run / "rows" / "readout" / "open").exists()


def test_the_readout_is_what_the_memory_reads_at_the_poses_of_the_way_back(
    made_up, model, tmp_path
):
    world = WorldModel.load(model)
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-12"])[:1]
    maker = Maker(tmp_path.joinpath, GenerationSettings(), lambda num: None)
    task = RowTask("readout", Method(addressed=ADDRESSED, made="read"), world)
    maker.make_part([task], ["return"], walks)
    trip = walks[0].trip(world)
    with rollout_of(world, "fast", GenerationSettings()) as rollout:
        learner = rollout.learner
        assert isinstance(learner, AddressedLearner)
        (memory,), _ = learn_ways_out(learner, [trip], 1)
        said, pose = [], memory.pose
        for action in trip.actions_back:
            said.append(learner.read([replace(memory, pose=pose)], [action]).values)
            pose = world.address.follow(action, world.num_generated, pose)[-1]
    wanted = (world.decode(torch.cat(said, dim=2))[0].clamp(0, 1) * 255).round().byte()
    video = read_video(tmp_path / "readout" / "return" / f"{walks[0].meta.id}.mp4")
    assert torch.equal(video[walks[0].turn :], wanted)


@pytest.mark.parametrize("odometry", ["actions", "recorded"])
def test_a_lent_memory_holds_anothers_walk_and_stands_where_its_own_way_out_ended(
    made_up, model, odometry
):
    world = WorldModel.load(model)
    walks = load_walks(find_benchmark(str(made_up)), made_up, ["return-12"])
    trips = [walk.trip(world) for walk in walks]
    settings = GenerationSettings(addressed=AddressedSettings(odometry=odometry))
    with rollout_of(world, "fast", settings) as rollout:
        learner = rollout.learner
        memories, undone = learn_ways_out(learner, trips, 2)
        copies = lent(learner, [walk.meta for walk in walks], memories, "other_walk")
        kept = [memory.state.weights.clone() for memory in memories]
        learner.learn(
            copies, torch.cat([trip.pair(0, 3) for trip in trips]), ["walk forward"] * 4, 3,
            [trip.poses(0) for trip in trips],
        )  # fmt: skip
    assert undone == [0, 0, 0, 0]
    for i, (memory, copy) in enumerate(zip(memories, copies, strict=True)):
        assert copy.episode == memory.episode == walks[i].meta.id
        assert copy.num_chunks == trips[i].num_out + 1 == memory.num_chunks + 1
        assert torch.equal(memory.state.weights, kept[i]), "the lender stays as it was"
    if odometry == "recorded":
        x = [walk.meta.poses[walk.turn - 1][0] - walk.meta.poses[3][0] for walk in walks]
        assert [float(memory.pose[0]) for memory in memories] == pytest.approx(x)


def test_rows_with_an_addressed_memory_need_a_model_that_has_one(made_up, world, tmp_path, capsys):
    given = arguments(made_up, tmp_path / "o", ckpt=world, rows="[none,readout]")
    said = refused(capsys, *given)
    assert "row 'readout' needs a model with an addressed memory" in said


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"addressed": ADDRESSED, "fast": FastSettings()},
            "takes neither fast settings nor another",
        ),
        (
            {"addressed": ADDRESSED, "context": "long"},
            "takes neither fast settings nor another con",
        ),
        ({"addressed": ADDRESSED, "order": "shuffled"}, "takes neither fast settings nor another"),
        ({"made": "read"}, "read needs an addressed memory"),
        ({"made": "decoded", "addressed": ADDRESSED}, "decoded has no memory"),
        ({"made": "decoded", "context": "retrieval"}, "decoded has neither fast settings nor an"),
    ],
)
def test_parts_of_a_row_that_do_not_go_together_are_refused(parts, said):
    with pytest.raises(ValueError, match=said):
        Method(**parts)


def test_a_readout_is_never_written_back():
    rows = standard(FastSettings(), ADDRESSED)
    shared = GenerationSettings()
    assert rows["addressed"].settings(shared).addressed.own_chunks
    assert not rows["readout"].settings(shared).addressed.own_chunks
    kinds = [row for row in rows if rows[row].kind == "addressed"]
    assert kinds == (["addressed", "other_addressed", "readout"])
