"""Circuits of resampled prompts, against rank and top on the prompts of each resample."""

import pytest
import runs
import torch
from hypothesis import given, settings, strategies as st
from kept import kept, noise

from cna_lens import (
    ActivationStats,
    InputError,
    Layout,
    Neuron,
    NeuronScores,
    Selection,
    filter_universal,
    rank,
    stability,
)
from cna_lens.evidence import ActivationSets, bootstrap
from cna_lens.evidence.resampling import Resamples, disjoint_sets, shuffled_labels

WIDTHS = (4, 0, 6)


def slow_circuits(rows, resamples, selection, widths):
    """Each resample's rows written out one by one, then rank and top; None where top refuses."""
    layout = Layout(widths)
    for positive, negative in zip(resamples.positive, resamples.negative, strict=True):
        sides = [
            ActivationStats.of(rows[torch.repeat_interleave(side.long())], layout)
            for side in (positive, negative)
        ]
        scores = rank(*sides)
        if selection.universal is not None:
            scores = filter_universal(scores, selection.universal)
        try:
            circuit = scores.top(k=selection.k, sign=selection.sign, layers=selection.layers)
        except InputError:
            yield None
        else:
            yield sorted(layout.flat_all(circuit).tolist())


@pytest.mark.parametrize("paired", runs.every([False, True], quick=("False",)))
@pytest.mark.parametrize(
    "selection",
    [
        Selection(k=3),
        Selection(k=2, sign="positive"),
        Selection(k=2, sign="negative", universal=[(0, 1), (2, 5)]),
        Selection(k=3, layers=[2]),
    ],
    ids=["abs", "positive", "negative and universal", "one layer"],
)
def test_the_circuit_of_each_resample_is_what_rank_and_top_take(selection, paired):
    # Whole numbers, so that ties are common.
    rows = (noise(10, 10, 1) * 2).round()
    sets = ActivationSets(kept(rows[:5], WIDTHS), kept(rows[5:], WIDTHS), paired)
    generator = torch.Generator().manual_seed(0)
    for resamples in (
        bootstrap(sets, 40, generator),
        bootstrap(sets, 40, generator, size=3),
        shuffled_labels(sets, 40, generator),
        *disjoint_sets(sets, 40, generator, size=2),
    ):
        expected = list(slow_circuits(rows, resamples, selection, WIDTHS))
        possible = torch.tensor([circuit is not None for circuit in expected])
        assert int(possible.sum()) > 20
        some = Resamples(resamples.positive[possible], resamples.negative[possible])
        found = sets.circuits(some, selection).tolist()
        assert found == [circuit for circuit in expected if circuit is not None]
        if not bool(possible.all()):
            with pytest.raises(InputError, match="a resample has fewer"):
                sets.circuits(resamples, selection)


