from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ResNetConfig, ResNetModel

from sfv.metrics.resnet import ResNet18, load_resnet18
from sfv.metrics.scene_revisit import (
    AlexNetFeatures,
    ResNet18Features,
    SceneRevisit,
    check_visits,
    exchanged,
    revisit_lpips,
    revisit_psnr,
    scene_revisit_similarity,
    video_revisit_similarity,
)
from sfv.rng import stream
from tests.metrics.scenes import MeanColour, noisy, walk


def test_similarity_against_a_plain_loop() -> None:
    features = torch.randn(7, 5, generator=stream(0, "features"))
    visits = [[0, 4], [0, 6], [2, 3]]
    f = features.double().numpy()
    expected = [
        100 * np.dot(f[a], f[b]) / np.linalg.norm(f[a]) / np.linalg.norm(f[b]) for a, b in visits
    ]
    np.testing.assert_allclose(scene_revisit_similarity(features, visits).numpy(), expected)


def test_of_a_video_equals_that_of_all_its_frames() -> None:
    video = noisy(walk(1, 6)[0], 0.1)
    visits = [[3, 9], [1, 4], [3, 5]]
    expected = scene_revisit_similarity(MeanColour()(video), visits)
    torch.testing.assert_close(video_revisit_similarity(video, visits, MeanColour()), expected)


def test_a_perfect_walk_scores_the_ceiling_and_exchanged_visits_score_less() -> None:
    video, visits = walk(2, 12)
    network = AlexNetFeatures()
    assert video_revisit_similarity(video, visits, network).min() > 100 - 1e-3
    assert revisit_psnr(video, visits).tolist() == [100.0] * 11
    assert revisit_lpips(video, visits).abs().max() == 0
    floor = exchanged(visits, stream(0, "src-floor"))
    assert video_revisit_similarity(video, visits, network, floor).mean() < 99.9
    assert revisit_psnr(video, floor).mean() < 40


def test_features_are_computed_once_for_visits_and_exchanged_visits() -> None:
    video, visits = walk(2, 5)
    network = AlexNetFeatures()
    pairs = exchanged(visits, stream(0, "src-floor"))
    expected = video_revisit_similarity(video, pairs, network)
    video_revisit_similarity(video, visits, network)

    def fail(_: Tensor) -> list[Tensor]:
        raise AssertionError("computed again")

    network.network.layers = fail  # type: ignore[method-assign, assignment]
    same = video_revisit_similarity(video, visits, network, pairs)
    torch.testing.assert_close(same, expected)
    with pytest.raises(AssertionError, match="computed again"):
        video_revisit_similarity(noisy(video, 0.1), visits, network)


def test_exchanged_visits_never_show_their_own_place() -> None:
    laps = [[k, 10 * lap + k] for lap in (1, 2) for k in range(4)]
    for seed in range(20):
        pairs = exchanged(laps, stream(seed, "src-floor"))
        assert all(a % 10 != b % 10 for a, b in pairs)
        assert all(a < b for a, b in pairs)
    assert exchanged([[1, 2]], stream(0, "src-floor")) == []
    assert exchanged([[1, 2], [1, 3]], stream(0, "src-floor")) == []
    assert exchanged([[0, 5], [5, 9]], stream(0, "src-floor")) == [(0, 9)]


@pytest.mark.parametrize(
    ("visits", "message"),
    [
        ([], r"no revisits given; SRC needs pairs \[first_frame, later_frame\]"),
        ([[0, 3], [2, 8]], r"revisit \[2, 8\] in a video of 8 frames"),
        ([[3, 3]], "first_frame < later_frame"),
        ([[-1, 3]], "0 <= first_frame"),
        ([[1, 2, 3]], r"revisit \[1, 2, 3\]"),
    ],
)
def test_bad_revisits_are_named(visits: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_visits(visits, 8)


def test_class_averages_videos_whatever_their_number_of_visits() -> None:
    a, b = (noisy(walk(k, 6)[0], 0.3, k) for k in (1, 2))
    pairs_a, pairs_b = [[0, 10]], [[1, 9], [2, 8], [3, 7]]
    first, second = SceneRevisit(MeanColour()), SceneRevisit(MeanColour())
    first.update(a[None], [pairs_a])
    second.update(b[None], [pairs_b])
    first.merge_state(second)
    scores = [
        video_revisit_similarity(v, p, MeanColour()).mean() for v, p in ((a, pairs_a), (b, pairs_b))
    ]
    assert first.compute().item() == pytest.approx(float(sum(scores)) / 2)


def _torchvision_name(name: str) -> str:
    """Name of a tensor of transformers' ResNet in torchvision's ResNet-18."""
    norms = {"convolution": "conv", "normalization": "bn"}
    parts = name.split(".")
    if parts[0] == "embedder":
        return f"{norms[parts[2]]}1.{parts[-1]}"
    stage, block = int(parts[2]) + 1, parts[4]
    if parts[5] == "shortcut":
        return f"layer{stage}.{block}.downsample.{int(parts[6] == 'normalization')}.{parts[-1]}"
    return f"layer{stage}.{block}.{norms[parts[7]]}{int(parts[6]) + 1}.{parts[-1]}"


def _other_resnet() -> tuple[ResNetModel, dict[str, Tensor]]:
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        downsample_in_first_stage=False,
    )
    model = ResNetModel(config).eval()
    generator = stream(0, "resnet")
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.2 - 0.08)
                if name.endswith(("running_var", "normalization.weight")):
                    value.add_(1.0)
    return model, {_torchvision_name(k): v.clone() for k, v in model.state_dict().items()}


def test_resnet_equals_transformers_with_the_same_weights(tmp_path: Path) -> None:
    other, state = _other_resnet()
    save_file(state, tmp_path / "resnet.safetensors")
    torch.save(state | {"fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    frames = torch.rand(2, 3, 224, 224, generator=stream(0, "frames"))
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    with torch.no_grad():
        expected = other((frames - mean) / std).pooler_output.flatten(1)
    for file in ("resnet.safetensors", "resnet.pth"):
        ours = ResNet18Features(tmp_path / file)
        torch.testing.assert_close(ours(frames), expected, rtol=1e-3, atol=1e-4)
        assert len(ours.sha256) == 64


def test_a_file_that_is_no_resnet_is_named(tmp_path: Path) -> None:
    state = ResNet18().state_dict()
    del state["layer3.0.conv2.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"is not a ResNet-18.*first is layer3\.0\.conv2\.weight"):
        load_resnet18(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match="no ResNet-18 weights at"):
        load_resnet18(tmp_path / "absent.pth")
