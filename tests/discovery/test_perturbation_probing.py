"""Perturbation probing against its definition, written out with the weights of the same models."""

import pytest
import reference
import tiny
import tiny_moe
import torch
from quantised_linear import Float8Linear, IntegerLinear, PackedLinear
from transformers import AutoModelForCausalLM, Olmo2Config

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
PROBING = PerturbationProbing(LogitDifference(5, 6))


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
@pytest.mark.parametrize("metric", ["refusal", LogOdds, LogitDifference])
def test_another_metric_is_refused(metric):
    with pytest.raises(InputError, match=r"metric is .*, expected LogOdds"):
        PerturbationProbing(metric)


@pytest.mark.parametrize("family", [name for name in BEHIND if name in tiny.FAMILIES])
def test_a_norm_behind_the_mlp_is_refused(family, models):
    with pytest.raises(ModelError, match=r"a neuron of layer 0 of .* does not write its output"):
        score_neurons(models[family], POSITIVE, NEGATIVE, PROBING)


def test_a_norm_behind_the_mlp_is_refused_under_any_name():
    config = Olmo2Config(
        vocab_size=tiny.VOCABULARY,
        hidden_size=16,
        intermediate_size=tiny.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        architectures=["Olmo2ForCausalLM"],
    )
    model = tiny.boot(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ModelError, match=r"a neuron of layer 0 of .* does not write its output"):
        score_neurons(model, POSITIVE, NEGATIVE, PROBING)


@pytest.mark.parametrize("changed", ["direction", "length"])
def test_what_a_neuron_writes_is_tried_in_each_layer(llama, changed):
    def behind(written, hook):
        if changed == "direction":
            return written.roll(1, dims=-1)
        return 16 * written / written.norm(dim=-1, keepdim=True)

    with (
        llama.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", behind)]),
        pytest.raises(ModelError, match="a neuron of layer 1 of tiny-llama does not write"),
    ):
        score_neurons(llama, POSITIVE, NEGATIVE, PROBING)
    assert all(not point.has_hooks() for point in llama.hook_dict.values())


def test_a_factor_of_all_that_mlps_write_does_not_matter(llama):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, PROBING).values
    with llama.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda written, hook: written * 0.2)]):
        found = score_neurons(llama, POSITIVE, NEGATIVE, PROBING).values
    assert torch.equal(found, expected)


def test_a_model_in_bfloat16_is_scored():
    model = tiny.bridge("llama", dtype=torch.bfloat16)
    found = score_neurons(model, POSITIVE, NEGATIVE, PROBING).values
    expected = score_neurons(tiny.bridge("llama"), POSITIVE, NEGATIVE, PROBING).values
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.99


@pytest.mark.long
@pytest.mark.real_model
def test_a_stream_that_is_long_at_the_first_token_is_no_obstacle_in_bfloat16():
    # Its rounding alone is longer there than what an MLP usually writes.
    model = cna_lens.load_model("demo", device="cpu", dtype=torch.bfloat16)
    PROBING.check(model, 1, 1)


def test_the_experts_of_a_mixture_are_scored():
    model = tiny_moe.bridge("olmoe")
    scores = score_neurons(model, POSITIVE, NEGATIVE, PROBING)
    towards = PROBING.metric
    contrast = score_neurons(model, POSITIVE, NEGATIVE)
    matrix = model.unembed.original_component.weight.detach().double()
    direction = matrix[towards.target] - matrix[towards.foil]
    written = torch.cat(
        [
            (direction @ layer.mlp.experts.down_proj.detach().double()).flatten()
            for layer in model.original_model.model.layers
        ]
    )
    torch.testing.assert_close(scores.values, contrast.values * written)


def test_inference_mode_changes_nothing(llama):
    plain = score_neurons(llama, POSITIVE, NEGATIVE, PROBING)
    with torch.inference_mode():
        inferred = score_neurons(llama, POSITIVE, NEGATIVE, PROBING)
    torch.testing.assert_close(plain.values, inferred.values)


@pytest.mark.parametrize("kind", [PackedLinear, Float8Linear, IntegerLinear])
def test_it_needs_the_numbers_of_the_unembedding(kind):
    model = tiny.bridge("llama")
    whole = model.unembed.original_component
    # In place, as TransformerLens does not load one without a matrix.
    model.unembed.add_module("_original_component", kind(whole))
    with pytest.raises(ModelError, match="unembedding of tiny-llama is quantised or offloaded"):
        score_neurons(model, POSITIVE, NEGATIVE, PROBING)


def test_an_unembedding_of_another_space_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.cfg, "d_model", 32)
    with pytest.raises(ModelError, match="reads 16 numbers, and its residual stream has 32"):
        PROBING.check(llama, 1, 1)


def test_the_unembedding_is_read_in_parts(llama, monkeypatch):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, PROBING).values
    monkeypatch.setattr("cna_lens.discovery.rankings.perturbation_probing.COLUMNS", 6)
    found = score_neurons(llama, POSITIVE, NEGATIVE, PROBING).values
    torch.testing.assert_close(found, expected)


def test_it_needs_to_know_the_down_projection(llama, monkeypatch):
    monkeypatch.setattr(
        "cna_lens.models.inside.projections.down_projection", lambda model, layer: None
    )
    with pytest.raises(ModelError, match="perturbation_probing needs its numbers"):
        score_neurons(llama, POSITIVE, NEGATIVE, PROBING)
