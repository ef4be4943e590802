import math

import pytest

from cna_lens import Circuit, InputError, Layout, Neuron


@pytest.fixture
def circuit():
    return Circuit(
        (Neuron(2, 3), Neuron(0, 2), Neuron(2, 0), Neuron(0, 1)),
        (-4.0, 3.0, 2.0, -1.0),
        Layout((4, 4, 5)),
    )


def test_by_layer_has_only_layers_with_neurons_each_strongest_first(circuit):
    layers = circuit.by_layer()
    assert layers == {0: (2, 1), 2: (3, 0)}
    assert list(layers) == [0, 2]


def test_a_frame_has_one_row_for_each_neuron_strongest_first(circuit):
    frame = circuit.to_frame()
    assert list(frame.columns) == ["layer", "index", "score"]
    assert frame.to_numpy().tolist() == [[2, 3, -4.0], [0, 2, 3.0], [2, 0, 2.0], [0, 1, -1.0]]


def test_a_circuit_is_a_collection_of_its_neurons_in_order(circuit):
    assert len(circuit) == 4
    assert list(circuit) == [(2, 3), (0, 2), (2, 0), (0, 1)]
    assert Neuron(2, 3) in circuit
    assert Neuron(3, 2) not in circuit


def test_an_empty_circuit_is_a_circuit():
    empty = Circuit((), (), Layout((4,)))
    assert len(empty) == 0
    assert empty.by_layer() == {}
    assert list(empty.to_frame().columns) == ["layer", "index", "score"]
    assert "0 of 4 neurons" in repr(empty)


def test_the_repr_says_how_many_neurons_where_and_which_is_strongest(circuit):
    text = repr(circuit.with_provenance(model="some/model"))
    assert "4 of 13 neurons" in text
    assert "2 of 3 layers" in text
    assert "L2/3 -4" in text
    assert "some/model" in text


def test_provenance_is_replaced_entry_by_entry_and_in_a_new_circuit(circuit):
    changed = circuit.with_provenance(model="m").with_provenance(k=4)
    assert (changed.provenance.model, changed.provenance.k) == ("m", 4)
    assert circuit.provenance.model is None
    assert (changed.neurons, changed.scores) == (circuit.neurons, circuit.scores)


@pytest.mark.parametrize(
    ("neurons", "scores", "telling"),
    [
        ([(0, 1), (1, 0), (0, 1)], [3.0, 2.0, 1.0], "layer=0, index=1.* twice"),
        ([(0, 1)], [1.0, 2.0], "1 neurons came with 2 scores"),
        ([(0, 1), (0, 2)], [1.0], "2 neurons came with 1 scores"),
        ([(0, 1)], [math.nan], r"index=1\) is nan; scores must be finite"),
        ([(0, 1)], [math.inf], "is inf; scores must be finite"),
        ([(0, 1)], [-math.inf], "is -inf; scores must be finite"),
        ([(2, 0)], [1.0], "layer 2 does not exist: the model has layers 0 to 1"),
        ([(-1, 0)], [1.0], "layer -1 does not exist"),
        ([(0, 4)], [1.0], "neuron 4 does not exist in layer 0, which has neurons 0 to 3"),
        ([(1, -1)], [1.0], "neuron -1 does not exist in layer 1"),
    ],
)
def test_neurons_must_be_distinct_exist_and_have_finite_scores(neurons, scores, telling):
    with pytest.raises(InputError, match=telling):
        Circuit(tuple(Neuron(*pair) for pair in neurons), tuple(scores), Layout((4, 5)))
