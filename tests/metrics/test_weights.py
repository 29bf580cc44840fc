import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sfv.metrics.weights import (
    I3D_KINETICS,
    INSTALL,
    LPIPS_ALEX,
    WeightFile,
    WeightsMissing,
    WeightsRefused,
    conv_weight,
    find,
    load,
    read_arrays,
)


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_reads_arrays_under_flat_names() -> None:
    tree = {"a": {"b": np.arange(6.0).reshape(2, 3)}}
    read = read_arrays(pickle.dumps(tree))
    np.testing.assert_array_equal(read["a"]["b"], tree["a"]["b"])
    arrays = load(LPIPS_ALEX)
    assert arrays["AlexNet_0/Conv_0/kernel"].shape == (11, 11, 3, 64)
    assert sum(a.numel() for a in load(I3D_KINETICS).values()) == 12_704_544


def test_a_pickle_that_runs_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="only numpy arrays are allowed"):
        read_arrays(pickle.dumps({"a": _Touches(tmp_path / "made")}))
    assert not (tmp_path / "made").exists()
    evil = b"cos\nsystem\n(S'true'\ntR."
    with pytest.raises(WeightsRefused, match=r"asks for os\.system"):
        read_arrays(evil)


def test_a_pickle_of_something_else_is_refused() -> None:
    with pytest.raises(WeightsRefused, match="holds a list, expected a dict"):
        read_arrays(pickle.dumps([1, 2]))


def test_wrong_hash_names_both(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.zeros(3)})
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(data)
    with pytest.raises(WeightsRefused, match=LPIPS_ALEX.sha256) as caught:
        load(LPIPS_ALEX, file)
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    assert INSTALL in str(caught.value)


def test_a_given_path_is_read_when_the_hash_is_right(tmp_path: Path) -> None:
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(find(LPIPS_ALEX).read_bytes())
    installed = load(LPIPS_ALEX)["AlexNet_0/Conv_1/kernel"]
    assert torch.equal(load(LPIPS_ALEX, copy)["AlexNet_0/Conv_1/kernel"], installed)


@pytest.mark.parametrize("package", ["no_such_package_of_weights", "torchmetrics"])
def test_missing_weights_say_how_to_install(package: str) -> None:
    absent = WeightFile("some-net", package, "weights/none.ckpt", "0" * 64, "BSD")
    with pytest.raises(WeightsMissing, match="some-net weights are not installed") as caught:
        find(absent)
    assert INSTALL in str(caught.value)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"no file .*absent\.ckpt") as caught:
        find(LPIPS_ALEX, tmp_path / "absent.ckpt")
    assert "alexnet.ckpt" in str(caught.value)


def test_convolution_kernels_are_turned_around() -> None:
    kernel = torch.arange(2 * 3 * 5 * 7 * 11).reshape(2, 3, 5, 7, 11)
    turned = conv_weight(kernel)
    assert turned.shape == (11, 7, 2, 3, 5)
    assert turned[10, 6, 1, 2, 4] == kernel[1, 2, 4, 6, 10]
