import math
from fractions import Fraction
from itertools import pairwise

import pytest
import reference
import tiny
import torch
from hypothesis import example, given, settings, strategies as st

from cna_lens import InputError, Layout, Neuron, PromptRecord, UniversalRule, universal_neurons
from cna_lens.discovery import UniversalNeurons
from cna_lens.discovery.universal import TopCounts, most_active

LAYOUT = Layout((4, 0, 6))
RECORD = PromptRecord(40, "diverse")


def record(count):
    return PromptRecord(count, "diverse")


def slow_top(row, layout, rule):
    """The places of one prompt's most active neurons, by sorting a python list."""
    strength = [abs(value) if rule.by == "magnitude" else value for value in row]
    starts = [sum(layout.widths[:layer]) for layer in range(layout.n_layers + 1)]
    if rule.scope == "model":
        axes = [range(layout.n_neurons)]
    else:
        axes = [range(a, b) for a, b in pairwise(starts) if a < b]
    top = set()
    for axis in axes:
        size = max(1, math.floor(len(axis) * rule.fraction + 0.5))
        top |= set(sorted(axis, key=lambda place: -strength[place])[:size])
    return top


# Ten different magnitudes with any signs: ties would leave the choice open.
PROMPT = st.tuples(st.permutations(range(1, 11)), st.lists(st.booleans(), min_size=10, max_size=10))
PROMPTS = st.lists(
    PROMPT.map(lambda p: [v if plus else -v for v, plus in zip(*p, strict=True)]),
    min_size=1,
    max_size=8,
)
RULES = st.tuples(
    st.sampled_from([0.001, 0.1, 0.25, 0.5, 1.0]),
    st.sampled_from([0.1, 0.5, 0.8, 1.0]),
    st.sampled_from(["model", "layer"]),
    st.sampled_from(["magnitude", "value"]),
)


@given(PROMPTS, RULES, st.integers(1, 8))
@settings(deadline=None)
def test_universal_neurons_are_those_of_the_slow_definition(rows, settings_of_rule, batch):
    rule = UniversalRule(*settings_of_rule)
    tops = [slow_top(row, LAYOUT, rule) for row in rows]
    counted = [sum(place in top for top in tops) for place in range(10)]
    threshold = Fraction(str(rule.threshold))
    expected = [place for place in range(10) if Fraction(counted[place], len(rows)) >= threshold]

    counts = TopCounts(rule)
    for part in torch.tensor(rows, dtype=torch.float32).split(batch):
        counts.update(range(len(part)), part, LAYOUT)
    found = counts.universal(record(len(rows)))
    assert found.counts.tolist() == counted
    assert list(found.neurons) == [LAYOUT.neuron(place) for place in expected]


@pytest.mark.parametrize(("scope", "by"), [("model", "magnitude"), ("layer", "value")])
def test_a_prompts_most_active_neurons_by_hand(scope, by):
    row = torch.tensor([[1.0, -9.0, 3.0, -7.0]])
    top = most_active(row, Layout((2, 2)), UniversalRule(0.5, scope=scope, by=by))
    by_hand = {("model", "magnitude"): [0, 1, 0, 1], ("layer", "value"): [1, 0, 1, 0]}
    assert top.tolist() == [[bool(entry) for entry in by_hand[scope, by]]]


def test_the_papers_thousandth_of_a_model_is_one_neuron_in_a_thousand():
    row = torch.arange(3000.0)[None]
    top = most_active(row, Layout((1000, 2000)), UniversalRule())
    assert top.nonzero()[:, 1].tolist() == [2997, 2998, 2999]


def test_the_default_rule_is_the_papers():
    rule = UniversalRule()
    assert (rule.fraction, rule.threshold) == (0.001, 0.8)


def test_exactly_eighty_per_cent_of_forty_prompts_is_enough():
    counts = torch.tensor([31, 32, 33, 40, 0])
    found = UniversalNeurons.from_counts(counts, Layout((2, 3)), UniversalRule(), RECORD)
    assert list(found.neurons) == [Neuron(0, 1), Neuron(1, 0), Neuron(1, 1)]


# As floats 0.07 * 100 is just above 7.
@example(100, 7)
@given(st.integers(1, 200), st.integers(1, 100))
@settings(deadline=None)
def test_the_threshold_is_exact_for_whole_per_cents(n_prompts, per_cent):
    counts = torch.arange(n_prompts + 1)
    found = UniversalNeurons.from_counts(
        counts, Layout((n_prompts + 1,)), UniversalRule(threshold=per_cent / 100), record(n_prompts)
    )
    expected = [c for c in range(n_prompts + 1) if 100 * c >= per_cent * n_prompts]
    assert [neuron.index for neuron in found.neurons] == expected


def test_the_whole_run_agrees_with_the_hugging_face_model(model):
    family = model.cfg.model_name.removeprefix("tiny-")
    prompts = [[1, i, 2 * i % 60, 3 * i % 60] for i in range(5, 25)]
    rows = reference.activations(tiny.plain(family), prompts)

    rule = UniversalRule(fraction=0.25, threshold=0.4)
    found = universal_neurons(model, prompts, rule=rule)
    tops = [slow_top(row.tolist(), found.layout, rule) for row in rows]
    expected = [p for p in range(48) if 10 * sum(p in top for top in tops) >= 4 * len(prompts)]
    assert 0 < len(expected) < 48
    assert list(found.neurons) == [Neuron(*divmod(place, tiny.WIDTH)) for place in expected]
    assert len(found) == len(expected)
    assert found.prompts.count == len(prompts)


def test_no_prompts_have_no_universal_neurons():
    with pytest.raises(InputError, match="at least one prompt, there was none"):
        TopCounts(UniversalRule()).universal(record(0))


@pytest.mark.parametrize(
    ("setting", "telling"),
    [
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"threshold": 0.0}, "threshold is 0.0, expected above 0 and up to 1"),
        ({"threshold": 1.2}, "threshold is 1.2"),
        ({"threshold": 80.0}, "threshold is 80.0"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"scope": "block"}, "scope is 'block', expected one of .*'model', 'layer'"),
        ({"by": "size"}, "by is 'size', expected one of .*'magnitude', 'value'"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_an_invalid_rule_is_refused(setting, telling):
    with pytest.raises(InputError, match=telling):
        UniversalRule(**setting)


def test_the_repr_says_how_many_neurons_by_which_rule():
    counts = torch.tensor([40, 0, 32])
    found = UniversalNeurons.from_counts(counts, Layout((3,)), UniversalRule(), RECORD)
    assert all(part in repr(found) for part in ("2 of 3 neurons", "80%", "40 prompts"))
