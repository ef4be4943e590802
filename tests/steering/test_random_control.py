from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import (
    ActivationStats,
    Circuit,
    InputError,
    Layout,
    Neuron,
    Provenance,
    matched_random,
)


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


def test_a_control_records_its_seed_and_its_model():
    control = matched_random(chosen([(0, 0)], (4,), model="m", rank="contrast"), seed=7)
    assert control.provenance.model == "m"
    assert control.provenance.k == 1
    assert "random" in control.provenance.rank
    assert "7" in control.provenance.rank
    assert set(control.scores) == {0.0}


def active(magnitudes, widths):
    """Statistics of two prompts whose root mean square is the magnitude."""
    values = torch.tensor(magnitudes)
    return ActivationStats.of(torch.stack([values, -values]), Layout(widths))


@given(st.data(), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_control_of_like_magnitude_is_drawn_from_the_nearest_that_are_left(data, seed):
    widths = (40, 30)
    magnitudes = data.draw(
        st.lists(st.integers(0, 50).map(float), min_size=70, max_size=70), label="magnitudes"
    )
    pairs = [
        (layer, index)
        for layer, width in enumerate(widths)
        for index in data.draw(st.permutations(range(width)))[: data.draw(st.integers(0, 8))]
    ]
    circuit = chosen(pairs, widths)
    control = matched_random(circuit, seed, match="magnitude", stats=active(magnitudes, widths))
    assert Counter(n.layer for n in control) == Counter(n.layer for n in circuit)
    assert not set(control) & set(circuit)
    for layer in range(2):
        rms = magnitudes[:40] if layer == 0 else magnitudes[40:]
        own = [index for at, index in circuit if at == layer]
        drawn = [index for at, index in control if at == layer]
        free = set(range(widths[layer])) - set(own)
        matched = sorted(own, key=lambda index: (-rms[index], index))
        for index, stand_in in zip(matched, drawn, strict=True):
            distance = abs(rms[stand_in] - rms[index])
            nearer = sum(abs(rms[other] - rms[index]) < distance - 1e-9 for other in free)
            assert nearer < 10
            free.remove(stand_in)


def test_magnitude_counts_the_mean_and_the_deviation():
    # Neuron 0 is steady at 3, neuron 1 swings to 3, neurons 2 to 21 are silent.
    values = torch.zeros(2, 60)
    values[:, 0], values[:, 1] = 3.0, torch.tensor([3.0, -3.0])
    values[:, 2:12] = torch.tensor([[3.1], [-3.1]])
    stats = ActivationStats.of(values, Layout((60,)))
    for index in (0, 1):
        for seed in range(5):
            circuit = chosen([(0, index), (0, 1 - index)], (60,))
            control = matched_random(circuit, seed, match="magnitude", stats=stats)
            assert {neuron.index for neuron in control} <= set(range(2, 12)) | set(range(12, 60))
            assert control.neurons[0].index in range(2, 12)


def test_seeds_give_different_controls_of_like_magnitude():
    circuit = chosen([(0, 5)], (50,))
    stats = active([float(i) for i in range(50)], (50,))
    drawn = {
        matched_random(circuit, seed, match="magnitude", stats=stats).neurons[0].index
        for seed in range(200)
    }
    assert drawn == {0, 1, 2, 3, 4, 6, 7, 8, 9, 10}
    control = matched_random(circuit, 7, match="magnitude", stats=stats)
    assert control.provenance.rank == "matched_random(seed=7, match='magnitude')"


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "norm"}, "match is 'norm', expected one of layer, magnitude"),
        ({"match": "magnitude"}, "needs stats=collect"),
        ({"stats": True}, "match='layer' none"),
        ({"match": "magnitude", "stats": "other"}, "statistics are of 5 neurons in 1"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(options, message):
    stats = {True: active([1.0] * 4, (4,)), "other": active([1.0] * 5, (5,))}
    if "stats" in options:
        options = options | {"stats": stats[options["stats"]]}
    with pytest.raises(InputError, match=message):
        matched_random(chosen([(0, 0)], (4,)), **options)
