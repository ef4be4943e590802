from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cna_lens import Circuit, InputError, Layout, Neuron, Provenance, matched_random


def chosen(pairs, widths, **provenance):
    neurons = tuple(Neuron(*pair) for pair in pairs)
    scores = tuple(float(len(neurons) - place) for place in range(len(neurons)))
    return Circuit(neurons, scores, Layout(widths), Provenance(**provenance))


@given(st.data(), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_control_has_as_many_other_neurons_in_each_layer(data, seed):
    widths = tuple(data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4)))
    pairs = [
        (layer, index)
        for layer, width in enumerate(widths)
        for index in data.draw(st.permutations(range(width)))[
            : data.draw(st.integers(0, width // 2))
        ]
    ]
    circuit = chosen(data.draw(st.permutations(pairs)), widths)
    control = matched_random(circuit, seed)
    assert Counter(n.layer for n in control) == Counter(n.layer for n in circuit)
    assert not set(control) & set(circuit)
    assert control.layout == circuit.layout


def test_the_same_seed_gives_the_same_control_and_another_seed_another():
    circuit = chosen([(0, 5), (1, 7), (1, 50)], (100, 100))
    assert matched_random(circuit, seed=3) == matched_random(circuit, seed=3)
    controls = {matched_random(circuit, seed=seed).neurons for seed in range(20)}
    assert len(controls) == 20
    assert matched_random(circuit) == matched_random(circuit, seed=0)


def test_every_other_neuron_is_drawn_about_equally_often():
    circuit = chosen([(0, 2), (0, 5)], (10,))
    drawn = Counter(n.index for seed in range(2000) for n in matched_random(circuit, seed))
    assert set(drawn) == set(range(10)) - {2, 5}
    # 4000 draws of 8 neurons: 500 each, with a standard deviation of about 19.
    assert all(400 < count < 600 for count in drawn.values())


def test_drawing_a_control_leaves_torchs_own_random_numbers_alone():
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    matched_random(chosen([(0, 0)], (4,)), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_a_layer_may_be_used_up_to_its_last_neuron():
    assert set(matched_random(chosen([(0, 1), (0, 2)], (4,)))) == {(0, 0), (0, 3)}


def test_a_layer_with_too_few_other_neurons_is_named():
    circuit = chosen([(0, 0), (1, 0), (1, 1), (1, 2)], (4, 5))
    with pytest.raises(InputError, match=r"layer 1 has 2 neurons outside .* needs 3"):
        matched_random(circuit)


def test_a_control_says_what_it_is_and_of_which_model():
    control = matched_random(chosen([(0, 0)], (4,), model="m", rank="contrast"), seed=7)
    assert control.provenance.model == "m"
    assert control.provenance.k == 1
    assert "random" in control.provenance.rank
    assert "7" in control.provenance.rank
    assert set(control.scores) == {0.0}
