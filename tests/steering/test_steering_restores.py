from contextlib import suppress

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron

CIRCUIT = Circuit(
    (Neuron(1, 3), Neuron(0, 2), Neuron(1, 20)), (3.0, 2.0, 1.0), Layout((tiny.WIDTH,) * 2)
)
IDS = torch.tensor([[5, 6, 7]])
HOW = (
    {"multiplier": 0.3, "via": "weights"},
    {"multiplier": 0.0, "via": "weights"},
    {"multiplier": 0.3, "via": "hooks"},
    {"multiplier": 0.3, "positions": "last_prompt"},
    {"values": [1.0, 2.0, 3.0]},
    {"values": [1.0, 2.0, 3.0], "positions": "generated"},
)
ENDS = (None, ValueError, KeyboardInterrupt)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def fresh(request):
    return reference.settled(tiny.bridge("llama", dtype=request.param))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", HOW, ids=str)
def test_weights_and_hooks_are_restored_however_the_context_ends(fresh, how, end):
    weights, hooks = reference.weights(fresh), reference.hooks(fresh)
    with suppress(ValueError, KeyboardInterrupt), cna_lens.steer(fresh, CIRCUIT, **how):
        fresh(IDS)
        during = reference.weights(fresh), reference.hooks(fresh)
        assert not (reference.same_bits(weights, during[0]) and hooks == during[1])
        if end:
            raise end
    assert reference.same_bits(weights, reference.weights(fresh))
    assert reference.hooks(fresh) == hooks


@pytest.mark.parametrize("error", ENDS[1:])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_an_error_in_a_users_hook_leaves_the_users_hooks_and_the_weights(llama, how, error):
    fired = []

    def fail(activation, hook):
        fired.append(True)
        raise error

    weights = reference.weights(reference.settled(llama))
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", fail)]):
        hooks = reference.hooks(llama)
        with pytest.raises(error), cna_lens.steer(llama, CIRCUIT, **how):
            llama(IDS)
        assert reference.hooks(llama) == hooks
        with pytest.raises(error):
            llama(IDS)
    assert len(fired) == 2
    assert reference.same_bits(weights, reference.weights(llama))


def test_nested_contexts_restore_the_weights_on_return_and_on_interrupt(llama):
    weights = reference.weights(llama)
    with suppress(KeyboardInterrupt), cna_lens.steer(llama, CIRCUIT, 0.0, via="weights"):
        outer = reference.weights(llama)
        with cna_lens.steer(llama, CIRCUIT, 7.0, via="weights"):
            pass
        assert reference.same_bits(outer, reference.weights(llama))
        with cna_lens.steer(llama, CIRCUIT, -0.1, via="weights"):
            raise KeyboardInterrupt
    assert reference.same_bits(weights, reference.weights(llama))


def test_weights_that_are_not_finite_are_restored_too():
    model = tiny.bridge("llama")
    weight = model.blocks[0].mlp.out.original_component.weight
    with torch.no_grad():
        weight[3, 2] = float("inf")
    weights = reference.weights(model)
    with cna_lens.steer(model, CIRCUIT, 0.0, via="weights"):
        pass
    assert reference.same_bits(weights, reference.weights(model))


def test_steering_by_weights_leaves_the_users_gradients_alone(llama):
    with cna_lens.steer(llama, CIRCUIT, 0.5, via="weights"):
        loss = llama(IDS).square().mean()
        loss.backward()
    weight = llama.blocks[0].mlp.out.original_component.weight
    assert weight.grad is not None
    assert weight.requires_grad
    llama.zero_grad()
