"""Fast ablation of many neurons against one neuron and one prompt at a time."""

import numpy as np
import pytest

import cna_lens
from cna_lens.metrics import LogOdds, refusal_log_odds
from experiments.demo import ablation_effects as module
from experiments.demo.ablation_effects import ablation_effects, correlation, group_effects


def test_effects_equal_those_of_steering_one_group_at_a_time(chat_model):
    positive, negative = ["w5 w6", "w7", "w8 w9 w4"], ["w3", "w9 w5"]
    means = cna_lens.collect(chat_model, negative)
    neurons = [cna_lens.Neuron(layer, index) for layer in (1, 0) for index in (2, 7, 11)]
    groups = [*([neuron] for neuron in neurons), neurons, neurons[2:4], []]
    found = ablation_effects(chat_model, positive, groups, means.mean, means.layout)
    before = np.array(refusal_log_odds(chat_model, positive))
    expected = []
    for group in groups:
        circuit = cna_lens.Circuit(tuple(group), (1.0,) * len(group), means.layout)
        with cna_lens.steer(chat_model, circuit, values=means, positions="last_prompt"):
            expected.append(float((before - refusal_log_odds(chat_model, positive)).mean()))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected).max() > 1e-4


def test_a_correlation_lies_inside_its_interval():
    draw = np.random.default_rng(0)
    x = draw.normal(size=300)
    y = x + draw.normal(size=300)
    found = correlation(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y, seed=0)
    assert found["low"] < found["value"] < found["high"]
    # Of 300 pairs at 0.71, plus or minus two standard errors of 0.03.
    assert found["value"] == pytest.approx(2**-0.5, abs=0.08)
    assert found["high"] - found["low"] == pytest.approx(4 * 0.5 / 300**0.5, rel=0.4)


@pytest.mark.long
def test_groups_agree_with_scores_that_are_their_effects(chat_model, monkeypatch):
    positive, negative = ["w5 w6", "w7", "w8 w9 w4"], ["w3", "w9 w5"]
    means = cna_lens.collect(chat_model, negative)
    scores = cna_lens.score_neurons(
        chat_model, positive, negative, cna_lens.AttributionPatching(LogOdds())
    )
    monkeypatch.setattr(module, "SIZES", (1, 8))
    monkeypatch.setattr(module, "TOP", 0.25)
    found = group_effects(chat_model, positive, scores, means.mean, 20, seed=0)
    assert [(row["drawn_from"], row["k"]) for row in found] == [
        (pool, size) for pool in ("all", "top", "first") for size in (1, 8)
    ]
    assert min(row["pearson"]["value"] for row in found[:4]) > 0.9
    assert [row["pearson"] for row in found[4:]] == [None, None]
    sums = {(row["drawn_from"], row["k"]): row["mean_sum"] for row in found}
    assert sums["top", 8] > 4 * sums["top", 1] > 0
    assert sums["first", 8] > sums["top", 8] > sums["all", 8]
    assert sums["first", 1] == pytest.approx(float(scores.values.max()))
    for row in found[2:]:
        assert row["mean_effect"] == pytest.approx(row["mean_sum"], rel=0.3)
