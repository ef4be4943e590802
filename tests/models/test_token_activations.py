"""Activations at every token, compared with one prompt and one neuron at a time."""

import numpy as np
import pytest
import reference
import tiny
import torch
from quantised_linear import PackedLinear

import cna_lens
from cna_lens import InputError, Layout, Neuron, steer
from cna_lens.models.tokens import token_activations
from experiments.families.families import FAMILIES
from experiments.families.tiny_models import tiny_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
NEURONS = [Neuron(1, 3), Neuron(0, 20), Neuron(1, 0)]


def alone(model, prompt, neuron):
    seen = []

    def read(activation, hook):
        seen.append(activation[0, :, neuron.index].clone())

    model.run_with_hooks(
        torch.tensor([prompt]), fwd_hooks=[(f"blocks.{neuron.layer}.mlp.hook_post", read)]
    )
    return seen[0]


@pytest.mark.parametrize("batch_size", ["auto", 1, 2])
def test_each_activation_equals_that_of_one_prompt_alone(model, batch_size):
    found = cna_lens.token_activations(model, NEURONS, PROMPTS, batch_size=batch_size)
    assert found.neurons == tuple(NEURONS)
    for prompt, tokens, values in zip(PROMPTS, found.tokens, found.values, strict=True):
        assert tokens == tuple(f"w{token}" for token in prompt)
        expected = torch.stack([alone(model, prompt, neuron) for neuron in NEURONS], dim=1)
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_within_steer_activations_are_the_steered_models(llama):
    circuit = cna_lens.Circuit((Neuron(1, 3),), (1.0,), Layout((24, 24)))
    plain = cna_lens.token_activations(llama, circuit, PROMPTS)
    with steer(llama, circuit, 3.0, via="hooks"):
        steered = cna_lens.token_activations(llama, circuit, PROMPTS)
    for before, after in zip(plain.values, steered.values, strict=True):
        torch.testing.assert_close(after, 3 * before)


@pytest.mark.parametrize("one", [Neuron(1, 3), (1, 3), (np.int64(1), np.int64(3))])
def test_one_neuron_is_read_as_a_list_of_one(llama, without_type_checks, one):
    alone = cna_lens.token_activations(llama, one, PROMPTS)
    listed = cna_lens.token_activations(llama, [(1, 3)], PROMPTS)
    assert alone.neurons == listed.neurons == (Neuron(1, 3),)
    for ours, expected in zip(alone.values, listed.values, strict=True):
        torch.testing.assert_close(ours, expected)


def test_no_hook_stays_behind(llama):
    before = reference.hooks(llama)
    cna_lens.token_activations(llama, NEURONS, PROMPTS)
    assert reference.hooks(llama) == before


def test_the_strongest_prompts_come_first_by_tokens_after_the_first():
    nan = float("nan")
    rows = ([900.0, 1.0, -9.0], [nan], [800.0, nan, 4.0], [-1.0])
    found = cna_lens.TokenActivations(
        "made up",
        (Neuron(0, 0),),
        (("a", "b", "c"), ("d",), ("e", "f", "g"), ("h",)),
        tuple(torch.tensor(row)[:, None] for row in rows),
    )
    assert found.peaks == (1.0, -float("inf"), 4.0, -1.0)
    assert found.strongest(3).tokens == (("e", "f", "g"), ("a", "b", "c"), ("h",))
    assert len(found.strongest().tokens) == 4


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([], "no neurons"),
        ([(2, 0)], "layer 2 does not exist"),
        ([(0, 24)], "neuron 24 does not exist"),
        ("ab", "expected a circuit"),
        ((), "no neurons"),
        ((1, 3.0), "expected a circuit"),
        ((1, 0, 3), "neurons of experts"),
    ],
)
def test_neurons_that_cannot_be_read_are_refused(llama, without_type_checks, neurons, message):
    with pytest.raises(InputError, match=message):
        cna_lens.token_activations(llama, neurons, PROMPTS)


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([(-1, 3)], "layer -1 does not exist: the model has layers 0 to 1"),
        ([(9, 0)], "layer 9 does not exist"),
        ([(0, -1)], "neuron -1 does not exist in layer 0, which has neurons 0 to 23"),
        ([(1, 3), (1, 24)], "neuron 24 does not exist in layer 1"),
    ],
)
def test_neurons_that_quantised_layers_lack_are_refused(neurons, message):
    original = tiny.hugging_face("llama")
    for layer in original.model.layers:
        layer.mlp.down_proj = PackedLinear(layer.mlp.down_proj)
    with pytest.raises(InputError, match=message):
        cna_lens.token_activations(tiny.boot(original), neurons, PROMPTS)


def test_a_layer_without_an_mlp_is_refused_where_widths_are_unknown(monkeypatch):
    model = tiny_model(next(each for each in FAMILIES if each.name == "Llama, pruned")).model
    monkeypatch.setattr(token_activations, "layout_of", lambda _: None)
    (found,) = cna_lens.token_activations(model, (2, 39), [[5, 6]]).values
    torch.testing.assert_close(found[:, 0], alone(model, [5, 6], Neuron(2, 39)))
    with pytest.raises(InputError, match="layer 1 has no MLP"):
        cna_lens.token_activations(model, (1, 3), [[5, 6]])


def test_a_circuit_of_another_shape_is_refused(llama):
    circuit = cna_lens.Circuit((Neuron(1, 3),), (1.0,), Layout((24, 30)))
    with pytest.raises(cna_lens.CircuitMismatchError):
        cna_lens.token_activations(llama, circuit, PROMPTS)
