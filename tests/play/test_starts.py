"""What a visit can begin with: files, episodes with their way out, a model's example."""

import pytest
import torch

from sfv.generation.episodes import load_episodes
from sfv.generation.tasks import read_start
from sfv.models.world_model import WorldModel
from sfv.play.starts import find_starts
from tests.evaluation.benchmark.make import CHUNK, CONTEXT, FIRST, make_benchmark, make_world
from tests.play.serve import write_example


def test_an_episode_that_comes_back_brings_its_way_out(tmp_path):
    """The frames that follow the start are those of its second action, also behind a longer first one."""
    world = WorldModel.load(make_world(tmp_path / "world"))
    folder = make_benchmark(tmp_path / "walks") / "test"
    for found in find_starts(world, None, folder, 2, 8):
        (episode,) = (e for e in load_episodes(folder, world, 2) if e.meta.id == found.name)
        num = len(episode.actions) // 2
        joined = torch.cat([found.latents, *found.shown], dim=2)
        assert torch.equal(joined, episode.latents[:, :, FIRST - CONTEXT : FIRST + num * CHUNK])
        assert {len(found.shown), len(found.way_back)} == {num}
        assert list(found.way_back) == episode.actions[num:]


def test_the_example_of_a_model_is_a_way_out_and_the_actions_back(tmp_path, world):
    write_example(tmp_path)
    example = (tmp_path / "shown.mp4", tmp_path / "actions.txt")
    (found,) = find_starts(world, None, None, None, 8.0, example=example)
    video = read_start(example[0], None)
    assert torch.equal(torch.cat([found.latents, *found.shown], dim=2), world.encode(video))
    assert [chunk.shape[2] for chunk in found.shown] == [2, 2]
    assert list(found.way_back) == ["turn right", "walk backward"]


def test_a_file_alone_has_no_way_out(tmp_path, world):
    write_example(tmp_path)
    (found,) = find_starts(world, tmp_path / "shown.mp4", None, None, 8)
    assert (found.latents.shape[2], found.shown, found.way_back) == (3, (), ())
    with pytest.raises(ValueError, match="nothing to begin with"):
        find_starts(world, None, None, None, 8)
