"""Perturbation probing against its definition, written out with the weights of the same models."""

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import (
    InputError,
    LogitDifference,
    LogOdds,
    ModelError,
    PerturbationProbing,
    score_neurons,
)

POSITIVE = [[5, 6, 7], [8, 9, 10, 11], [12]]
NEGATIVE = [[13, 14], [15, 16, 17]]


def by_definition(hf, direction):
    """The difference of means, times what each neuron's output has along a direction."""
    delta = reference.activations(hf, POSITIVE).mean(0) - reference.activations(hf, NEGATIVE).mean(
        0
    )
    written = []
    for projection in tiny.down_projections(hf):
        for index in range(tiny.WIDTH):
            one = torch.zeros(tiny.WIDTH)
            one[index] = 1.0
            with torch.no_grad():
                output = projection(one) - projection(torch.zeros(tiny.WIDTH))
            written.append(float(output @ direction))
    return delta.double() * torch.tensor(written, dtype=torch.float64)


BEHIND = ("gemma2", "gemma3")
"""Families with a norm behind the MLP."""


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name not in BEHIND])
def test_a_target_and_a_foil_give_the_difference_of_their_rows(family, models):
    hf = tiny.hugging_face(family)
    rows = hf.get_output_embeddings().weight.detach()
    scores = score_neurons(
        models[family], POSITIVE, NEGATIVE, PerturbationProbing(LogitDifference(5, 6))
    )
    expected = by_definition(hf, rows[5] - rows[6])
    torch.testing.assert_close(scores.values, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.01
    assert scores.unit == "logits"


def test_openings_are_compared_with_all_other_tokens(llama):
    hf = tiny.hugging_face("llama")
    rows = hf.get_output_embeddings().weight.detach()
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[[5, 9]] = True
    probing = PerturbationProbing(LogOdds(openings=("w5", "w9 w10")))
    scores = score_neurons(llama, POSITIVE, NEGATIVE, probing)
    expected = by_definition(hf, rows[chosen].mean(0) - rows[~chosen].mean(0))
    torch.testing.assert_close(scores.values, expected, rtol=1e-4, atol=1e-5)


def test_the_scores_sum_to_the_change_of_the_direct_effect(llama):
    # What all MLPs together write along the direction, less what they write on the other side.
    rows = tiny.hugging_face("llama").get_output_embeddings().weight.detach()
    direction = rows[5] - rows[6]
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(llama.cfg.n_layers)]

    def directly(prompts):
        found = []
        for ids in prompts:
            with torch.no_grad():
                _, cache = llama.run_with_cache(torch.tensor([ids]))
            found.append(sum(float(cache[name][0, -1] @ direction) for name in names))
        return sum(found) / len(found)

    scores = score_neurons(llama, POSITIVE, NEGATIVE, PerturbationProbing(LogitDifference(5, 6)))
    assert float(scores.values.sum()) == pytest.approx(
        directly(POSITIVE) - directly(NEGATIVE), abs=1e-4
    )


def test_it_has_a_name(llama):
    found = cna_lens.find_circuit(
        llama,
        POSITIVE,
        NEGATIVE,
        rank=PerturbationProbing(LogitDifference(5, 6)),
        k=4,
        universal=None,
        progress=False,
    )
    assert found.provenance.rank.startswith("perturbation_probing(metric=LogitDifference")
    assert cna_lens.discovery.as_ranking("perturbation_probing") == PerturbationProbing()


def test_one_metric_is_taken_for_all_prompts(llama):
    varied = PerturbationProbing(LogitDifference(target=(5, 6, 7), foil=8))
    with pytest.raises(InputError, match=r"differs between prompts.*one target and one foil"):
        score_neurons(llama, POSITIVE, NEGATIVE, varied)


@pytest.mark.usefixtures("without_type_checks")
def test_another_metric_is_refused():
    with pytest.raises(InputError, match="metric is 'refusal', expected LogOdds"):
        PerturbationProbing("refusal")


@pytest.mark.parametrize("family", [name for name in BEHIND if name in tiny.FAMILIES])
def test_a_norm_behind_the_mlp_is_refused(family, models):
    probing = PerturbationProbing(LogitDifference(5, 6))
    with pytest.raises(ModelError, match="has a norm behind the MLP of layer 0"):
        score_neurons(models[family], POSITIVE, NEGATIVE, probing)


def test_inference_mode_changes_nothing(llama):
    probing = PerturbationProbing(LogitDifference(5, 6))
    plain = score_neurons(llama, POSITIVE, NEGATIVE, probing)
    with torch.inference_mode():
        inferred = score_neurons(llama, POSITIVE, NEGATIVE, probing)
    torch.testing.assert_close(plain.values, inferred.values)


@pytest.mark.parametrize("unembedding", [None, torch.empty(16, 64, device="meta")])
def test_it_needs_the_numbers_of_the_unembedding(llama, monkeypatch, unembedding):
    monkeypatch.setattr(type(llama.unembed), "W_U", unembedding)
    with pytest.raises(ModelError, match="unembedding of tiny-llama is quantised or offloaded"):
        score_neurons(llama, POSITIVE, NEGATIVE, PerturbationProbing(LogitDifference(5, 6)))


def test_it_needs_to_know_the_down_projection(llama, monkeypatch):
    monkeypatch.setattr(
        "cna_lens.models.inside.projections.down_projection", lambda model, layer: None
    )
    probing = PerturbationProbing(LogitDifference(5, 6))
    with pytest.raises(ModelError, match="perturbation_probing needs its numbers"):
        score_neurons(llama, POSITIVE, NEGATIVE, probing)
