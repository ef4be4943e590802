"""The library on a HookedTransformer, which TransformerLens 3.9 still has."""

from contextlib import ExitStack

import pytest
import torch
from transformer_lens import HookedTransformer

import cna_lens
from cna_lens import audit
from cna_lens.metrics import run_lm_eval

PROMPTS = ["w5 w6 w7", "w9 w8 w11 w12", "w20", "w30 w31 w32 w33 w34"]


@pytest.fixture
def circuit(hooked):
    return cna_lens.find_circuit(
        hooked, PROMPTS[:2], PROMPTS[2:], k=4, universal=None, progress=False
    )


def test_activations_are_those_of_run_with_cache_one_prompt_at_a_time(hooked):
    rows = []
    for prompt in PROMPTS:
        text = hooked.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([hooked.tokenizer(text, add_special_tokens=False).input_ids])
        _, cache = hooked.run_with_cache(ids)
        rows.append(
            torch.cat([cache[f"blocks.{layer}.mlp.hook_post"][0, -1] for layer in range(2)])
        )
    expected = torch.stack(rows).double()
    stats = cna_lens.collect(hooked, PROMPTS)
    torch.testing.assert_close(stats.mean, expected.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.variance, expected.var(0), rtol=1e-4, atol=1e-6)


def test_answers_are_those_of_its_own_generate(hooked):
    ids = torch.tensor([[3, 17, 9, 40]])
    own = hooked.generate(ids, max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False)
    expected = hooked.tokenizer.decode(own[0, 4:])
    assert cna_lens.generate(hooked, [[3, 17, 9, 40]], max_new_tokens=8) == [expected]


