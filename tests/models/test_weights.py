import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st
from quantised_linear import IntegerLinear
from torch import nn

import cna_lens


def parameters(**tensors):
    """Make a module with its parameters in the given order."""
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_parameter(name, nn.Parameter(tensor))
    return module


# The bridge splits the fused matrices of GPT-2 and Phi-3.
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_a_bridge_and_the_model_it_wraps_have_one_hash(family):
    wrapped = cna_lens.weights_hash(tiny.bridge(family))
    assert wrapped == cna_lens.weights_hash(tiny.hugging_face(family))


def test_the_same_weights_loaded_again_have_the_same_hash(model):
    again = tiny.bridge(model.cfg.model_name.removeprefix("tiny-"))
    assert cna_lens.weights_hash(again) == cna_lens.weights_hash(model)


def test_running_a_model_keeps_its_hash(model):
    before = cna_lens.weights_hash(model)
    cna_lens.generate(model, [[5, 6]], max_new_tokens=2)
    assert cna_lens.weights_hash(model) == before


@settings(max_examples=50, deadline=None)
@given(st.data(), strategies.families)
def test_any_changed_element_changes_the_hash(data, family):
    model = tiny.hugging_face(family)
    before = cna_lens.weights_hash(model)
    _, weight = data.draw(st.sampled_from(sorted(model.named_parameters())))
    place = data.draw(st.integers(0, weight.numel() - 1))
    with torch.no_grad():
        bits = weight.view(-1)[place : place + 1].view(torch.int32)
        bits ^= 1
        assert cna_lens.weights_hash(model) != before
        bits ^= 1
    assert cna_lens.weights_hash(model) == before


@pytest.mark.parametrize(
    "other",
    [
        parameters(a=torch.zeros(2, 3), c=torch.ones(4)),
        parameters(b=torch.zeros(2, 3), a=torch.ones(4)),
        parameters(a=torch.zeros(3, 2), b=torch.ones(4)),
        parameters(a=torch.zeros(6), b=torch.ones(4)),
        parameters(a=torch.zeros(2, 6, dtype=torch.bfloat16), b=torch.ones(4)),
        parameters(a=torch.zeros(2, 3), b=torch.ones(4).double()),
        parameters(a=torch.zeros(2, 3)),
        parameters(a=torch.zeros(2, 3), b=torch.ones(4), c=torch.ones(0)),
        parameters(a=-torch.zeros(2, 3), b=torch.ones(4)),
    ],
    ids=["name", "names swapped", "shape", "flat", "dtype", "wider", "fewer", "empty", "sign"],
)
def test_another_name_shape_dtype_or_bit_changes_the_hash(other):
    one = parameters(a=torch.zeros(2, 3), b=torch.ones(4))
    assert cna_lens.weights_hash(other) != cna_lens.weights_hash(one)


@pytest.mark.parametrize("buffer", ["qweight", "scales"])
def test_the_numbers_of_quantised_layers_change_the_hash(buffer):
    model = tiny.hugging_face("llama")
    down = model.model.layers[1].mlp.down_proj = IntegerLinear(model.model.layers[1].mlp.down_proj)
    before = cna_lens.weights_hash(model)
    numbers = getattr(down, buffer)
    kept = numbers.clone()
    numbers[-1] += 1
    assert cna_lens.weights_hash(model) != before
    numbers.copy_(kept)
    assert cna_lens.weights_hash(tiny.boot(model)) == before


def test_buffers_that_follow_from_the_configuration_are_no_weights():
    model = tiny.hugging_face("llama")
    before = cna_lens.weights_hash(model)
    model.model.rotary_emb.register_buffer("inv_freq", torch.ones(4))
    attention = model.model.layers[0].self_attn
    attention.register_buffer("bias", torch.ones((1, 1, 8, 8), dtype=torch.uint8))
    model.model.embed_tokens.register_buffer("hidden", torch.ones((2, 2), dtype=torch.bool))
    assert cna_lens.weights_hash(model) == before


def test_the_same_bytes_in_another_dtype_have_another_hash():
    half = parameters(a=torch.zeros(3, dtype=torch.float16))
    brain = parameters(a=torch.zeros(3, dtype=torch.bfloat16))
    assert cna_lens.weights_hash(half) != cna_lens.weights_hash(brain)


def test_neither_order_nor_memory_layout_matter():
    matrix = torch.arange(6.0).reshape(2, 3)
    one = parameters(a=matrix, b=torch.tensor(2.0))
    other = parameters(b=torch.tensor(2.0), a=matrix.t().contiguous().t())
    assert not other.a.is_contiguous()
    assert cna_lens.weights_hash(one) == cna_lens.weights_hash(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_steering_by_weights_changes_the_hash_and_restores_it(dtype):
    model = tiny.bridge("llama", dtype=dtype)
    circuit = cna_lens.Circuit(
        (cna_lens.Neuron(1, 3), cna_lens.Neuron(0, 2)),
        (1.0, 1.0),
        cna_lens.Layout((tiny.WIDTH, tiny.WIDTH)),
    )
    before = cna_lens.weights_hash(model)
    weights = reference.weights(model)
    with cna_lens.steer(model, circuit, 0.3, via="weights"):
        assert cna_lens.weights_hash(model) != before
    assert cna_lens.weights_hash(model) == before
    assert reference.same_bits(weights, reference.weights(model))
