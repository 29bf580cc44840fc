"""Moves of imagined chunks against the true ones, with a world and a reader whose answers are known."""

import pytest
import torch

from experiments.imagined_moves import ChunkMove, chunk_moves, main, table
from sfv.data.schema import Action
from sfv.diffusion.sampler import SamplerSettings
from sfv.generation.chunk_sampler import ChunkSampler
from sfv.models.inverse_dynamics import InverseDynamics, InverseReader
from sfv.rng import stream
from tests.data.make import make_meta
from tests.fixtures import world

__all__ = ["world"]

LEFT, RIGHT = "turn left", "walk forward"


def walk(**changes):
    """A given chunk of 3 frames, an action of two chunks, one of one, and a frame too few for another."""
    actions = (Action(RIGHT, 0, 3), Action(LEFT, 3, 7), Action(RIGHT, 7, 9), Action(LEFT, 9, 10))
    poses = tuple((0.5 * i, 0.0, 0.0, 0.0) for i in range(10))
    about = {"num_frames": 10, "height": 16, "width": 24, "actions": actions, "poses": poses}
    meta = make_meta()
    return type(meta)(**{**vars(meta), **about, "revisits": (), **changes})


@pytest.fixture
def reader(monkeypatch):
    """Reads every pair as LEFT and as a step of 0.25 forward."""
    model = InverseDynamics((LEFT, RIGHT), side=16, widths=(8,), hidden=8)

    def forward(before, after):
        pose = torch.tensor([0.25, 0.0, 0.0, 0.0]).expand(len(before), 4)
        return torch.tensor([1.0, 0.0]).expand(len(before), 2), pose

    monkeypatch.setattr(model, "forward", forward)
    return InverseReader(model)


def test_every_chunk_behind_a_context_is_imagined_and_read(world, reader):
    video = torch.rand(10, 3, 16, 24, generator=stream(0, "moves"))
    sampler = ChunkSampler(world, SamplerSettings(num_inference_steps=1))
    found = chunk_moves(walk(), video, sampler, reader)
    assert [move.action for move in found] == [LEFT, LEFT, RIGHT]
    for move in found:
        assert move.true.tolist() == [1.0, 0.0, 0.0]  # two steps of 0.5
        assert move.imagined.tolist() == move.reader.tolist() == [0.5, 0.0, 0.0]
    assert [move.read_as for move in found] == [1.0, 1.0, 0.0]


def test_episodes_that_cannot_be_measured_are_named(world, reader):
    sampler = ChunkSampler(world, SamplerSettings(num_inference_steps=1))
    video = torch.zeros(10, 3, 16, 24)
    with pytest.raises(ValueError, match="has no poses"):
        chunk_moves(walk(poses=None), video, sampler, reader)
    with pytest.raises(ValueError, match="has no action of 2 frames behind 3 others"):
        chunk_moves(walk(actions=(Action(LEFT, 9, 10),)), video, sampler, reader)


def test_the_table_has_a_line_an_action_and_one_of_all():
    def move(action, true, imagined, read_as):
        return ChunkMove(
            action, torch.tensor(true), torch.tensor(imagined), torch.tensor(true), read_as
        )

    lines = table(
        [
            move(LEFT, [2.0, 0.0, 0.0], [1.0, 0.0, 0.0], 0.5),
            move(LEFT, [2.0, 0.0, 0.0], [2.0, 0.0, 3.0], 1.0),
            move(RIGHT, [0.0, 4.0, 0.0], [0.0, 4.0, 0.0], 0.0),
        ]
    ).splitlines()
    assert lines[1].split() == ["turn", "left", "2", "2", "2", "2", "0.75", "0", "0.75"]
    assert lines[2].split() == ["walk", "forward", "1", "4", "0", "0", "1", "0", "0"]
    assert lines[3].split() == ["all", "3", "2.667", "1.333", "1", "0.9167", "0", "0.5"]


def test_the_command_names_what_is_missing(tmp_path, capsys):
    args = [
        "--model=reference-doom",
        "--inverse=reference-doom",
        f"--episodes={tmp_path}",
        "--device=cpu",
    ]
    assert main(args) == 2
    assert "experiments.imagined_moves: " in capsys.readouterr().err
