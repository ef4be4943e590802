"""Ranking by TransformerLens's sparse probe."""

import math
import sys

import pytest
import torch

import cna_lens
from cna_lens import InputError, Layout, Probe, PromptActivations, PromptRecord, Source, rank

LAYOUT = Layout((30, 10))
PLANTED = {cna_lens.Neuron(0, 3), cna_lens.Neuron(1, 7)}


def kept(rows, name="prompts"):
    source = Source("model", -1, PromptRecord(len(rows), name))
    return PromptActivations(LAYOUT, source, in_memory=((tuple(range(len(rows))), rows),))


def planted(seed=0, n=60):
    """Noise in every neuron but two, which tell the sets apart, one by lower activations."""
    noise = torch.randn(2 * n, 40, generator=torch.Generator().manual_seed(seed))
    noise[:n, 3] += 3
    noise[:n, 37] -= 3
    return kept(noise[:n]), kept(noise[n:])


def test_the_planted_neurons_get_the_largest_coefficients():
    scores = rank(*planted(), Probe(k=8))
    top = scores.top(k=2)
    assert set(top) == PLANTED
    assert dict(zip(top, top.scores, strict=True))[(0, 3)] > 1
    assert dict(zip(top, top.scores, strict=True))[(1, 7)] < -1


def test_a_neuron_that_only_repeats_another_shares_its_coefficient():
    positive, negative = planted()
    alone = rank(positive, negative, Probe(k=2)).values[3]
    twice = [side.matrix().clone() for side in (positive, negative)]
    for rows in twice:
        rows[:, 4] = rows[:, 3]
    both = rank(kept(twice[0]), kept(twice[1]), Probe(k=3)).values
    assert both[3] == pytest.approx(float(both[4]), rel=1e-6)
    assert both[3] < 0.8 * alone


def test_neurons_outside_of_the_support_cannot_be_chosen():
    scores = rank(*planted(), Probe(k=8))
    assert int(scores.eligible.sum()) == 8
    with pytest.raises(InputError, match="8 of 40 can be chosen by probe"):
        scores.top(k=9)


def test_the_order_of_the_prompts_does_not_matter():
    positive, negative = planted()
    there = rank(positive, negative, Probe(k=8)).values
    back = rank(kept(positive.matrix().flip(0)), kept(negative.matrix().flip(0)), Probe(k=8)).values
    assert torch.equal(there, back)


def test_batches_and_order_do_not_matter_on_a_model(llama):
    here = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
    there = [[33, 34, 35], [36, 37], [38, 39, 40, 41, 42, 43]]
    together = cna_lens.score_neurons(llama, here, there, Probe(k=10))
    alone = cna_lens.score_neurons(llama, here[::-1], there[::-1], Probe(k=10), batch_size=1)
    torch.testing.assert_close(together.values, alone.values, rtol=1e-3, atol=1e-4)
    circuit = cna_lens.find_circuit(
        llama, here, there, k=4, rank=Probe(k=10), universal=None, progress=False
    )
    assert circuit.neurons == together.top(k=4).neurons
    assert circuit.provenance.rank.startswith("probe(fraction=None, k=10, l2_strength=0.01")


def test_the_seed_decides_which_prompts_are_held_out():
    values = [rank(*planted(), Probe(k=8, seed=seed)).values for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_statistics_alone_are_not_enough():
    positive, negative = planted()
    with pytest.raises(InputError, match=r"collect\(\.\.\., keep='all'\)"):
        rank(positive.stats(), negative.stats(), "probe")


def test_too_few_prompts_are_refused_before_the_model_runs(llama):
    with pytest.raises(InputError, match="1 positive and 2 negative"):
        cna_lens.find_circuit(llama, [[5]], [[6], [7]], rank="probe")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"fraction": 2.0}, "fraction is 2.0"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"l2_strength": 0.0}, "l2_strength is 0.0"),
        ({"l2_strength": math.inf}, "l2_strength is inf"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Probe(**options)


def test_a_single_prompt_is_too_few_for_statistics_too():
    positive, negative = planted()
    with pytest.raises(InputError, match="there are 1 positive and 60 negative"):
        rank(kept(positive.matrix()[:1]), negative, Probe(k=2))


def test_inference_mode_changes_nothing():
    expected = rank(*planted(), Probe(k=8)).values
    with torch.inference_mode():
        found = rank(*planted(), Probe(k=8)).values
    assert torch.equal(found, expected)


def test_a_transformer_lens_without_a_probe_is_named(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.tools.analysis.sparse_probing", None)
    monkeypatch.delattr("transformer_lens.tools.analysis.sparse_probing", raising=False)
    with pytest.raises(InputError, match=r"since 4\.1; update transformer-lens"):
        cna_lens.find_circuit(llama, [[5], [6]], [[7], [8]], rank="probe")
