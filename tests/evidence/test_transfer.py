"""Overlaps of circuits, against counting every pair of sets."""

from itertools import combinations

import pytest

from cna_lens import Circuit, InputError, Layout, Neuron, jaccard, transfer
from cna_lens.evidence import expected_jaccard


def circuit(places, widths=(500,)):
    layout = Layout(widths)
    return Circuit(tuple(layout.neuron(flat) for flat in places), (1.0,) * len(places), layout)


@pytest.mark.parametrize(
    ("first", "second", "shared", "expected"),
    [(200, 200, 53, 0.152738), (200, 200, 54, 0.156069), (108, 200, 5, 0.016502), (7, 7, 7, 1.0)],
)
def test_jaccard_is_shared_over_either(first, second, shared, expected):
    one = circuit(range(first))
    other = circuit(range(first - shared, first - shared + second))
    assert jaccard(one, other) == pytest.approx(expected, abs=5e-7)
    (overlap,) = transfer({"one": one, "other": other}).overlaps
    assert (overlap.shared, overlap.jaccard) == (shared, jaccard(one, other))
    assert overlap.sizes == (first, second)


@pytest.mark.parametrize(("n", "first", "second"), [(6, 2, 3), (5, 5, 2), (7, 3, 3), (4, 4, 4)])
def test_the_expected_jaccard_is_the_mean_over_all_pairs_of_sets(n, first, second):
    values = [
        len({*a} & {*b}) / len({*a} | {*b})
        for a in combinations(range(n), first)
        for b in combinations(range(n), second)
    ]
    assert expected_jaccard(n, first, second) == pytest.approx(sum(values) / len(values))


def test_chance_by_layer_is_counted_over_all_circuits_with_as_many_neurons_in_each_layer():
    widths = (3, 4, 2)
    one, other = circuit([0, 3, 4], widths), circuit([0, 1, 4, 5, 8], widths)
    layers = [range(3), range(3, 7), range(7, 9)]

    def alike(found):
        wanted = [len(found.by_layer().get(layer, ())) for layer in range(3)]
        chosen = [[]]
        for places, n in zip(layers, wanted, strict=True):
            chosen = [[*so_far, *more] for so_far in chosen for more in combinations(places, n)]
        return [{*places} for places in chosen]

    pairs = [(a, b) for a in alike(one) for b in alike(other)]
    (overlap,) = transfer({"one": one, "other": other}).overlaps
    assert overlap.shared == 2
    assert overlap.random_by_layer == pytest.approx(
        sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)
    )
    assert overlap.p_value == pytest.approx(
        sum(len(a & b) >= overlap.shared for a, b in pairs) / len(pairs)
    )
    assert overlap.random == pytest.approx(expected_jaccard(9, 3, 5))


def test_circuits_in_different_layers_share_nothing_by_chance():
    (overlap,) = transfer({"a": circuit([0], (2, 2)), "b": circuit([2], (2, 2))}).overlaps
    assert (overlap.jaccard, overlap.random_by_layer, overlap.p_value) == (0, 0, 1)


def test_the_matrix_has_ones_on_its_diagonal_and_is_symmetric(tmp_path):
    found = transfer({"a": circuit([0, 1]), "b": circuit([1, 2]), "c": circuit([0, 1, 2, 3])})
    assert found.matrix().to_numpy().tolist() == [[1, 1 / 3, 0.5], [1 / 3, 1, 0.5], [0.5, 0.5, 1]]
    assert list(found.matrix().columns) == list(found.names) == ["a", "b", "c"]
    frame = found.to_frame()
    assert list(zip(frame["first"], frame["second"], strict=True)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert found.record()["overlaps"][0]["shared"] == 1
    found.save(tmp_path / "transfer.json")
    assert '"jaccard": 0.5' in (tmp_path / "transfer.json").read_text()


@pytest.mark.parametrize(
    ("circuits", "telling"),
    [
        ({"a": circuit([0])}, "there is 1; give at least 2"),
        ({"a": circuit([0]), "b": circuit([])}, "a circuit is empty"),
        ({"a": circuit([0]), "b": circuit([0], (250, 250))}, "compare circuits of one shape"),
    ],
)
def test_circuits_that_cannot_be_compared_are_refused(circuits, telling):
    with pytest.raises(InputError, match=telling):
        transfer(circuits)


def test_a_random_circuit_larger_than_the_model_is_refused():
    with pytest.raises(InputError, match="a circuit has 6 neurons, expected 1 to 5"):
        expected_jaccard(5, 2, 6)


def test_the_order_of_a_circuit_does_not_matter():
    neurons = (Neuron(0, 3), Neuron(0, 1))
    one = Circuit(neurons, (2.0, 1.0), Layout((5,)))
    other = Circuit(neurons[::-1], (2.0, 1.0), Layout((5,)))
    assert jaccard(one, other) == 1