@given(st.lists(st.integers(-2, 2), min_size=8, max_size=8), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_ties_are_broken_as_top_breaks_them(values, k):
    layout = Layout((3, 5))
    scores = NeuronScores(torch.tensor(values, dtype=torch.float64), layout, "contrast")
    for sign in ("abs", "positive", "negative"):
        selection = Selection(k=k, sign=sign)
        try:
            expected = sorted(layout.flat_all(selection.circuit(scores)).tolist())
        except InputError:
            with pytest.raises(InputError, match="fewer to choose from"):
                selection.strongest(scores.values[None], layout)
            continue
        assert selection.strongest(scores.values[None], layout).tolist() == [expected]


def test_many_resamples_in_pieces_are_the_same_circuits(monkeypatch):
    sets = ActivationSets(kept(noise(6, 20, 2)), kept(noise(6, 20, 3)))
    resamples = bootstrap(sets, 30, torch.Generator().manual_seed(0))
    whole = sets.circuits(resamples, Selection(k=4))
    monkeypatch.setattr("cna_lens.evidence.resampling.ENTRIES", 70)
    assert torch.equal(sets.circuits(resamples, Selection(k=4)), whole)


def test_resamples_draw_each_side_from_its_own_set():
    sets = ActivationSets(kept(noise(5, 3, 4)), kept(noise(8, 3, 5)))
    generator = torch.Generator().manual_seed(0)
    drawn = bootstrap(sets, 300, generator)
    assert set(drawn.positive.sum(1).tolist()) == {5.0}
    assert set(drawn.negative.sum(1).tolist()) == {8.0}
    assert not drawn.positive[:, 5:].any()
    assert not drawn.negative[:, :5].any()
    # With replacement: about (1 - 1/5)^5 of the prompts are not drawn.
    assert float((drawn.positive[:, :5] == 0).double().mean()) == pytest.approx(0.8**5, abs=0.04)
    one, other = disjoint_sets(sets, 300, generator, size=2)
    for first, second in ((one.positive, other.positive), (one.negative, other.negative)):
        assert set(first.sum(1).tolist()) == set(second.sum(1).tolist()) == {2.0}
        assert float((first * second).sum()) == 0
        assert float(first.max()) == 1
        drawn_from = first.any(0) | second.any(0)
        assert int(drawn_from.sum()) in (5, 8)


def test_paired_prompts_stay_together():
    sets = ActivationSets(kept(noise(6, 3, 4)), kept(noise(6, 3, 5)), paired=True)
    generator = torch.Generator().manual_seed(0)
    for drawn in (bootstrap(sets, 50, generator), *disjoint_sets(sets, 50, generator, 3)):
        assert torch.equal(drawn.positive[:, :6], drawn.negative[:, 6:])
    swapped = shuffled_labels(sets, 50, generator)
    assert torch.equal(swapped.positive[:, :6] + swapped.positive[:, 6:], torch.ones(50, 6))
    assert torch.equal(swapped.positive + swapped.negative, torch.ones(50, 12))
    assert 0 < float(swapped.positive[:, :6].mean()) < 1


def test_shuffled_labels_go_to_any_prompt_equally_often():
    sets = ActivationSets(kept(noise(3, 2, 4)), kept(noise(6, 2, 5)))
    shuffled = shuffled_labels(sets, 3000, torch.Generator().manual_seed(0))
    assert set(shuffled.positive.sum(1).tolist()) == {3.0}
    assert torch.equal(shuffled.positive + shuffled.negative, torch.ones(3000, 9))
    torch.testing.assert_close(
        shuffled.positive.mean(0), torch.full((9,), 1 / 3).double(), rtol=0, atol=0.04
    )


def test_frequencies_and_jaccards_are_those_of_a_slow_loop():
    rows = noise(16, 10, 6)
    rows[:8, 3] += 1.5
    sets = ActivationSets(kept(rows[:8], WIDTHS, shards=2), kept(rows[8:], WIDTHS))
    selection = Selection(k=3)
    found = stability(sets.positive, sets.negative, selection, n_resamples=60, sizes=[2, 5], seed=9)
    layout = Layout(WIDTHS)
    generator = torch.Generator().manual_seed(9)

    def circuits(resamples):
        return list(slow_circuits(rows, resamples, selection, WIDTHS))

    def jaccards(some, others):
        values = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(some, others, strict=True)]
        return torch.tensor(values, dtype=torch.float64)

    def assert_estimate(estimate, values):
        assert estimate.value == pytest.approx(float(values.mean()))
        assert estimate.low == pytest.approx(float(values.quantile(0.025)))
        assert estimate.high == pytest.approx(float(values.quantile(0.975)))
        assert estimate.n == 60

    of_all = [layout.flat_all(found.circuit).tolist()] * 60
    drawn = circuits(bootstrap(sets, 60, generator))
    for flat in range(10):
        share = sum(flat in circuit for circuit in drawn) / 60
        assert float(found.frequency[flat]) == pytest.approx(share)
    assert_estimate(found.jaccard, jaccards(of_all, drawn))
    for size in found.sizes:
        first, second = (circuits(bootstrap(sets, 60, generator, size.size)) for _ in "ab")
        assert_estimate(size.with_all, jaccards(of_all, first))
        assert_estimate(size.between, jaccards(first, second))
        if size.size == 2:
            apart = disjoint_sets(sets, 60, generator, 2)
            assert_estimate(size.disjoint, jaccards(*map(circuits, apart)))
        else:
            assert size.disjoint is None
    core = [n for n in found.circuit if found.frequency[layout.flat(n)] == 1]
    assert list(found.core()) == core
    assert list(found.core(1e-9)) == list(found.circuit)


