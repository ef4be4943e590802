"""Where neurons of experts stand among all neurons, and circuits that hold them."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import (
    MLP,
    ActivationStats,
    Circuit,
    CircuitFileError,
    ExpertNeuron,
    Experts,
    InputError,
    Layout,
    Neuron,
    NeuronScores,
    UniversalRule,
    matched_random,
)
from cna_lens.discovery.activations.means import routing_of
from cna_lens.discovery.universal import most_active
from cna_lens.results.neurons import as_neuron


def layout_of(widths, *experts):
    return Layout(tuple(widths), tuple(Experts(*each) for each in experts))


MIXED = layout_of((4, 9, 6), (0, 0), (2, 3), (3, 2))


@st.composite
def shapes(draw):
    layers = draw(
        st.lists(
            st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 3)),
            min_size=1,
            max_size=4,
        )
    )
    dense = [dense for dense, _, _ in layers]
    experts = [(count, width if count else 0) for _, count, width in layers]
    return dense, experts


@given(shapes())
@settings(deadline=None)
def test_every_neuron_has_one_place_layer_by_layer_and_shared_ones_first(shape):
    dense, experts = shape
    routed = (count * width for count, width in experts)
    layout = layout_of(map(sum, zip(dense, routed, strict=True)), *experts)
    slow = []
    for layer, (own, (count, width)) in enumerate(zip(dense, experts, strict=True)):
        slow += [(layer, index) for index in range(own)]
        slow += [(layer, expert, index) for expert in range(count) for index in range(width)]
    assert [tuple(neuron) for neuron in layout.neurons()] == slow
    assert [tuple(layout.neuron(flat)) for flat in range(layout.n_neurons)] == slow
    assert layout.flat_all(slow).tolist() == list(range(layout.n_neurons))
    assert [layout.mlps[place] for place in layout.mlp_of] == [n.mlp for n in layout.neurons()]
    assert [layout.neuron(layout.start(mlp)).mlp for mlp in layout.mlps] == list(layout.mlps)


def test_a_layout_without_experts_equals_a_dense_layout():
    layout = layout_of((4, 2), (0, 0), (0, 0))
    assert layout == Layout((4, 2))
    assert hash(layout) == hash(Layout((4, 2)))
    assert repr(layout) == "Layout(widths=(4, 2))"
    assert layout.mlps == (MLP(0), MLP(1))


@pytest.mark.parametrize(
    ("neuron", "match"),
    [
        ((1, 3), "neuron 3 does not exist in layer 1, which has neurons 0 to 2"),
        ((1, 2, 0), "expert 2 does not exist in layer 1, which has experts 0 to 1"),
        ((0, 0, 0), "expert 0 does not exist in layer 0, which has no experts"),
        ((1, 1, 3), "neuron 3 does not exist in layer 1, expert 1, which has neurons 0 to 2"),
        ((3, 0, 0), "layer 3 does not exist"),
    ],
)
def test_a_neuron_that_does_not_exist_is_named(neuron, match):
    with pytest.raises(InputError, match=match):
        MIXED.flat(neuron)


@pytest.mark.parametrize(
    ("widths", "experts", "match"),
    [
        ((4, 9), ((2, 3),), "experts for 1 layers, the model has 2"),
        ((5,), ((2, 3),), "layer 0 has 5 neurons, fewer than its 2 experts of 3"),
    ],
)
def test_experts_that_do_not_fit_their_layers_are_refused(widths, experts, match):
    with pytest.raises(InputError, match=match):
        layout_of(widths, *experts)


@pytest.fixture
def circuit():
    neurons = ((1, 1, 2), (2, 0, 1), (1, 2), (0, 3), (1, 1, 0))
    return Circuit(tuple(map(as_neuron, neurons)), (5.0, -4.0, 3.0, -2.0, 1.0), MIXED)


def test_a_circuit_groups_its_neurons_by_mlp_and_by_layer(circuit):
    assert circuit.neurons[0] == ExpertNeuron(1, 1, 2)
    assert circuit.neurons[2] == Neuron(1, 2)
    assert list(circuit.by_mlp().items()) == [
        (MLP(0), (3,)),
        (MLP(1), (2,)),
        (MLP(1, 1), (2, 0)),
        (MLP(2, 0), (1,)),
    ]
    assert circuit.by_layer() == {0: (3,), 1: (8, 2, 6), 2: (1,)}
    assert "Circuit(5 of 19 neurons of all experts, 3 of 3 layers, strongest L1/E1/2 +5" in repr(
        circuit
    )


def test_a_circuit_with_experts_is_read_back_and_a_dense_ones_file_names_none(circuit, tmp_path):
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit
    body = json.loads((tmp_path / "circuit.json").read_text())
    assert body["neurons"][0] == [1, 1, 2, 5.0]
    assert body["experts"] == [[0, 0], [2, 3], [3, 2]]
    Circuit((Neuron(0, 1),), (1.0,), Layout((4,))).save(tmp_path / "dense.json")
    dense = json.loads((tmp_path / "dense.json").read_text())
    assert "experts" not in dense
    body["experts"][1][0] = 1
    (tmp_path / "circuit.json").write_text(json.dumps(body))
    with pytest.raises(CircuitFileError, match="altered"):
        Circuit.load(tmp_path / "circuit.json")


def test_the_top_counts_all_experts_and_a_quota_counts_a_layer_with_its_experts():
    values = torch.arange(19, dtype=torch.float64)
    scores = NeuronScores(values, MIXED, "contrast")
    assert len(scores.top(fraction=0.25)) == 5
    chosen = scores.top(k=3, max_per_layer=1)
    assert [tuple(neuron) for neuron in chosen] == [(2, 2, 1), (1, 1, 2), (0, 3)]
    top = most_active(values[None], MIXED, UniversalRule(0.2, scope="layer"))
    assert [layer.sum().item() for layer in MIXED.split(top)] == [1, 2, 1]


def test_the_place_of_a_neuron_is_two_or_three_whole_numbers(without_type_checks):
    with pytest.raises(ValueError, match="4 entries"):
        MIXED.flat((1, 1, 1, 1))
    with pytest.raises(TypeError):
        MIXED.flat((1, 0.5))


def test_a_control_matched_in_magnitude_comes_from_the_neurons_own_expert():
    layout = layout_of((60,), (2, 30))
    # In the second expert, neurons of odd index are far more active than those of even index.
    second = torch.arange(30) + 100 * (torch.arange(30) % 2)
    mean = torch.cat([torch.arange(30), second]).double()
    stats = ActivationStats.of(mean[None], layout)
    circuit = Circuit((ExpertNeuron(0, 1, 4),), (1.0,), layout)
    for seed in range(10):
        (drawn,) = matched_random(circuit, seed, match="magnitude", stats=stats)
        assert drawn.mlp == MLP(0, 1)
        assert drawn.index % 2 == 0


def test_routing_of_a_batch_worked_by_hand():
    layout = layout_of((3,), (2, 1))
    weights = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    activations = torch.tensor([[7.0, 2.0, 0.0], [1.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
    routing = routing_of(activations, weights, layout)
    assert routing.frequency.tolist() == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert routing.unweighted_mean.tolist() == pytest.approx([3.0, 4.0, 4.0])
    assert routing.to_frame().values.tolist() == [
        [0, 0, pytest.approx(2 / 3), 0.375],
        [0, 1, pytest.approx(1 / 3), 0.75],
    ]
    stats = ActivationStats.of(activations, layout)
    assert stats.mean_where_routed.tolist() == stats.mean.tolist()
    twice = routing.merge(routing)
    assert twice.count == 6
    assert twice.frequency.tolist() == routing.frequency.tolist()
    assert twice.unweighted_mean.tolist() == routing.unweighted_mean.tolist()
    assert repr(routing) == "RoutingStats(3 prompts, 2 experts, 0 never routed to)"
