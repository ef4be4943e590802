import pytest
import torch
from hypothesis import given, settings, strategies as st

from cna_lens import (
    InputError,
    Layout,
    Neuron,
    NeuronScores,
    PromptRecord,
    UniversalRecord,
    UniversalRule,
    filter_universal,
)
from cna_lens.discovery import UniversalNeurons

LAYOUT = Layout((3, 4))
EVERY = [LAYOUT.neuron(place) for place in range(7)]


def scored(values, **extra):
    return NeuronScores(torch.tensor(values, dtype=torch.float64), LAYOUT, "contrast", **extra)


@pytest.fixture
def scores():
    return scored([7.0, -6.0, 5.0, -4.0, 3.0, -2.0, 1.0])


@pytest.fixture
def universal():
    """The first and the fourth neuron."""
    counts = torch.tensor([40, 0, 5, 39, 31, 0, 0])
    rule = UniversalRule(0.002, 0.8, "layer", "value")
    return UniversalNeurons.from_counts(counts, LAYOUT, rule, PromptRecord(40, "diverse"))


def test_filtering_before_keeps_the_size_and_fills_up(scores, universal):
    circuit = filter_universal(scores, universal).top(k=4)
    assert list(circuit) == [EVERY[1], EVERY[2], EVERY[4], EVERY[5]]
    assert circuit.scores == (-6.0, 5.0, 3.0, -2.0)


def test_filtering_after_shrinks(scores, universal):
    circuit = filter_universal(scores.top(k=4), universal)
    assert list(circuit) == [EVERY[1], EVERY[2]]
    assert circuit.scores == (-6.0, 5.0)
    assert circuit.layout == LAYOUT


@given(st.permutations(range(1, 8)), st.sets(st.sampled_from(EVERY), max_size=6), st.integers(1, 7))
@settings(deadline=None)
def test_filtering_before_and_after_agree_with_their_slow_definitions(values, universal, k):
    scores = scored(list(map(float, values)))
    strongest = sorted(EVERY, key=lambda neuron: -values[LAYOUT.flat(neuron)])
    left = [neuron for neuron in strongest if neuron not in universal]
    after = filter_universal(scores.top(k=k), universal)
    assert list(after) == [neuron for neuron in strongest[:k] if neuron not in universal]
    before = filter_universal(scores, universal)
    if k <= len(left):
        assert list(before.top(k=k)) == left[:k]
    else:
        with pytest.raises(InputError, match=f"{len(left)} of 7 can be chosen"):
            before.top(k=k)


@pytest.mark.parametrize(
    "own",
    [
        [Neuron(0, 0), Neuron(1, 0)],
        {(0, 0), (1, 0)},
        ((layer, 0) for layer in (0, 1)),
        [(0, 0), (1, 0), (0, 0)],
    ],
    ids=["neurons", "pairs", "generator", "one twice"],
)
def test_own_neurons_are_taken_as_pairs(scores, own):
    filtered = filter_universal(scores, own)
    assert list(filtered.top(k=2)) == [EVERY[1], EVERY[2]]
    assert filtered.provenance.universal == UniversalRecord(2, applied="before")


def test_a_second_filter_adds_to_the_first(scores):
    twice = filter_universal(filter_universal(scores, [(0, 0)]), [(0, 1)])
    assert list(twice.top(k=1)) == [EVERY[2]]


def test_neurons_that_could_not_be_chosen_before_still_cannot(scores):
    eligible = torch.tensor([True, False, True, True, True, True, True])
    scores = scored(scores.values.tolist(), eligible=eligible)
    assert list(filter_universal(scores, [(0, 0)]).top(k=1)) == [EVERY[2]]


def test_filtering_leaves_the_given_scores_and_circuit_as_they_were(scores, universal):
    eligible = torch.ones(7, dtype=torch.bool)
    scores = scored(scores.values.tolist(), eligible=eligible)
    circuit = scores.top(k=4)
    filter_universal(scores, universal)
    filter_universal(circuit, universal)
    assert bool(eligible.all())
    assert scores.provenance.universal is None
    assert len(circuit) == 4
    assert circuit.provenance.universal is None


@pytest.mark.parametrize("applied", ["before", "after"])
def test_the_circuit_records_the_rule_and_when_it_was_applied(scores, universal, applied):
    if applied == "before":
        circuit = filter_universal(scores, universal).top(k=2)
    else:
        circuit = filter_universal(scores.top(k=2), universal)
    assert circuit.provenance.universal == UniversalRecord(
        n_neurons=2,
        fraction=0.002,
        threshold=0.8,
        scope="layer",
        by="value",
        applied=applied,
        prompts=PromptRecord(40, "diverse"),
    )
    assert circuit.provenance.k == 2


@pytest.mark.parametrize("widths", [(4, 3), (7,), (3, 4, 1)])
def test_universal_neurons_of_a_model_of_another_shape_are_refused(scores, widths):
    layout = Layout(widths)
    counts = torch.zeros(layout.n_neurons, dtype=torch.long)
    other = UniversalNeurons.from_counts(counts, layout, UniversalRule(), PromptRecord(1, "d"))
    for found in (scores, scores.top(k=2)):
        with pytest.raises(
            InputError, match=rf"{sum(widths)} neurons in {len(widths)} layers.* 7 in 2"
        ):
            filter_universal(found, other)


@pytest.mark.parametrize(
    ("own", "telling"),
    [
        ([(2, 0)], "layer 2 does not exist"),
        ([(0, 3)], "neuron 3 does not exist in layer 0"),
        ([(0, -1)], "neuron -1 does not exist"),
    ],
)
def test_own_neurons_that_do_not_exist_are_refused(scores, own, telling):
    for found in (scores, scores.top(k=2)):
        with pytest.raises(InputError, match=telling):
            filter_universal(found, own)


@pytest.mark.parametrize("own", ["none", [3, 5], [(0, 1, 2, 3)]])
@pytest.mark.usefixtures("without_type_checks")
def test_neurons_that_are_no_pairs_are_refused(scores, own):
    with pytest.raises(InputError, match="universal"):
        filter_universal(scores, own)
