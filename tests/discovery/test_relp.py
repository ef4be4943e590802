"""RelP against its rules, written out by hand, and their consequences."""

import numpy as np
import pytest
import reference
import tiny
import torch

from cna_lens import AttributionPatching, LogitDifference, ModelError, RelP, score_neurons
from cna_lens.discovery.rankings import relp

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41]]
NEGATIVE = [[33, 34, 35], [36, 37]]
METRIC = LogitDifference(target=11, foil=12)


def silu(x):
    return x / (1 + np.exp(-x))


def seen_by(hf, ids):
    """Values that plain Hugging Face computes at the last token, and its attention patterns."""
    seen = {}

    def note(name):
        def keep(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            seen[name] = first.detach().double().reshape(-1, first.shape[-1])[-1].numpy()

        return keep

    handles = []
    for layer, block in enumerate(hf.model.layers):
        for name, module in {
            "attention": block.self_attn,
            "gate": block.mlp.gate_proj,
            "up": block.mlp.up_proj,
            "out": block,
        }.items():
            handles.append(module.register_forward_hook(note((name, layer))))
    handles.append(hf.model.embed_tokens.register_forward_hook(note(("out", -1))))
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        output = hf(torch.tensor([ids]), output_attentions=True)
    for handle in handles:
        handle.remove()
    return seen, [pattern[0].double().numpy() for pattern in output.attentions]


def relevance_by_hand(hf, ids, target, foil):
    """RelP's coefficient of every neuron at the last token, one rule after the other."""
    seen, patterns = seen_by(hf, ids)
    heads, group = hf.config.num_attention_heads, hf.config.num_key_value_heads
    d_head = hf.config.hidden_size // heads

    def matrix(module):
        return module.weight.detach().double().numpy()

    def through_norm(norm, residual, relevance):
        scale = np.sqrt((residual**2).mean() + norm.variance_epsilon)
        return relevance * matrix(norm) / scale

    unembedding = matrix(hf.lm_head)
    last = len(hf.model.layers) - 1
    relevance = through_norm(
        hf.model.norm, seen["out", last], unembedding[target] - unembedding[foil]
    )
    coefficients = []
    for layer in range(last, -1, -1):
        block = hf.model.layers[layer]
        before = seen["out", layer - 1]
        middle = before + seen["attention", layer]
        gate, up = seen["gate", layer], seen["up", layer]
        product = matrix(block.mlp.down_proj).T @ relevance
        coefficients.insert(0, product)
        slope = np.where(gate == 0, 0.5, silu(gate) / np.where(gate == 0, 1, gate))
        to_mlp = matrix(block.mlp.gate_proj).T @ (product * up * slope / 2)
        to_mlp += matrix(block.mlp.up_proj).T @ (product * silu(gate) / 2)
        relevance = relevance + through_norm(block.post_attention_layernorm, middle, to_mlp)
        to_heads = (matrix(block.self_attn.o_proj).T @ relevance).reshape(heads, d_head)
        to_values = np.zeros((group, d_head))
        for head in range(heads):
            to_values[head * group // heads] += patterns[layer][head, -1, -1] * to_heads[head]
        to_attention = matrix(block.self_attn.v_proj).T @ to_values.reshape(-1)
        relevance = relevance + through_norm(block.input_layernorm, before, to_attention)
    return np.concatenate(coefficients)


def gate_at_0(module, args, output):
    """Bring one gate to exactly 0, and leave its dependence on the input."""
    moved = torch.zeros_like(output)
    moved[..., 5] = output[..., 5].detach()
    return output - moved


@pytest.mark.parametrize("closed_gate", [False, True], ids=["as it is", "with a gate at 0"])
def test_scores_follow_the_rules_written_out_by_hand(closed_gate):
    hf = tiny.hugging_face("llama")
    if closed_gate:
        hf.model.layers[1].mlp.gate_proj.register_forward_hook(gate_at_0)
    baseline = reference.activations(hf, NEGATIVE).mean(0).numpy()
    expected = np.mean(
        [
            relevance_by_hand(hf, ids, 11, 12)
            * (reference.activations(hf, [ids])[0].numpy() - baseline)
            for ids in POSITIVE
        ],
        axis=0,
    )
    model = tiny.boot(hf)
    found = score_neurons(model, POSITIVE, NEGATIVE, RelP(METRIC)).values.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    gradients = score_neurons(model, POSITIVE, NEGATIVE, AttributionPatching(METRIC)).values
    assert np.abs(found - gradients.numpy()).max() > 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_relevance_is_conserved_from_the_logit_to_the_embedding(family):
    model = tiny.bridge(family, dtype=torch.float64)
    ids = torch.tensor([POSITIVE[1]])
    plain = model.forward(ids, return_type="logits").detach()
    kept = {}

    def leaf(value, hook):
        kept["embedding"] = value.detach().requires_grad_()
        return kept["embedding"]

    with (
        pytest.warns(UserWarning, match="edited hook_scale"),
        model.hooks(fwd_hooks=[("hook_embed", leaf), *relp.relp_hooks(model)]),
    ):
        logits = model.forward(ids, return_type="logits")
    torch.testing.assert_close(logits.detach(), plain, rtol=0, atol=1e-6)
    for token in (5, 40):
        (relevance,) = torch.autograd.grad(
            logits[0, -1, token], kept["embedding"], retain_graph=True
        )
        total = float((relevance * kept["embedding"].detach()).sum())
        assert total == pytest.approx(float(plain[0, -1, token]), rel=1e-6)


def test_relp_is_attribution_patching_if_the_rest_of_the_model_is_linear():
    hf = tiny.hugging_face("llama", dtype=torch.float64)
    after = hf.model.layers[1]
    with torch.no_grad():
        # Uniform attention, no second MLP, and norms that divide by a constant.
        after.self_attn.q_proj.weight.zero_()
        after.mlp.down_proj.weight.zero_()
        for norm in (after.input_layernorm, hf.model.norm):
            norm.variance_epsilon = 1e12
            norm.weight.mul_(1e6)
    model = tiny.boot(hf).to(torch.float64)
    linear = score_neurons(model, POSITIVE, NEGATIVE, RelP(METRIC)).values
    gradients = score_neurons(model, POSITIVE, NEGATIVE, AttributionPatching(METRIC)).values
    torch.testing.assert_close(linear, gradients, rtol=1e-6, atol=1e-9)
    assert gradients.abs().max() > 0.01


def test_a_model_without_a_gate_is_refused_before_it_runs(models):
    with pytest.raises(
        ModelError, match=r"architecture like Llama's.* blocks\.0\.mlp\.hook_pre_linear"
    ):
        score_neurons(models["gpt2"], POSITIVE, NEGATIVE, "relp")


def test_an_unknown_activation_function_is_refused(llama, monkeypatch):
    inner = llama.blocks[1].mlp.original_component
    monkeypatch.delitem(inner._modules, "act_fn")
    with pytest.raises(ModelError, match="activation function of layer 1"):
        score_neurons(llama, POSITIVE, NEGATIVE, "relp")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [2.0, 0.9])
def test_neurons_that_are_not_a_gates_product_are_refused(dtype, factor):
    model = tiny.bridge("llama", dtype=dtype)

    def scaled(value, hook):
        return factor * value

    score_neurons(model, POSITIVE, NEGATIVE, "relp")
    with (
        model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", scaled)]),
        pytest.raises(ModelError, match=r"blocks\.1\.mlp\.hook_post is not the product"),
    ):
        score_neurons(model, POSITIVE, NEGATIVE, "relp")


def test_a_part_that_never_ran_is_named(llama, monkeypatch):
    class Silent(relp._Rule):
        fired = property(lambda rule: False, lambda rule, value: None)

    hooks = relp.relp_hooks
    silent = ("ln_final.hook_out", Silent(lambda value: None))
    monkeypatch.setattr(relp, "relp_hooks", lambda model: [*hooks(model), silent])
    with pytest.raises(ModelError, match=r"gradient at ln_final\.hook_out, which tiny-llama never"):
        score_neurons(llama, POSITIVE, NEGATIVE, "relp")


@pytest.mark.real_model
def test_on_a_real_model_relevance_is_conserved(demo):
    ids = torch.tensor([[504, 1743, 314, 260]])
    plain = demo.forward(ids, return_type="logits").detach()
    kept = {}

    def leaf(value, hook):
        kept["embedding"] = value.detach().requires_grad_()
        return kept["embedding"]

    with (
        pytest.warns(UserWarning, match="edited hook_scale"),
        demo.hooks(fwd_hooks=[("hook_embed", leaf), *relp.relp_hooks(demo)]),
    ):
        logit = demo.forward(ids, return_type="logits")[0, -1, 253]
    (relevance,) = torch.autograd.grad(logit, kept["embedding"])
    assert float((relevance * kept["embedding"].detach()).sum()) == pytest.approx(
        float(plain[0, -1, 253]), rel=1e-3
    )
