"""The rankings by statistics and weights, and properties that all rankings share."""

import math

import pytest
import reference
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens
from cna_lens import (
    ActivationStats,
    InputError,
    Layout,
    LearnedMask,
    LogOdds,
    ModelError,
    rank,
    score_neurons,
)
from cna_lens.discovery.rankings import scoring

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
NEGATIVE = [[33, 34, 35], [36, 37], [38, 39, 40, 41, 42, 43]]
LAYOUT = Layout((2, 1))
# Not every TransformerLens has the probe, so it has its own test file.
NAMES = [name for name in cna_lens.RANKINGS if name != "probe"]
SET = st.lists(
    st.lists(st.integers(-800, 800).map(lambda n: n / 8), min_size=3, max_size=3),
    min_size=2,
    max_size=6,
)


def stats(rows):
    return ActivationStats.of(torch.tensor(rows, dtype=torch.float32), LAYOUT)


@given(SET, SET)
@settings(deadline=None)
def test_standardized_is_the_difference_over_the_pooled_deviation(positive, negative):
    found = rank(stats(positive), stats(negative), "standardized").values.tolist()
    for neuron, score in enumerate(found):
        here, there = ([row[neuron] for row in side] for side in (positive, negative))
        means = [math.fsum(side) / len(side) for side in (here, there)]
        squares = math.fsum(
            (value - mean) ** 2
            for side, mean in zip((here, there), means, strict=True)
            for value in side
        )
        if squares == 0:
            assert score == 0
        else:
            deviation = math.sqrt(squares / (len(here) + len(there) - 2))
            assert score == pytest.approx((means[0] - means[1]) / deviation, rel=1e-9, abs=1e-9)


def test_a_neuron_that_is_constant_but_for_rounding_has_no_standardized_score():
    nearly = torch.tensor([[1.0, 1.0, 0.0], [1.0 + 1e-7, 1.0, 0.0]])
    positive = ActivationStats.of(nearly + torch.tensor([2.0, 0.0, 0.0]), LAYOUT)
    values = rank(positive, ActivationStats.of(nearly, LAYOUT), "standardized").values
    assert values.tolist() == [0.0, 0.0, 0.0]


def test_a_single_pair_of_prompts_has_no_deviation():
    with pytest.raises(InputError, match="at least 3 prompts"):
        rank(stats([[1.0, 2, 3]]), stats([[0.0, 0, 0]]), "standardized")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_output_weighted_is_the_contrast_times_the_length_of_what_a_neuron_writes(family, models):
    hf = tiny.hugging_face(family)
    differences = reference.activations(hf, POSITIVE).mean(0) - reference.activations(
        hf, NEGATIVE
    ).mean(0)
    expected = []
    for layer, projection in enumerate(tiny.down_projections(hf)):
        for index in range(tiny.WIDTH):
            one = torch.zeros(tiny.WIDTH)
            one[index] = 1.0
            with torch.no_grad():
                written = projection(one) - projection(torch.zeros(tiny.WIDTH))
            length = math.sqrt(sum(float(x) ** 2 for x in written))
            expected.append(float(differences[layer * tiny.WIDTH + index]) * length)
    scores = score_neurons(models[family], POSITIVE, NEGATIVE, "output_weighted")
    torch.testing.assert_close(
        scores.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4
    )


def test_output_weighted_needs_to_know_the_down_projection(llama, monkeypatch):
    monkeypatch.setattr(
        "cna_lens.models.inside.projections.down_projection", lambda model, layer: None
    )
    with pytest.raises(ModelError, match="down projection of layer 0 of tiny-llama"):
        score_neurons(llama, POSITIVE, NEGATIVE, "output_weighted")


