"""The gallery: what is shown, how large it may be, what the page says."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import gallery
from sfv.diffusion.sampler import SamplerSettings
from sfv.fast.learner import FastSettings
from sfv.fast.settings import LoRASettings
from sfv.generation.episodes import TrueEpisode
from sfv.generation.settings import GenerationSettings
from sfv.rng import stream
from tests.data.make import make_meta
from tests.fixtures import world

__all__ = ["world"]

QUICK = GenerationSettings(
    SamplerSettings(num_inference_steps=1),
    LoRASettings(r=2, alpha=2.0),
    FastSettings(num_steps=1, learning_rate=1e-2, probe_draws=0),
)


def episode_of(world, revisits=()):
    """3 frames, then 4 actions of 2, there and back."""
    meta = make_meta()
    changed = {"num_frames": 11, "height": 16, "width": 24, "revisits": revisits}
    actions = [("walk forward", 0, 3)] + [("turn left", 3 + 2 * i, 5 + 2 * i) for i in range(4)]
    kinds = tuple(type(meta.actions[0])(*action) for action in actions)
    meta = type(meta)(**{**vars(meta), **changed, "actions": kinds, "poses": None})
    video = torch.rand(11, 3, 16, 24, generator=stream(0, "gallery"))
    return TrueEpisode(meta, video, world.codec.encode(video[None]))


@pytest.mark.parametrize(
    ("given", "revisits", "num_given"),
    [("start", (), 3), ("way_out", ((4, 7), (3, 8)), 7)],
)
def test_panels_are_the_truth_no_memory_and_memory_behind_what_was_given(
    world, given, revisits, num_given
):
    episode = episode_of(world, revisits)
    frames, found = gallery.film(world, episode, given, QUICK, 1)
    assert found == num_given
    assert len(frames) == 11 - num_given
    panels = [frames[:, -16:, first : first + 24] for first in (0, 28, 56)]
    true = (episode.video[num_given:] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(panels[0], true)
    assert not np.array_equal(panels[1], true)
    if (
        given == "way_out"
    ):  # what was learned on the way out shows; the first chunk made is no longer equal
        assert not np.array_equal(panels[1][0], panels[2][0])
    else:
        assert np.abs(panels[1][:2].astype(int) - panels[2][:2]).max() <= 1


def test_a_walk_that_never_comes_back_has_no_way_out(world):
    with pytest.raises(ValueError, match="never comes back"):
        gallery.film(world, episode_of(world), "way_out", QUICK, 1)


def test_pictures_loop_and_fit(monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    large = gallery.encode(frames, 8, "walk")
    monkeypatch.setattr(gallery, "MAX_BYTES", len(large) - 1)
    small = gallery.encode(frames, 8, "walk")
    assert len(small) < len(large)
    monkeypatch.setattr(gallery, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"walk: .* at most 100"):
        gallery.encode(frames, 8, "walk")
    with Image.open(BytesIO(small)) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (4, 0)


def test_the_page_says_what_is_shown_and_how_it_was_made(tmp_path):
    walk = gallery.Walk("doom-1", ("turn left", "walk forward"), 56, "doom-1.webp", 10)
    text = gallery.list_of([walk], gallery.Path("gallery"), "way_out", 3, "python -m x", "f00d")
    assert "![doom-1: true, without memory, with memory](gallery/doom-1.webp)" in text
    assert "seed 3" in text and "`f00d`" in text and "    python -m x" in text
    assert "56 frames given, then: turn left, walk forward." in text


def test_a_page_without_markers_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "page.md").write_text("# Gallery\n")
    words = f"--model {tmp_path}/no --episodes {tmp_path}/no --page {tmp_path}/page.md"
    assert gallery.main(words.split()) == 2
    assert "has no lines '<!-- gallery: begin -->'" in capsys.readouterr().err
