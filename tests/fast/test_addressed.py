from itertools import pairwise

import pytest
import torch

from sfv.fast.addressed import (
    AddressedState,
    as_latents,
    as_values,
    fresh,
    merge,
    read,
    write,
)
from sfv.fast.keys import FourierKeys, plane_bandwidths
from sfv.models.odometry import DOOM, ActionOdometry
from sfv.rng import stream
from sfv.storage.weight_files import read_tensors, write_tensors

E, C, H, W, F, D = 3, 2, 4, 5, 6, 32
V = C * H * W
RIDGE = 1e-2


def drawn(num_frames, *keys, num=E, size=D):
    """Keys of length 1, and latents that are far from a mean of zero."""
    generator = stream(0, "addressed-test", *keys)
    found = torch.randn(num, num_frames, size, generator=generator)
    latents = torch.randn(num, C, num_frames, H, W, generator=generator)
    return found / found.norm(dim=2, keepdim=True), latents + 2


def written(keys, latents, cuts=(), state=None, ridge=RIDGE):
    """A memory of all frames, cut into chunks."""
    state = fresh(len(keys), keys.shape[2], V, ridge) if state is None else state
    for start, stop in pairwise([0, *cuts, keys.shape[1]]):
        state = write(state, keys[:, start:stop], latents[:, :, start:stop])
    return state


def batch_ridge(keys, latents, ridge=RIDGE):
    """The naive solution in float64, an episode at a time: W and P."""
    found = []
    for k, frames in zip(keys.double(), as_values(latents).double(), strict=True):
        gram = k.T @ k + ridge * torch.eye(k.shape[1], dtype=torch.float64)
        found.append((torch.linalg.solve(gram, k.T @ frames), gram.inverse()))
    return (torch.stack(part) for part in zip(*found, strict=True))


def close(found, expected, tolerance):
    error = (found.double() - expected).norm() / expected.norm()
    assert error < tolerance, float(error)


@pytest.mark.parametrize("cuts", [(6,), (6, 7, 19), (6, 12, 18, 24)])
def test_any_chunks_give_batch_ridge_regression(cuts):
    keys, latents = drawn(40)
    state = written(keys, latents, cuts)
    weights, covariance = batch_ridge(keys, latents)
    close(state.weights, weights, 1e-5)
    close(state.covariance, covariance, 1e-5)


def test_one_frame_by_the_formula():
    """S = 1 + 1/λ, so r at the same key is the value times 1/(1+λ), and u = λ/(1+λ)."""
    keys, latents = drawn(1)
    values, uncertainty = read(write(fresh(E, D, V, RIDGE), keys, latents), keys)
    torch.testing.assert_close(values, as_values(latents) / (1 + RIDGE))
    torch.testing.assert_close(uncertainty, torch.full((E, 1), RIDGE / (1 + RIDGE)))


def test_a_fresh_memory_reads_nothing_and_knows_it():
    values, uncertainty = read(fresh(E, D, V), drawn(F)[0])
    assert torch.equal(values, torch.zeros(E, F, V))
    torch.testing.assert_close(uncertainty, torch.ones(E, F))


def test_uncertainty_is_that_of_ridge_regression_and_never_grows():
    keys, latents = drawn(40)
    asked = drawn(9, "asked")[0]
    state, before = fresh(E, D, V, RIDGE), torch.ones(E, 9)
    for chunk in range(0, 40, 8):
        state = write(state, keys[:, chunk : chunk + 8], latents[:, :, chunk : chunk + 8])
        now = read(state, asked)[1]
        assert (now <= before + 1e-6).all() and (now >= 0).all()
        before = now
    _, covariance = batch_ridge(keys, latents)
    expected = RIDGE * torch.einsum("etk,ekl,etl->et", asked.double(), covariance, asked.double())
    torch.testing.assert_close(before.double(), expected, rtol=1e-4, atol=1e-6)


