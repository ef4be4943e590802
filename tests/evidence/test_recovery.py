"""Scores against a known truth: by slow definitions, and for rankings whose value is known."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, strategies as st

from cna_lens import Circuit, InputError, Layout, Neuron, NeuronScores, Provenance
from cna_lens.evidence import recall, recovery

LAYOUT = Layout((6, 5, 7))
N = LAYOUT.n_neurons


def scores(values, **settings):
    return NeuronScores(torch.tensor(values, dtype=torch.float64), LAYOUT, "mine", **settings)


def truth(places):
    neurons = tuple(LAYOUT.neuron(place) for place in places)
    return Circuit(neurons, (1.0,) * len(neurons), LAYOUT)


def slow_auroc(values, planted):
    pairs = list(product([values[i] for i in planted], others(values, planted)))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def others(values, planted):
    return [value for place, value in enumerate(values) if place not in planted]


def slow_average_precision(values, planted):
    total = recall = 0.0
    for threshold in sorted(set(values), reverse=True):
        taken = {place for place, value in enumerate(values) if value >= threshold}
        now = len(taken & set(planted)) / len(planted)
        total += (now - recall) * len(taken & set(planted)) / len(taken)
        recall = now
    return total


def slow_precision(values, planted):
    return slow_recall(values, planted, len(planted))


def slow_recall(values, planted, k):
    """Each neuron's probability to be among the first k, where equal scores come in any order."""
    expected = 0.0
    for place in planted:
        above = sum(value > values[place] for value in values)
        level = sum(value == values[place] for value in values)
        expected += min(1.0, max(0.0, (k - above) / level))
    return expected / len(planted)


@given(
    st.lists(st.integers(-2, 2), min_size=N, max_size=N),
    st.sets(st.integers(0, N - 1), min_size=1, max_size=4),
    st.sampled_from(["abs", "positive", "negative"]),
)
def test_every_figure_is_that_of_a_slow_definition(values, planted, sign):
    found = recovery(scores(values), truth(sorted(planted)), sign=sign)
    strength = [{"abs": abs(v), "positive": v, "negative": -v}[sign] for v in values]
    assert found.overall.auroc == pytest.approx(slow_auroc(strength, planted))
    assert found.overall.average_precision == pytest.approx(
        slow_average_precision(strength, planted)
    )
    assert found.overall.precision == pytest.approx(slow_precision(strength, planted))
    assert (found.k, found.n_neurons) == (len(planted), N)
    assert found.by_chance == len(planted) / N
    shares = recall(scores(values), truth(sorted(planted)), sign=sign)
    assert shares == pytest.approx([slow_recall(strength, planted, k + 1) for k in range(N)])


@given(
    st.lists(st.integers(0, 3), min_size=N, max_size=N),
    st.sets(st.integers(0, N - 1), min_size=1, max_size=4),
)
def test_within_layers_each_planted_neuron_counts_by_its_layers_value(values, planted):
    found = recovery(scores(values), truth(sorted(planted)))
    for name, slow in (
        ("auroc", slow_auroc),
        ("average_precision", slow_average_precision),
        ("precision", slow_precision),
    ):
        total = 0.0
        for start, stop in zip(LAYOUT.starts[:-1], LAYOUT.starts[1:], strict=True):
            here = {place - start for place in planted if start <= place < stop}
            if here:
                total += len(here) * slow(values[start:stop], here)
        assert getattr(found.within_layers, name) == pytest.approx(total / len(planted))


def test_a_ranking_that_knows_the_truth_scores_one_everywhere():
    places = [0, 3, 8, 17]
    knows = scores([2.0 if place in places else 0.1 * (place % 5) for place in range(N)])
    found = recovery(knows, truth(places))
    for part in (found.overall, found.within_layers):
        assert (part.auroc, part.average_precision, part.precision) == (1, 1, 1)


def test_a_ranking_that_knows_only_the_layer_finds_nothing_within_it():
    places = [6, 9]  # 2 of the 5 neurons of layer 1
    found = recovery(scores([float(int(LAYOUT.layer_of[i]) == 1) for i in range(N)]), truth(places))
    # It is above the 13 neurons of other layers, and level with the 3 others of its own.
    assert found.overall.auroc == pytest.approx((13 + 0.5 * 3) / 16)
    assert found.overall.precision == pytest.approx(2 / 5)
    assert found.within_layers.auroc == 0.5
    assert found.within_layers.precision == pytest.approx(2 / 5)


def test_the_truth_with_one_neuron_dropped_finds_the_others():
    places = [0, 3, 8, 17]
    found = recovery(scores([float(i in places[1:]) for i in range(N)]), truth(places))
    # The fourth place is taken by one of the 15 neurons that are left.
    assert found.overall.precision == pytest.approx((3 + 1 / 15) / 4)
    assert found.overall.auroc == pytest.approx((3 + 0.5) / 4)


def test_random_rankings_find_what_chance_finds():
    layout = Layout((2000,) * 3)
    generator = torch.Generator().manual_seed(0)
    neurons = tuple(layout.neuron(int(i)) for i in torch.randperm(6000, generator=generator)[:600])
    values = torch.rand(6000, generator=generator, dtype=torch.float64)
    found = recovery(NeuronScores(values, layout, "random"), Circuit(neurons, (1.0,) * 600, layout))
    assert found.by_chance == 0.1
    for part in (found.overall, found.within_layers):
        assert part.auroc == pytest.approx(0.5, abs=0.04)
        assert part.average_precision == pytest.approx(0.1, abs=0.03)
        assert part.precision == pytest.approx(0.1, abs=0.04)


def test_neurons_that_must_not_be_chosen_come_last():
    eligible = torch.ones(N, dtype=torch.bool)
    eligible[0] = False
    found = recovery(scores([9.0] + [0.0] * (N - 1), eligible=eligible), truth([0]))
    assert found.overall.auroc == 0
    assert found.overall.precision == 0


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        (scores([0.0] * N), Circuit((Neuron(0, 1),), (1.0,), Layout((3,))), "rank the neurons of"),
        (scores([0.0] * N), truth([]), "holds 0 of 18"),
        (scores([0.0] * N), truth(range(N)), "holds 18 of 18"),
        (scores([float("nan")] + [0.0] * (N - 1)), truth([1]), "1 scores of mine are not numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, known, message):
    with pytest.raises(InputError, match=message):
        recovery(given, known)


def test_an_unknown_sign_is_refused(without_type_checks):
    with pytest.raises(InputError, match="sign is 'up'"):
        recovery(scores([0.0] * N), truth([1]), sign="up")


def test_scores_of_another_model_are_refused():
    of_one = scores([0.0] * N, provenance=Provenance(model="planted/one"))
    of_two = replace(truth([1]), provenance=Provenance(model="planted/two"))
    with pytest.raises(InputError, match="scores are of planted/one, the truth is of planted/two"):
        recovery(of_one, of_two)
    assert recovery(of_one, truth([1])).k == 1
