from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import (
    RANKINGS,
    ActivationStats,
    InputError,
    Layout,
    PromptRecord,
    Source,
    circuit_size,
    rank,
)

LAYOUT = Layout((3, 2))
# Eighths, so that every sum is exact and results can be compared bit by bit.
ROW = st.lists(st.integers(-800, 800).map(lambda n: n / 8), min_size=5, max_size=5)
SET = st.lists(ROW, min_size=1, max_size=6)
SOURCE = Source("model", -1, PromptRecord(2, "positive"), "template")


def stats(rows, layout=LAYOUT, source=None):
    return ActivationStats.of(torch.tensor(rows, dtype=torch.float32), layout, source)


@given(SET, SET)
@settings(deadline=None)
def test_contrast_is_the_difference_of_the_two_means(positive, negative):
    found = rank(stats(positive), stats(negative)).values.tolist()
    for neuron, score in enumerate(found):
        here = sum(Fraction(row[neuron]) for row in positive) / len(positive)
        there = sum(Fraction(row[neuron]) for row in negative) / len(negative)
        assert score == pytest.approx(float(here - there), abs=1e-12)


@given(SET, SET)
@settings(deadline=None)
def test_swapping_the_sets_negates_every_score(positive, negative):
    forth, back = (
        rank(stats(positive), stats(negative)),
        rank(stats(negative), stats(positive)),
    )
    assert torch.equal(forth.values, -back.values)
    assert forth.top(k=3).neurons == back.top(k=3).neurons
    assert forth.top(k=3).scores == tuple(-score for score in back.top(k=3).scores)


@given(SET, SET, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_prompts_does_not_matter(positive, negative, random):
    scores = rank(stats(positive), stats(negative))
    random.shuffle(positive)
    random.shuffle(negative)
    assert torch.equal(rank(stats(positive), stats(negative)).values, scores.values)


def test_scores_are_cut_into_layers_of_different_widths():
    layers = rank(stats([[1.0, 2, 3, 4, 5]]), stats([[0.0] * 5])).by_layer()
    assert [layer.tolist() for layer in layers] == [[1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("n_layers", "d_mlp", "size"),
    [
        (16, 8192, 131),
        (28, 8192, 229),
        (32, 14336, 459),
        (80, 28672, 2294),
        (28, 8960, 251),
        (36, 11008, 396),
        (28, 18944, 530),
        (80, 29568, 2365),
    ],
    ids=[
        "Llama-1B",
        "Llama-3B",
        "Llama-8B",
        "Llama-70B",
        "Qwen-1.5B",
        "Qwen-3B",
        "Qwen-7B",
        "Qwen-72B",
    ],
)
def test_a_circuit_has_the_papers_size(n_layers, d_mlp, size):
    assert circuit_size(n_layers * d_mlp, fraction=0.001) == size


@pytest.mark.parametrize(
    ("n_neurons", "fraction", "size"),
    [
        (1499, 0.001, 1),
        (1500, 0.001, 2),
        (2500, 0.001, 3),
        (3, 0.5, 2),
        (5, 0.5, 3),
        (10, 0.25, 3),
        (10, 1.0, 10),
    ],
)
def test_halves_round_up(n_neurons, fraction, size):
    assert circuit_size(n_neurons, fraction=fraction) == size


@pytest.mark.parametrize("n_neurons", [1, 10, 499])
def test_a_circuit_has_at_least_one_neuron(n_neurons):
    assert circuit_size(n_neurons, fraction=0.001) == 1


def test_k_is_the_size_itself():
    assert [circuit_size(7, k=k) for k in (1, 4, 7)] == [1, 4, 7]


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ({}, "give either fraction or k"),
        ({"fraction": 0.5, "k": 1}, "give either fraction or k"),
        ({"fraction": 0.0}, "fraction is 0.0, expected a share"),
        ({"fraction": -0.1}, "fraction is -0.1"),
        ({"fraction": 1.01}, "fraction is 1.01"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"fraction": float("inf")}, "fraction is inf"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": -3}, "k is -3"),
        ({"k": 8}, "k is 8, expected 1 to 7"),
    ],
)
def test_an_invalid_size_is_refused(arguments, telling):
    with pytest.raises(InputError, match=telling):
        circuit_size(7, **arguments)


@pytest.mark.usefixtures("without_type_checks")
def test_a_k_that_is_not_a_whole_number_is_refused():
    with pytest.raises(InputError, match=r"k is 2\.5"):
        circuit_size(7, k=2.5)


def test_an_unknown_ranking_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"rank is 'magic', expected one of: .*contrast"):
        rank(stats([[0.0] * 5]), stats([[0.0] * 5]), "magic")
    assert "contrast" in RANKINGS


def test_sets_from_models_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"5 neurons in 2 layers.* 5 in 1; use one model"):
        rank(stats([[0.0] * 5]), stats([[0.0] * 5], Layout((5,))))


@pytest.mark.parametrize(
    "different",
    [{"model": "another"}, {"position": -2}, {"template_sha256": None}, {"site": "elsewhere"}],
)
def test_sets_that_were_collected_differently_are_refused(different):
    other = replace(SOURCE, prompts=PromptRecord(3, "negative"), **different)
    with pytest.raises(InputError, match="collected differently"):
        rank(stats([[0.0] * 5], source=SOURCE), stats([[0.0] * 5], source=other))


def test_scores_know_where_both_sets_came_from():
    other = replace(SOURCE, prompts=PromptRecord(3, "negative"))
    scores = rank(stats([[0.0] * 5], source=SOURCE), stats([[1.0] * 5], source=other))
    known = scores.provenance
    assert scores.method == known.rank == "contrast"
    assert scores.unit == known.unit == "activation"
    assert (known.model, known.position, known.site) == ("model", -1, SOURCE.site)
    assert known.template_sha256 == "template"
    assert (known.positive, known.negative) == (SOURCE.prompts, other.prompts)
    assert dict(known.versions)["torch"].startswith(torch.__version__.split("+")[0])
