"""The tokens that a neuron promotes, computed by hand from the weights of each family."""

import numpy as np
import pytest
import tiny
import torch
from transformers import OPTConfig, OPTForCausalLM

import cna_lens
from cna_lens import InputError, Neuron


def by_hand(original, neuron):
    """Apply the final norm and the unembedding of the Hugging Face model to the row, in float64."""
    weight = tiny.down_projections(original)[neuron.layer].weight.detach().double()
    row = weight[neuron.index] if weight.shape[0] == tiny.WIDTH else weight[:, neuron.index]
    if hasattr(original, "transformer"):
        scale, norm = original.transformer.ln_f.weight, "layer"
    else:
        scale, norm = original.model.norm.weight, "rms"
    scale = scale.detach().double()
    if "Gemma" in type(original).__name__:
        after = original.model.layers[neuron.layer].post_feedforward_layernorm.weight
        row = row * (1 + after.detach().double())
        scale = 1 + scale
    if norm == "layer":
        row = row - row.mean()
    return original.lm_head.weight.detach().double() @ (scale * row / row.pow(2).mean().sqrt())


@pytest.mark.parametrize("neuron", [Neuron(1, 3), Neuron(0, 20)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_promoted_tokens_are_the_rows_logits_by_hand(family, neuron):
    original = tiny.hugging_face(family)
    with torch.no_grad():
        for place, parameter in enumerate(original.parameters()):
            # Norms of 1 and biases of 0 would hide an error.
            if parameter.ndim == 1:
                generator = torch.Generator().manual_seed(place)
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    found = cna_lens.promoted_tokens(tiny.boot(original), neuron, k=5)
    expected = by_hand(original, neuron)
    top = expected.topk(5)
    assert [each.token_id for each in found.up] == top.indices.tolist()
    assert [each.logit for each in found.up] == pytest.approx(top.values.tolist(), rel=1e-3)
    least = expected.topk(5, largest=False)
    assert [each.token_id for each in found.down] == least.indices.tolist()
    assert [each.logit for each in found.down] == pytest.approx(least.values.tolist(), rel=1e-3)


def test_a_neuron_or_number_of_tokens_that_does_not_exist_is_refused(llama):
    for neuron, k in (((2, 0), 1), ((0, 24), 1), ((0, 0), 0), ((0, 0), 65)):
        with pytest.raises(InputError, match=r"whole number from 1 to 64|does not exist"):
            cna_lens.promoted_tokens(llama, neuron, k)


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_neuron_or_no_whole_number_is_refused(llama):
    for neuron in ((1.0, 3), (1,), 5, None):
        with pytest.raises(InputError, match=r"neuron is .*, expected \(layer, index\)"):
            cna_lens.promoted_tokens(llama, neuron)
    with pytest.raises(InputError, match=r"neuron is \(1, 0, 3\), a neuron of an expert"):
        cna_lens.promoted_tokens(llama, (1, 0, 3))
    for k in (2.5, True, "3"):
        with pytest.raises(InputError, match=f"k is {k!r}, expected a whole number"):
            cna_lens.promoted_tokens(llama, (1, 3), k)
    numbers = (np.int64(1), np.int64(3)), np.int64(2)
    assert cna_lens.promoted_tokens(llama, *numbers) == cna_lens.promoted_tokens(llama, (1, 3), 2)


@pytest.mark.parametrize("width", [8, 16])
def test_a_model_without_a_final_norm_is_refused(width):
    config = OPTConfig(
        vocab_size=64,
        hidden_size=16,
        ffn_dim=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=64,
        word_embed_proj_dim=width,
        do_layer_norm_before=False,
        architectures=["OPTForCausalLM"],
    )
    model = tiny.boot(OPTForCausalLM(config).eval())
    with pytest.raises(cna_lens.ModelError, match="no final norm"):
        cna_lens.promoted_tokens(model, (1, 3))


def test_a_neuron_that_writes_nothing_is_refused():
    original = tiny.hugging_face("llama")
    with torch.no_grad():
        tiny.down_projections(original)[1].weight[:, 3] = 0
    with pytest.raises(cna_lens.ModelError, match="writes nothing"):
        cna_lens.promoted_tokens(tiny.boot(original), (1, 3))