def test_episodes_of_a_batch_do_not_touch_each_other():
    keys, latents = drawn(14)
    together = written(keys, latents, (6,))
    for i in range(E):
        alone = written(keys[i : i + 1], latents[i : i + 1], (6,))
        torch.testing.assert_close(together.weights[i], alone.weights[0])
        torch.testing.assert_close(together.covariance[i], alone.covariance[0])


def test_writing_leaves_the_state_before_the_pair_as_it_was():
    keys, latents = drawn(12)
    before = written(keys[:, :6], latents[:, :, :6])
    copies = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    write(before, keys[:, 6:], latents[:, :, 6:])
    assert all(torch.equal(copies[name], t) for name, t in before.state_dict().items())


def walk(num_frames, seed):
    """Actions of a Doom walk that returns and comes back again, one a frame."""
    generator = stream(seed, "addressed-walk")
    back = {
        "walk forward": "walk backward",
        "turn left": "turn right",
        "walk backward": "walk forward",
        "turn right": "turn left",
    }
    names = list(back)
    picks = torch.randint(4, (num_frames // 32,), generator=generator).tolist()
    out = [names[i] for i in picks for _ in range(8)]
    return (out + [back[a] for a in reversed(out)]) * 2


@pytest.mark.parametrize("kind", ["walk", "same place"])
def test_two_thousand_frames_in_float32_equal_batch_regression_in_float64(kind):
    """Returns make the regression as badly conditioned as it gets: (2000 + λ) / λ."""
    keys_of = FourierKeys([plane_bandwidths(96.0)], 128)
    actions = walk(2000, 3) if kind == "walk" else walk(64, 3) * 32
    keys = keys_of(ActionOdometry(DOOM)(actions))[None]
    assert keys.shape[1] >= 1984
    latents = drawn(keys.shape[1], kind, num=1)[1]
    state = fresh(1, 128, V, RIDGE)
    for start in range(0, keys.shape[1], 8):
        state = write(state, keys[:, start : start + 8], latents[:, :, start : start + 8])
    weights, covariance = batch_ridge(keys, latents)
    close(state.weights, weights, 1e-3)
    close(state.covariance, covariance, 1e-4)
    close(read(state, keys)[0], keys.double() @ weights, 2e-3)
    assert torch.equal(state.covariance, state.covariance.mT)
    assert torch.linalg.eigvalsh(state.covariance.double()).min() > 0
    asked = keys_of(ActionOdometry(DOOM)(walk(400, 4)))[None]
    found = read(state, asked)[1]
    expected = RIDGE * ((asked.double() @ covariance) * asked.double()).sum(dim=2)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_merged_halves_equal_the_whole():
    keys, latents = drawn(600)
    whole = written(keys, latents, tuple(range(8, 600, 8)))
    cuts = tuple(range(8, 300, 8))
    halves = [written(keys[:, s], latents[:, :, s], cuts) for s in (slice(300), slice(300, None))]
    merged = merge(halves)
    for name, expected in whole.state_dict().items():
        close(getattr(merged, name), expected.double(), 1e-4)
    assert merged.weights.dtype == merged.covariance.dtype == torch.float32


def test_merging_with_an_empty_memory_changes_nothing():
    keys, latents = drawn(20)
    full, empty = written(keys, latents, (6,)), fresh(E, D, V, RIDGE)
    for states in ([full, empty], [empty, full], [full]):
        merged = merge(states)
        for name, expected in full.state_dict().items():
            torch.testing.assert_close(getattr(merged, name), expected, rtol=1e-4, atol=1e-5)


def test_memories_that_differ_are_not_merged():
    with pytest.raises(ValueError, match="no memory to merge"):
        merge([])
    for other in (fresh(E, D + 2, V), fresh(E, D, V, 0.5)):
        with pytest.raises(ValueError, match=r"of shapes .* cannot be merged"):
            merge([fresh(E, D, V), other])


def test_gradients_reach_keys_latents_and_ridge():
    """Against finite differences of the naive solution in float64."""
    keys, latents = drawn(10, num=1, size=6)
    asked = drawn(3, "asked", num=1, size=6)[0]
    weigh = torch.randn(3, V, generator=stream(0, "weigh")).double()

    def score(keys, latents, ridge):
        """Of what is read from the naive solution."""
        frames = as_values(latents)
        gram = keys.mT @ keys + ridge * torch.eye(6, dtype=keys.dtype)
        inverse = gram.inverse()
        far = asked.to(keys)
        u = ridge * ((far @ inverse) * far).sum()
        return (far @ inverse @ keys.mT @ frames * weigh.to(keys)).sum() + u

    inputs = [keys, latents, torch.tensor(0.3)]
    exact = [value.double().requires_grad_() for value in inputs]
    expected = torch.autograd.grad(score(*exact), exact)
    ours = [value.clone().requires_grad_() for value in inputs]
    state = written(ours[0], ours[1], (4, 7), fresh(1, 6, V, ours[2]))
    values, uncertainty = read(state, asked)
    total = (values * weigh.float()).sum() + uncertainty.sum()
    for mine, theirs in zip(torch.autograd.grad(total, ours), expected, strict=True):
        close(mine, theirs, 1e-3)


def test_gradients_pass_through_a_merge():
    keys, latents = drawn(12)
    keys.requires_grad_()
    halves = [written(keys[:, s], latents[:, :, s], (3,)) for s in (slice(6), slice(6, None))]
    (found,) = torch.autograd.grad(merge(halves).weights.square().sum(), keys)
    whole = written(keys, latents, (3, 6))
    (expected,) = torch.autograd.grad(whole.weights.square().sum(), keys)
    close(found, expected.double(), 1e-3)


def test_autocast_does_not_reach_the_memory():
    keys, latents = drawn(20)
    expected = read(written(keys, latents, (6,)), keys)
    with torch.autocast("cpu", torch.bfloat16):
        found = read(written(keys, latents, (6,)), keys)
    assert torch.equal(found[0], expected[0])
    assert written(keys, latents.bfloat16(), (6,)).weights.dtype == torch.float32


def test_a_file_gives_the_same_memory_back(tmp_path):
    keys, latents = drawn(12)
    state = written(keys, latents, (6,))
    write_tensors(tmp_path / "memory.safetensors", state.state_dict(), {})
    again = AddressedState.from_state_dict(read_tensors(tmp_path / "memory.safetensors")[0])
    assert all(torch.equal(getattr(again, n), t) for n, t in state.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "an addressed memory holds"),
        ({"other": torch.zeros(1)}, "an addressed memory holds"),
        ({"covariance": torch.zeros(E, D, D + 1)}, "do not fit each other"),
        ({"weights": torch.zeros(3)}, "do not fit each other"),
        ({"ridge": torch.zeros(E)}, "λ must be above 0"),
    ],
)
def test_a_file_that_is_no_memory_is_refused(change, message):
    tensors = fresh(E, D, V).state_dict() | change
    with pytest.raises(ValueError, match=message):
        AddressedState.from_state_dict({n: t for n, t in tensors.items() if t is not None})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 2, 3), "num_episodes=0"), ((1, 0, 3), "key_size=0"), ((1, 2, 0), "value_size=0")],
)
def test_sizes_below_one_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        fresh(*sizes)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ridge_that_is_none_is_refused(ridge):
    with pytest.raises(ValueError, match="λ must be above 0"):
        fresh(1, 2, 3, ridge)


def test_what_is_no_number_is_named():
    keys, latents = drawn(6)
    with pytest.raises(ValueError, match="lost its precision"):
        write(fresh(E, D, V), keys * float("nan"), latents)


def test_rows_and_latents_are_the_same_numbers():
    latents = drawn(F)[1]
    rows = as_values(latents)
    assert torch.equal(rows[1, 2].view(C, H, W), latents[1, :, 2])
    assert torch.equal(as_latents(rows, (C, H, W)), latents)
