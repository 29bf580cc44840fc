import pytest
import torch
from torch.utils.checkpoint import CheckpointError

from sfv.backbones.base import Backbone
from sfv.backbones.recompute import recompute_activations
from sfv.training.speedups import compile_blocks
from tests.training.make import make_learner
from tests.training.rank_jobs import adam, compiled, fused, learned, make_fast, own_batch
from tests.training.ranks import on_ranks


@pytest.fixture(scope="module")
def plain(data):
    return learned(make_learner(data))


def check(found, plain, **tolerance):
    for ours, expected in zip(found[:2], plain[:2], strict=True):
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, **tolerance)
    torch.testing.assert_close(found[2], plain[2], **tolerance)


def test_recomputed_layers_give_the_same_numbers_with_and_without_memory(data, plain):
    learner = make_learner(data)
    names = sorted(learner.state_dict())
    recompute_activations(learner.denoiser)
    check(learned(learner), plain, rtol=0, atol=0)
    assert sorted(learner.state_dict()) == names


def test_recomputed_layers_keep_fewer_activations(data):
    def kept(learner):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            learner._loss(*own_batch(0, 0))
        return sum(sizes)

    learner = make_learner(data)
    before = kept(learner)
    recompute_activations(learner.denoiser)
    assert kept(learner) < before / 3


def test_a_memory_that_is_gone_before_the_backward_pass_is_an_error(data):
    """Without it the layers would be computed again without Θ: gradients of another network."""
    learner = make_learner(data)
    recompute_activations(learner.denoiser)
    fast, lora = make_fast(learner)
    with lora.use(fast.fresh("episode").theta[None]):
        loss = learner._loss(*own_batch(0, 0))
    with pytest.raises(CheckpointError):
        loss.backward()


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers_with_and_without_memory(data, plain, tmp_path):
    """In a process of its own: the compiler does not take the tests' checks of shapes."""
    (found,) = on_ranks(1, compiled, tmp_path / "out", data)
    check(found, plain, rtol=1e-4, atol=1e-6)


def test_a_fused_optimiser_takes_the_same_step(data):
    found = []
    for make in (adam, fused):
        learner = make_learner(data)
        optimizer = make(learner.parameters())
        learner._loss(*own_batch(0, 0)).backward()
        optimizer.step()
        found.append(learner.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-7)


def test_networks_without_such_layers_are_refused():
    with pytest.raises(ValueError, match="activation_checkpointing is on, but Backbone names no"):
        recompute_activations(Backbone())
    with pytest.raises(
        ValueError, match="compile_backend is 'inductor', but Linear names no blocks"
    ):
        compile_blocks(torch.nn.Linear(2, 2), "inductor")
