import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import Circuit, InputError, Layout, Neuron, NeuronScores

# Few different values, so that ties are common.
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=12)


def scored(values, widths=None, eligible=None):
    return NeuronScores(
        torch.tensor(values, dtype=torch.float64),
        Layout(widths or (len(values),)),
        "contrast",
        eligible=None if eligible is None else torch.tensor(eligible, dtype=torch.bool),
    )


@st.composite
def selections(draw):
    widths = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any)))
    n = sum(widths)
    values = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    eligible = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    sign = draw(st.sampled_from(["abs", "positive", "negative"]))
    layers = draw(
        st.none()
        | st.sets(st.integers(0, len(widths) - 1), min_size=1).filter(
            lambda chosen: any(widths[layer] for layer in chosen)
        )
    )
    return widths, values, eligible, sign, layers


@given(selections(), st.none() | st.integers(1, 3))
@settings(deadline=None)
def test_the_top_is_that_of_a_plain_sort_with_each_layers_quota(selection, quota):
    widths, values, eligible, sign, layers = selection
    every = [(layer, i) for layer, width in enumerate(widths) for i in range(width)]
    allowed = [
        (-abs(values[place]), place)
        for place, (layer, _) in enumerate(every)
        if (eligible is None or eligible[place])
        and (sign == "abs" or (values[place] > 0 if sign == "positive" else values[place] < 0))
        and (layers is None or layer in layers)
    ]
    scores = scored([float(v) for v in values], widths, eligible)
    expected, taken = [], Counter()
    # A plain sort puts the model's first neuron first among equals.
    for _, place in sorted(allowed):
        layer, _ = every[place]
        if quota is None or taken[layer] < quota:
            expected.append(place)
            taken[layer] += 1
    settings = {"sign": sign, "layers": layers, "max_per_layer": quota}
    for k in range(1, len(expected) + 1):
        circuit = scores.top(k=k, **settings)
        assert list(circuit) == [every[place] for place in expected[:k]]
        assert list(circuit.scores) == [values[place] for place in expected[:k]]
        assert circuit.provenance.max_per_layer == quota
    if len(expected) < len(every):
        limit = "" if quota is None else f".*max_per_layer={quota}"
        message = rf"{len(expected)} of {len(every)} can be chosen{limit}"
        with pytest.raises(InputError, match=message):
            scores.top(k=len(expected) + 1, **settings)


@given(SCORES, st.data())
@settings(deadline=None)
def test_the_top_k_is_the_beginning_of_the_top_k_plus_one(values, data):
    scores = scored([*map(float, values), 0.0])
    k = data.draw(st.integers(1, len(values)))
    assert scores.top(k=k + 1).neurons[:k] == scores.top(k=k).neurons


def test_ties_are_broken_by_the_models_order_whatever_the_number():
    scores = scored([1.0, -1.0] * 500, (250, 750))
    places = [Neuron(0, i) if i < 250 else Neuron(1, i - 250) for i in range(1000)]
    assert list(scores.top(k=300)) == places[:300]


def test_the_default_is_a_thousandth_of_all_neurons():
    assert len(scored(list(map(float, range(1500)))).top()) == 2


def test_excluded_neurons_and_layers_count_for_the_size():
    scores = scored([1.0] * 4000, (2000, 2000), [False] * 1990 + [True] * 2010)
    circuit = scores.top(0.001, layers=[0])
    assert list(circuit) == [Neuron(0, index) for index in range(1990, 1994)]


def test_taking_the_top_does_not_change_the_scores():
    eligible = [True, False, True]
    scores = scored([3.0, 2.0, -1.0], eligible=eligible)
    scores.top(k=1, sign="positive", layers=[0])
    assert scores.values.tolist() == [3.0, 2.0, -1.0]
    assert scores.eligible.tolist() == eligible


