"""The tree of futures: what is made again must be equal, bit for bit."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from sfv.fast.memory_file import load_memory, save_memory
from sfv.generation.rollout import Request
from sfv.generation.settings import rollout_of, settings_from
from sfv.play.actions import Actions
from sfv.play.player import Stopped, from_strip, to_strip
from sfv.play.session import NoRoom, UnknownNode, Visit
from tests.play.conftest import SETTINGS

ROWS = ("none", "fast")


def begin(player, start, memory="fast"):
    return Visit(start, player.begin(start, player.strip(start.latents), memory), 9)


def drive(player, visit, *actions, watch=lambda progress: None):
    """Make chunks from where the visitor stands; their numbers."""
    made = []
    for action in actions:
        task = player.task(visit, visit.here, action)
        made.append(visit.add(visit.here, player.make(task, watch)).number)
    return made


def assert_equal(a, b):
    """Two chunks are the same to the last bit: frames, pictures, Θ, optimiser, what the guard watches."""
    a, b = a.made, b.made
    assert a.latents.keys() == b.latents.keys()
    for row in a.latents:
        assert torch.equal(a.latents[row], b.latents[row]) and a.strips[row] == b.strips[row]
    assert a.memory.header == b.memory.header
    for ours, theirs in ((a.memory.weights, b.memory.weights), (a.memory.extras, b.memory.extras)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (a.learned.loss, a.learned.drift) == (b.learned.loss, b.learned.drift)


@pytest.fixture(scope="module")
def walk(player, starts):
    """A walk of three chunks; tests leave these as they are."""
    visit = begin(player, starts[0])
    drive(player, visit, "walk forward", "turn left", "walk backward")
    return visit


@pytest.mark.slow
def test_chunks_are_those_of_a_rollout(player, walk, starts, world):
    """The page's chunks are what `sfv rollout` makes of the same start and actions in one go."""
    actions = [node.made.action for node in walk.path(3)[1:]]
    for row in ROWS:
        made = list(player.rollouts[row].stream(Request("hall", starts[0].latents, actions)))
        for chunk, node in zip(made, walk.path(3)[1:], strict=True):
            assert torch.equal(chunk.generated, node.made.latents[row])
    assert made[-1].learned.loss == walk.node(3).made.learned.loss
    assert torch.equal(walk.node(1).made.latents["none"], walk.node(1).made.latents["fast"])
    assert not torch.equal(walk.node(2).made.latents["none"], walk.node(2).made.latents["fast"])


@pytest.mark.slow
def test_going_back_and_on_equals_going_on(player, walk, starts):
    """Also after another future was made in between, and with the first one gone."""
    visit = begin(player, starts[0])
    drive(player, visit, "walk forward", "turn left")
    visit.rewind(1)
    (fork,) = drive(player, visit, "turn right")
    assert visit.path(fork)[1].number == 1 and visit.here == fork == 3
    assert not torch.equal(visit.node(2).made.latents["fast"], visit.node(3).made.latents["fast"])
    visit.remove(2)
    visit.rewind(1)
    again = drive(player, visit, "turn left", "walk backward")
    assert again == [4, 5], "numbers are not used twice"
    for ours, theirs in zip(visit.path(5)[1:], walk.path(3)[1:], strict=True):
        assert_equal(ours, theirs)


def test_a_saved_memory_goes_on_as_the_page_does(walk, world, tmp_path):
    """What is downloaded at chunk 2 holds all that chunk 3 needs."""
    save_memory(tmp_path / "m.memory.safetensors", walk.node(2).made.memory)
    stored = load_memory(tmp_path / "m.memory.safetensors", world.fingerprint())
    settings = settings_from(stored.header.settings, stored.header.kind, "it")
    assert asdict(settings) == asdict(SETTINGS) and stored.header.num_chunks == 2
    with rollout_of(_copy(world), "fast", settings) as other:
        memory = other.learner.restore(stored)
        context = stored.extras["context"]
        (chunk,) = other.stream(Request("hall", context, ["walk backward"], memory=memory))
    assert torch.equal(chunk.generated, walk.node(3).made.latents["fast"])


def _copy(world):
    """The player's denoiser has an adapter already."""
    import copy

    from sfv.backbones.base import base_state_dict
    from sfv.backbones.video_unet import VideoUNet
    from sfv.models.world_model import WorldModel

    denoiser = VideoUNet("tiny", latent_channels=5, text_dim=7)
    denoiser.load_state_dict(base_state_dict(world.denoiser))
    denoiser.requires_grad_(False).eval()
    return WorldModel(denoiser, copy.copy(world.codec), world.text, world.schedule, 3, 2)