def test_batched_answers_are_those_of_one_prompt_at_a_time(hooked):
    batched = cna_lens.generate(hooked, PROMPTS, max_new_tokens=12)
    assert batched == [
        cna_lens.generate(hooked, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS
    ]


@pytest.mark.parametrize("multiplier", [0.0, 2.0])
def test_both_ways_of_steering_equal_scaled_rows_of_the_down_projection(
    hooked, circuit, multiplier
):
    ids = torch.tensor([[3, 17, 9, 40]])
    logits = {}
    for via in ("hooks", "weights"):
        with torch.no_grad(), cna_lens.steer(hooked, circuit, multiplier, via=via):
            logits[via] = hooked(ids)
    edited = HookedTransformer(hooked.cfg, tokenizer=hooked.tokenizer).eval()
    edited.load_state_dict(hooked.state_dict())
    with torch.no_grad():
        for layer, index in circuit:
            edited.blocks[layer].mlp.W_out[index] *= multiplier
        expected = edited(ids)
        assert not torch.allclose(hooked(ids), expected)
    for found in logits.values():
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_steering_at_the_last_prompt_token_leaves_the_tokens_before_it(hooked, circuit):
    ids = torch.tensor([[3, 17, 9, 40]])
    with torch.no_grad():
        unsteered = hooked(ids)
        with cna_lens.steer(hooked, circuit, -4.0, positions="last_prompt"):
            steered = hooked(ids)
    assert torch.equal(steered[:, :-1], unsteered[:, :-1])
    assert not torch.allclose(steered[:, -1], unsteered[:, -1])


def test_steering_by_position_is_refused_in_its_own_generate(hooked, circuit):
    ids = torch.tensor([[3, 17, 9, 40]])
    with (
        cna_lens.steer(hooked, circuit, -4.0, positions="last_prompt"),
        pytest.raises(cna_lens.ModelError, match=r"cna_lens\.generate"),
    ):
        hooked.generate(ids, max_new_tokens=2, do_sample=False, verbose=False)


def test_no_hook_is_left(hooked, circuit):
    with cna_lens.steer(hooked, circuit, 0.0, via="hooks"):
        pass
    assert not any(point.fwd_hooks for point in hooked.hook_dict.values())


def test_contexts_that_end_in_the_order_they_began_keep_each_others_hooks(hooked, circuit):
    ids = hooked.to_tokens(PROMPTS[0])
    last = {"positions": "last_prompt"}
    with torch.no_grad():
        before = hooked(ids)
        with cna_lens.steer(hooked, circuit, 3.0, **last):
            alone = hooked(ids)
        first, second = ExitStack(), ExitStack()
        first.enter_context(cna_lens.steer(hooked, circuit, 0.0, via="hooks"))
        second.enter_context(cna_lens.steer(hooked, circuit, 3.0, **last))
        first.close()
        assert torch.equal(hooked(ids), alone)
        second.close()
        assert torch.equal(hooked(ids), before)
    assert not any(point.fwd_hooks for point in hooked.hook_dict.values())


def test_texts_whose_tokens_are_not_known_yet_are_refused_at_single_positions(hooked, circuit):
    with (
        cna_lens.steer(hooked, circuit, 0.0, positions="last_prompt"),
        pytest.raises(cna_lens.InputError, match=r"model\.to_tokens"),
    ):
        hooked(["w5 w6"])


METHODS = {
    "ablation": lambda model, circuit, **at: cna_lens.ablation(circuit, **at),
    "mean_ablation": lambda model, circuit, **at: cna_lens.mean_ablation(
        circuit, cna_lens.collect(model, PROMPTS), **at
    ),
    "magnitude_anchor": lambda model, circuit, **at: cna_lens.magnitude_anchor(
        circuit,
        cna_lens.collect(model, PROMPTS[:2]),
        cna_lens.collect(model, PROMPTS[2:]),
        target=3.0,
        **at,
    ),
    "caa": lambda model, circuit, **at: cna_lens.caa(model, PROMPTS[:2], PROMPTS[2:], **at),
    "directional_ablation": lambda model, circuit, **at: cna_lens.directional_ablation(
        model, PROMPTS[:2], PROMPTS[2:], layer=1, **at
    ),
}
methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@methods
def test_steering_methods_change_nothing_at_strength_zero_and_leave_no_hook(hooked, circuit, make):
    ids = torch.tensor([[3, 17, 9, 40]])
    with torch.no_grad():
        before = hooked(ids)
        with make(hooked, circuit).at(hooked, 0.0):
            assert torch.equal(hooked(ids), before)
        with make(hooked, circuit).at(hooked, 0.5):
            assert not torch.allclose(hooked(ids), before)
        assert torch.equal(hooked(ids), before)
    assert not any(point.fwd_hooks for point in hooked.hook_dict.values())


@methods
@pytest.mark.parametrize("positions", ["all", "last_prompt", "generated"])
def test_steered_answers_in_a_batch_are_those_of_one_prompt_at_a_time(
    hooked, circuit, make, positions
):
    with make(hooked, circuit, positions=positions).at(hooked):
        batched = cna_lens.generate(hooked, PROMPTS, max_new_tokens=8)
        alone = [cna_lens.generate(hooked, [prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    assert batched == alone


def test_control_vectors_are_those_of_run_with_cache(hooked):
    prompts = [[3, 17, 9], [5, 6, 7, 8]], [[12, 13], [40, 41, 42]]
    for site in ("hook_mlp_out", "hook_resid_pre", "hook_resid_post"):
        plus, minus = (
            sum(
                torch.stack([cache[f"blocks.{layer}.{site}"][0, -1] for layer in range(2)])
                for _, cache in (hooked.run_with_cache(torch.tensor([ids])) for ids in some)
            )
            / 2
            for some in prompts
        )
        vectors = cna_lens.difference_of_means(hooked, *prompts, site=site).vectors
        torch.testing.assert_close(vectors, (plus - minus).double(), rtol=1e-4, atol=1e-5)


def test_directional_ablation_equals_erasing_from_the_weights(hooked):
    method = cna_lens.directional_ablation(hooked, PROMPTS[:2], PROMPTS[2:], layer=1)
    unit = (method.direction.vectors[0] / method.direction.norms[0]).float()
    erased = HookedTransformer(hooked.cfg, tokenizer=hooked.tokenizer).eval()
    erased.load_state_dict(hooked.state_dict())
    ids = torch.tensor([[3, 17, 9, 40]])
    with torch.no_grad():
        for block in erased.blocks:
            writing = (block.attn.W_O, block.attn.b_O, block.mlp.W_out, block.mlp.b_out)
            for weight in (*writing, erased.embed.W_E):
                weight -= (weight @ unit)[..., None] * unit
        expected = erased(ids)
        assert not torch.allclose(hooked(ids), expected)
        with method.at(hooked):
            torch.testing.assert_close(hooked(ids), expected, rtol=1e-4, atol=1e-4)


def test_lm_eval_is_refused_since_no_hugging_face_model_is_inside(hooked):
    with pytest.raises(cna_lens.ModelError, match="HookedTransformer wraps none; load tiny-hook"):
        run_lm_eval(hooked, "arc_easy")


def test_every_tokens_activations_are_those_of_run_with_cache(hooked):
    neurons = [cna_lens.Neuron(1, 3), cna_lens.Neuron(0, 20)]
    found = cna_lens.token_activations(hooked, neurons, [[5, 6, 7], [8]])
    for prompt, values in zip([[5, 6, 7], [8]], found.values, strict=True):
        _, cache = hooked.run_with_cache(torch.tensor([prompt]))
        expected = [cache[f"blocks.{layer}.mlp.hook_post"][0, :, at] for layer, at in neurons]
        torch.testing.assert_close(values, torch.stack(expected, 1), rtol=1e-5, atol=1e-6)


def test_promoted_tokens_are_the_row_through_norm_and_unembedding(hooked):
    found = cna_lens.promoted_tokens(hooked, (1, 3), k=4)
    row = hooked.blocks[1].mlp.W_out[3].detach()
    logits = (row / row.pow(2).mean().sqrt() * hooked.ln_final.w.detach()) @ hooked.W_U.detach()
    expected = logits.topk(4)
    assert [each.token_id for each in found.up] == expected.indices.tolist()
    assert [each.logit for each in found.up] == pytest.approx(expected.values.tolist(), rel=1e-3)


def test_a_hook_in_the_inference_path_is_found(hooked):
    assert audit.hooks(hooked) == ()
    with hooked.hooks([("blocks.1.mlp.hook_post", lambda value, hook: 0 * value)]):
        (found,) = audit.hooks(hooked)
    assert (found.kind, found.at) == ("hook point", "blocks.1.mlp.hook_post")
    assert audit.hooks(hooked) == ()


@pytest.mark.parametrize("scope", ["prompt", "last_prompt", "from_last_prompt", "generated"])
def test_padding_that_it_masks_by_itself_belongs_to_no_prompt(hooked, circuit, scope, monkeypatch):
    """Of left-padded tokens a HookedTransformer makes the mask, from the padding token."""
    monkeypatch.setattr(hooked.tokenizer, "padding_side", "left")
    padded = torch.tensor([[5, 6, 7, 8], [0, 0, 30, 31]])
    first = [cna_lens.collect(hooked, prompts, position=0) for prompts in ([[5, 6]], [[40]])]
    for method in (
        cna_lens.NeuronScaling(circuit, multiplier=3.0, positions=scope),
        cna_lens.magnitude_anchor(circuit, *first, target=4.0, positions=scope),
    ):
        with method.at(hooked), torch.no_grad():
            found = hooked(padded)[1, 2:]
        with method.at(hooked), torch.no_grad():
            torch.testing.assert_close(found, hooked(padded[1:, 2:])[0], rtol=1e-4, atol=1e-5)