def test_the_circuit_records_how_it_was_chosen():
    by_k = scored([1.0, 2.0, 3.0], (1, 1, 1)).top(k=1, sign="positive", layers=[2, 0, 2])
    assert (by_k.provenance.k, by_k.provenance.fraction) == (1, None)
    assert (by_k.provenance.sign, by_k.provenance.layers) == ("positive", (0, 2))
    by_share = scored([1.0, 2.0]).top(0.5)
    assert (by_share.provenance.k, by_share.provenance.fraction) == (1, 0.5)
    assert (by_share.provenance.sign, by_share.provenance.layers) == ("abs", None)
    assert scored([1.0]).top().provenance.fraction == 0.001


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ({"fraction": 0.5, "k": 1}, "not both"),
        ({"k": 5}, "k is 5, expected 1 to 4"),
        ({"k": 1, "layers": []}, "layers is empty; leave it out"),
        ({"k": 1, "layers": [0, 2]}, "layer 2 does not exist: the model has layers 0 to 1"),
        ({"k": 1, "layers": [-1]}, "layer -1 does not exist"),
    ],
)
def test_an_invalid_selection_is_refused(arguments, telling):
    with pytest.raises(InputError, match=telling):
        scored([1.0, 2.0, 3.0, 4.0], (2, 2)).top(**arguments)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "arguments",
    [
        {"k": np.int64(2), "layers": np.array([0, 1]), "max_per_layer": np.int64(1)},
        {"k": 2, "layers": torch.tensor([1, 0, 1]), "max_per_layer": 1},
    ],
)
def test_numbers_of_numpy_and_torch_choose_as_pythons_own(arguments, tmp_path):
    scores = scored([1.0, 2.0, 3.0, 4.0], (2, 2))
    circuit = scores.top(**arguments)
    assert circuit == scores.top(k=2, layers=[0, 1], max_per_layer=1)
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ({"k": 1, "layers": [1.0]}, r"layers is \[1.0\], expected several whole numbers"),
        ({"k": 1, "layers": "01"}, "layers is '01', expected several whole numbers"),
        ({"fraction": "0.1"}, "fraction is '0.1', expected a share"),
    ],
)
def test_settings_of_another_type_are_refused(arguments, telling):
    with pytest.raises(InputError, match=telling):
        scored([1.0, 2.0], (1, 1)).top(**arguments)


def test_the_median_of_two_magnitudes_lies_between_them():
    for values, expected in (([1.0, -3.0], "2"), ([math.inf, -math.inf], "inf")):
        ((*_, median, _),) = scored(values)._summary().table.rows
        assert median.text == expected


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_sign_is_refused():
    with pytest.raises(InputError, match="sign is 'plus', expected one of abs, positive, negative"):
        scored([1.0]).top(k=1, sign="plus")


def test_a_score_of_nan_is_refused():
    with pytest.raises(InputError, match="must be finite"):
        scored([1.0, math.nan, 2.0]).top(k=1)


@pytest.mark.parametrize(
    "eligible", [None, [True, True, True]], ids=["without exclusions", "with exclusions"]
)
def test_scores_that_do_not_fit_the_layout_are_refused(eligible):
    with pytest.raises(InputError, match="3"):
        scored([1.0, 2.0, 3.0], (2,), eligible).top(k=1)


def test_the_repr_says_which_ranking_of_how_many_neurons():
    assert "contrast, 3 neurons" in repr(scored([1.0, -7.0, 2.0]))
    assert "7" in repr(scored([1.0, -7.0, 2.0]))


def test_as_many_as_layers_times_the_quota_is_exactly_the_quota_from_each():
    circuit = scored([9.0, 8.0, 7.0, 1.0, 2.0, 3.0], (3, 3)).top(k=4, max_per_layer=2)
    assert set(circuit) == {(0, 0), (0, 1), (1, 1), (1, 2)}


@pytest.mark.parametrize("quota", [0, -1])
def test_a_quota_of_none_is_refused(quota):
    with pytest.raises(InputError, match=f"max_per_layer is {quota}, expected at least 1"):
        scored([1.0]).top(k=1, max_per_layer=quota)