def test_a_stopped_chunk_leaves_nothing_behind(player, walk, starts):
    visit = begin(player, starts[0])
    drive(player, visit, "walk forward")
    task = player.task(visit, 1, "turn left")

    def stop_in_the_middle(progress):
        if (progress.row, progress.step) == ("fast", 1):
            task.stop.set()

    with pytest.raises(Stopped):
        player.make(task, stop_in_the_middle)
    drive(player, visit, "turn left")
    assert_equal(visit.node(2), walk.node(2))


def test_what_is_told_while_a_chunk_is_made(player, starts):
    visit, told = begin(player, starts[0]), []
    drive(player, visit, "walk forward", watch=told.append)
    stages = [(p.row, p.stage, p.step, p.num_steps) for p in told]
    assert stages == [
        ("none", "sampling", 1, 2), ("none", "sampling", 2, 2), ("none", "done", 2, 2),
        ("fast", "sampling", 1, 2), ("fast", "learning", 2, 2), ("fast", "done", 2, 2),
    ]  # fmt: skip
    previews = [from_strip(p.strip, 16) for p in told if p.strip is not None]
    assert [p.strip is not None for p in told] == [True, False, True] * 2
    assert {p.shape for p in previews} == {(2, 16, 24, 3)}
    assert told[-1].strip == visit.node(1).made.strips["fast"]


def test_the_context_reaches_back_over_chunks(walk):
    """f_p = 3 is more than the two frames of a chunk."""
    frames = torch.cat([node.made.latents["fast"] for node in walk.path(3)], dim=2)
    assert torch.equal(walk.context(3, "fast", 3), frames[:, :, -3:])
    assert torch.equal(walk.context(0, "fast", 2), frames[:, :, 1:3])


def test_a_strip_holds_its_frames():
    frames = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    assert np.array_equal(from_strip(to_strip(frames), 4), frames)


def test_a_visit_holds_no_more_than_it_may(walk):
    visit = Visit(walk.start, walk.node(0).made, 2)
    visit.add(0, walk.node(1).made)
    visit.add(1, walk.node(2).made)
    with pytest.raises(NoRoom, match="holds 2 chunks, the most it may: remove a future"):
        visit.check_room()
    visit.remove(2)
    assert (visit.here, visit.num_chunks) == (1, 1)
    visit.check_room()


def test_removing_takes_all_that_follows_and_nothing_else(walk):
    visit = Visit(walk.start, walk.node(0).made, 9)
    for parent in (0, 1, 2, 1, 4):
        visit.here = parent
        visit.add(parent, walk.node(1).made)
    visit.rewind(3)
    visit.remove(2)
    assert sorted(visit.nodes) == [0, 1, 4, 5] and visit.here == 1
    with pytest.raises(ValueError, match="the start cannot be removed"):
        visit.remove(0)
    for call in (visit.rewind, visit.remove, visit.path, lambda n: visit.add(n, walk.node(1).made)):
        with pytest.raises(UnknownNode, match="there is no chunk 2; it was removed"):
            call(2)


def test_who_has_gone_elsewhere_is_not_moved_by_a_finished_chunk(walk):
    visit = Visit(walk.start, walk.node(0).made, 9)
    visit.add(0, walk.node(1).made)
    visit.add(0, walk.node(1).made)
    assert visit.here == 1


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (
            ["walk forward", "walk backward", "turn left", "turn right"],
            ["ArrowUp w 1", "ArrowDown s 2", "ArrowLeft a 3", "ArrowRight d 4"],
        ),
        (["strafe left", "turn left slowly", "turn left"], ["1", "2", "ArrowLeft a 3"]),
        (["jump"], ["1"]),
    ],
)
def test_keys_follow_the_names_of_actions(given, keys):
    class Table:
        actions = ("", *given)

    assert [" ".join(each) for each in Actions(Table()).offered_keys()] == keys


def test_actions_from_outside_are_checked(actions):
    assert actions.check(" turn left ") == "turn left"
    for wrong, said in (
        (3, "wanted is a text"),
        (" ", "wanted"),
        ("fly", "does not know the action 'fly'"),
    ):
        with pytest.raises(ValueError, match=said):
            actions.check(wrong)
    free = Actions(object(), ["open the door", "open the door", "wait"])
    assert free.takes_any and free.offered == ["open the door", "wait"]
    assert free.check("fly") == "fly"
    for wrong in ("a" * 201, "a\nb"):
        with pytest.raises(ValueError, match="allowed are 200 printable ones"):
            free.check(wrong)
