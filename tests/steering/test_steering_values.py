from dataclasses import replace

import pytest
import reference
import tiny
import torch
from steered import IDS, LAYOUT, logits, plain

import cna_lens
from cna_lens import Circuit, Neuron

# Not in the order of the layers, nor of the indices within one.
CIRCUIT = Circuit(
    (Neuron(1, 20), Neuron(0, 2), Neuron(1, 3), Neuron(0, 1)), (4.0, 3.0, 2.0, 1.0), LAYOUT
)
CHOSEN = {(1, 20): 5.0, (0, 2): -4.0, (1, 3): 3.0, (0, 1): 2.0}
STATISTICS = [[5, 6, 7], [8, 9], [40, 41, 42]]


def with_values_set(model, values):
    """The logits of a plain copy, its neurons' activations replaced."""
    hf = plain(model)

    def put(layer, activation):
        activation = activation.clone()
        for (at, index), value in values.items():
            if at == layer:
                activation[..., index] = value
        return activation

    with reference.changed(hf, put):
        return hf(torch.tensor([IDS])).logits[0]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def full_vector(values):
    full = torch.full((LAYOUT.n_neurons,), 1e6)
    for (layer, index), value in values.items():
        full[layer * tiny.WIDTH + index] = value
    return full


@pytest.mark.parametrize(
    "given",
    [list(CHOSEN.values()), torch.tensor(list(CHOSEN.values())), full_vector(CHOSEN)],
    ids=["a list", "a tensor", "one for each neuron of the model"],
)
def test_values_take_the_place_of_the_activations(model, given):
    expected = with_values_set(model, CHOSEN)
    with cna_lens.steer(model, CIRCUIT, values=given):
        assert_same(logits(model), expected)
    with model.hooks(fwd_hooks=cna_lens.set_to(CIRCUIT, given)):
        assert_same(logits(model), expected)
    assert_same(logits(model), with_values_set(model, {}))


def test_statistics_set_the_activations_to_their_means(model):
    hf = plain(model)
    means = reference.activations(hf, STATISTICS).mean(0)
    values = {(layer, i): float(means[layer * tiny.WIDTH + i]) for layer, i in CIRCUIT}
    with cna_lens.steer(model, CIRCUIT, values=cna_lens.collect(model, STATISTICS)):
        assert_same(logits(model), with_values_set(model, values))


def test_one_value_for_each_neuron_of_the_model_is_taken_in_the_models_order():
    model = tiny.bridge("llama")
    neurons = tuple(LAYOUT.neuron(flat) for flat in reversed(range(LAYOUT.n_neurons)))
    everything = Circuit(neurons, (1.0,) * len(neurons), LAYOUT)
    values = torch.arange(LAYOUT.n_neurons) / 10
    expected = {(flat // tiny.WIDTH, flat % tiny.WIDTH): flat / 10 for flat in range(len(neurons))}
    with cna_lens.steer(model, everything, values=values):
        assert_same(logits(model), with_values_set(model, expected))


def test_a_multiplier_inside_scales_what_was_set_outside(llama):
    doubled = {neuron: 2 * value for neuron, value in CHOSEN.items()}
    for via in ("hooks", "weights"):
        with (
            cna_lens.steer(llama, CIRCUIT, values=list(CHOSEN.values())),
            cna_lens.steer(llama, CIRCUIT, 2.0, via=via),
        ):
            assert_same(logits(llama), with_values_set(llama, doubled))


def test_values_inside_win_over_hooks_outside(llama):
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, via="hooks"),
        cna_lens.steer(llama, CIRCUIT, values=list(CHOSEN.values())),
    ):
        assert_same(logits(llama), with_values_set(llama, CHOSEN))


def test_values_for_neurons_whose_weights_an_outer_context_scales_are_refused(llama):
    other = Circuit((Neuron(0, 9),), (1.0,), LAYOUT)
    before = reference.weights(llama)
    with cna_lens.steer(llama, CIRCUIT, 0.5, via="weights"):
        with (
            cna_lens.steer(llama, other, 0.5, via="weights"),
            pytest.raises(cna_lens.InputError, match=r"layer=0, index=1.*via='hooks'"),
            cna_lens.steer(llama, CIRCUIT, values=[0.0] * 4),
        ):
            pass
        with cna_lens.steer(llama, other, values=[0.0]):
            pass
    with cna_lens.steer(llama, CIRCUIT, values=[0.0] * 4):
        pass
    assert reference.same_bits(before, reference.weights(llama))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give 4, one for each neuron of the circuit, or 48"),
        ([1.0] * 3, "give 4, one for each neuron of the circuit, or 48"),
        ([1.0] * 47, "give 4, one for each neuron of the circuit, or 48"),
        ([1.0, 2.0, 3.0, float("nan")], "not a number"),
        ([1.0, 2.0, 3.0, float("inf")], "infinite"),
    ],
    ids=["none", "too few", "nearly all", "nan", "inf"],
)
def test_values_that_fit_nothing_are_refused(llama, given, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.set_to(CIRCUIT, given)
    with (
        pytest.raises(cna_lens.InputError, match=message),
        cna_lens.steer(llama, CIRCUIT, values=given),
    ):
        pass


def test_a_circuit_of_the_whole_model_keeps_each_neurons_value(models):
    """Its values have as many entries as the model, and stay in the circuit's order."""
    model = models["llama"]
    places = torch.randperm(LAYOUT.n_neurons, generator=torch.Generator().manual_seed(0))
    neurons = tuple(map(LAYOUT.neuron, places.tolist()))
    whole = Circuit(neurons, (1.0,) * len(neurons), LAYOUT)
    values = torch.arange(LAYOUT.n_neurons, dtype=torch.float64) / LAYOUT.n_neurons
    expected = with_values_set(
        model, {(each.layer, each.index): values[place] for place, each in enumerate_in_model()}
    )
    for method in (
        cna_lens.mean_ablation(whole, values),
        replace(cna_lens.mean_ablation(whole, values), name="again"),
        cna_lens.NeuronPull(whole, tuple(values[places].tolist())),
        cna_lens.deviation_scaling(whole, values, 0.0),
    ):
        assert method.values == tuple(values[places].tolist())
        with method.at(model):
            assert_same(logits(model), expected)


def enumerate_in_model():
    return [(place, LAYOUT.neuron(place)) for place in range(LAYOUT.n_neurons)]