@pytest.mark.parametrize("name", ["contrast", "standardized", "output_weighted"])
def test_swapping_the_sets_negates_every_score(model, name):
    forth = score_neurons(model, POSITIVE, NEGATIVE, name).values
    back = score_neurons(model, NEGATIVE, POSITIVE, name).values
    torch.testing.assert_close(forth, -back, rtol=1e-6, atol=1e-7)
    assert forth.abs().max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_order_and_batches_do_not_matter(llama, name):
    together = score_neurons(llama, POSITIVE, NEGATIVE, name)
    alone = score_neurons(llama, POSITIVE[::-1], NEGATIVE[::-1], name, batch_size=1)
    torch.testing.assert_close(together.values, alone.values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_ranking_gives_a_circuit(llama, name):
    circuit = cna_lens.find_circuit(
        llama,
        POSITIVE,
        NEGATIVE,
        k=4,
        rank=name,
        sign="positive",
        max_per_layer=2,
        universal=None,
        progress=False,
    )
    assert [neuron.layer for neuron in circuit].count(0) == 2
    assert min(circuit.scores) > 0
    assert circuit.provenance.rank.split("(")[0] == name
    assert circuit.provenance.max_per_layer == 2
    scores = score_neurons(llama, POSITIVE, NEGATIVE, name)
    assert scores.method == name
    assert scores.top(k=4, sign="positive", max_per_layer=2).neurons == circuit.neurons


def test_settings_are_part_of_a_rankings_name(llama, tmp_path):
    metric = cna_lens.LogitDifference(target=5, foil=6)
    ranking = cna_lens.AttributionPatching(metric=metric)
    circuit = cna_lens.find_circuit(
        llama, POSITIVE, NEGATIVE, k=2, rank=ranking, universal=None, progress=False
    )
    assert (
        circuit.provenance.rank
        == "attribution_patching(metric=LogitDifference(target=5, foil=6), steps=0)"
    )
    circuit.save(tmp_path / "circuit.json")
    assert cna_lens.Circuit.load(tmp_path / "circuit.json") == circuit


@pytest.mark.parametrize("name", ["output_weighted", "attribution_patching", "relp"])
def test_a_ranking_that_needs_the_model_says_so(name):
    with pytest.raises(InputError, match=rf"{name}.*score_neurons.*find_circuit"):
        rank(stats([[1.0, 2, 3]]), stats([[0.0, 0, 0]]), name)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("ranking", ["magic", 3, None, cna_lens.Contrast])
def test_the_error_for_an_unknown_ranking_lists_the_known_ones(llama, ranking):
    known = (
        r"expected one of: attribution_patching, best, contrast, learned_mask, node_pruning, out"
    )
    with pytest.raises(InputError, match=known):
        cna_lens.find_circuit(llama, POSITIVE, NEGATIVE, rank=ranking)


def test_the_best_ranking_has_a_name(chat_model, monkeypatch):
    assert scoring.as_ranking("best") == scoring.as_ranking("learned_mask") == LearnedMask()
    quick = LearnedMask(LogOdds(("w5",)), steps=3, floor=-100.0, answer_tokens=1)
    monkeypatch.setattr(scoring, "BEST", quick)
    texts = ["w5 w6", "w7"], ["w30", "w31 w32"]
    found = [
        cna_lens.find_circuit(chat_model, *texts, rank=each, k=3, universal=None, progress=False)
        for each in ("best", quick)
    ]
    assert found[0] == found[1]
    assert found[0].provenance.rank.startswith("learned_mask(metric=LogOdds(openings=('w5',))")


def test_random_scores_depend_on_their_seed_alone(llama, models):
    scores = [
        score_neurons(model, sets[0], sets[1], cna_lens.RandomScores(seed))
        for model, sets, seed in [
            (llama, (POSITIVE, NEGATIVE), 3),
            (models["gpt2"], (NEGATIVE, POSITIVE), 3),
            (llama, (POSITIVE, NEGATIVE), 4),
        ]
    ]
    assert torch.equal(scores[0].values, scores[1].values)
    assert not torch.equal(scores[0].values, scores[2].values)
    assert scores[0].provenance.rank == "random(seed=3)"


def test_random_scores_are_standard_normal():
    layout = Layout((20_000,))
    zeros = ActivationStats.of(torch.zeros(1, 20_000), layout)
    values = rank(zeros, zeros, "random").values
    # Standard errors: 0.007 of the mean, 0.005 of the deviation.
    assert abs(float(values.mean())) < 0.03
    assert abs(float(values.std()) - 1) < 0.02


def test_random_scores_leave_torchs_own_random_numbers_alone(llama):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    score_neurons(llama, POSITIVE, NEGATIVE, "random")
    assert torch.equal(torch.rand(3), expected)