def test_planted_neurons_are_always_chosen_and_are_the_core():
    positive, negative = noise(40, 300, 7), noise(40, 300, 8)
    planted = [(0, 4), (1, 8)]
    positive[:, 4] += 6
    positive[:, 158] -= 5
    found = stability(
        kept(positive, (150, 150)), kept(negative, (150, 150)), Selection(k=4), n_resamples=200
    )
    assert list(found.core()) == planted
    frame = found.to_frame()
    assert list(zip(frame["layer"][:2], frame["index"][:2], strict=True)) == planted
    assert list(frame["frequency"][:2]) == [1.0, 1.0]
    assert float(found.frequency.sum()) == pytest.approx(4)
    assert [size.size for size in found.sizes] == [8, 16, 32]
    # The two others are noise, so circuits agree in the planted two and little more.
    assert 2 / 6 <= found.sizes[0].disjoint.value < 0.45


def test_circuits_from_more_prompts_agree_more():
    positive, negative = noise(64, 400, 9), noise(64, 400, 10)
    positive[:, :20] += torch.linspace(0.5, 1.5, 20)
    found = stability(kept(positive), kept(negative), Selection(k=10), sizes=[4, 16, 32])
    curve = [size.disjoint.value for size in found.sizes]
    assert curve == sorted(curve)
    assert curve[0] < 0.2 < curve[2]


def test_only_the_seed_decides():
    sides = kept(noise(8, 50, 11)), kept(noise(8, 50, 12))
    one, again, other = (
        stability(*sides, Selection(k=5), n_resamples=20, seed=seed) for seed in (0, 0, 1)
    )
    assert one.record() == again.record()
    assert one.jaccard != other.jaccard


def test_the_record_holds_curve_core_and_settings(tmp_path):
    found = stability(
        kept([[9.0, 0.0], [8.0, 0.5]]), kept([[0.0, 0.4], [1.0, 0.0]]), Selection(k=1), sizes=[1]
    )
    record = found.record()
    assert record["core"] == [[0, 0, 8.0]]
    assert (record["n_positive"], record["n_resamples"], record["seed"]) == (2, 200, 0)
    assert record["sizes"][0]["disjoint"]["value"] == 1.0
    found.save(tmp_path / "stability.json")
    assert '"ever_chosen": 1' in (tmp_path / "stability.json").read_text()


@pytest.mark.parametrize(
    ("settings", "telling"),
    [
        ({"sizes": [4]}, "a discovery set of 4 .* expected 1 to 3"),
        ({"sizes": [0]}, "a discovery set of 0"),
        ({"n_resamples": 0}, "n_resamples is 0"),
        ({"confidence": 95.0}, "confidence is 95"),
    ],
)
def test_settings_out_of_range_are_refused(settings, telling):
    with pytest.raises(InputError, match=telling):
        stability(kept(noise(3, 9, 1)), kept(noise(4, 9, 2)), Selection(k=2), **settings)


def test_a_core_at_no_frequency_is_refused():
    found = stability(kept(noise(3, 9, 1)), kept(noise(4, 9, 2)), Selection(k=2), n_resamples=5)
    with pytest.raises(InputError, match="frequency is 0"):
        found.core(0.0)


def test_an_invalid_selection_is_refused():
    layout = Layout((3, 3))
    with pytest.raises(InputError, match="not both"):
        Selection(k=2, fraction=0.5)
    with pytest.raises(InputError, match="layer 5 does not exist"):
        Selection(k=1, layers=[5]).candidates(layout)
    with pytest.raises(InputError, match="neuron 3 does not exist"):
        Selection(k=1, universal=[(0, 3)]).candidates(layout)


def test_a_selection_can_be_used_again_and_again():
    layout = Layout((3, 3))
    selection = Selection(k=1, layers=iter([1]), universal=iter([Neuron(1, 2)]))
    for _ in range(2):
        assert selection.candidates(layout).nonzero().flatten().tolist() == [3, 4]
    assert selection.record() == {
        "fraction": None,
        "k": 1,
        "sign": "abs",
        "layers": [1],
        "n_universal": 1,
    }
