"""Rankings on a HookedTransformer, whose weights and hook points are laid out differently."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch

import cna_lens
from cna_lens import (
    AttributionPatching,
    ChangeFromBase,
    LearnedMask,
    LogitDifference,
    ModelError,
    PerturbationProbing,
    RelP,
    SquaredAttribution,
    score_neurons,
)
from cna_lens.discovery.rankings import relp
from cna_lens.models.running.decoding import seeds_of

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41]]
NEGATIVE = [[33, 34, 35], [36, 37]]
METRIC = LogitDifference(target=11, foil=12)


@pytest.fixture(scope="module")
def hooked(hooked_transformer):
    return hooked_transformer(dtype=torch.float64)


def activations(hooked, prompts):
    rows = []
    for ids in prompts:
        _, cache = hooked.run_with_cache(torch.tensor([ids]))
        rows.append([cache[f"blocks.{layer}.mlp.hook_post"][0, -1] for layer in range(2)])
    return torch.stack([torch.cat(row) for row in rows])


def test_output_weighted_is_the_contrast_times_the_norm_of_its_rows(hooked):
    difference = activations(hooked, POSITIVE).mean(0) - activations(hooked, NEGATIVE).mean(0)
    norms = torch.cat([hooked.blocks[layer].mlp.W_out.detach().norm(dim=1) for layer in range(2)])
    found = score_neurons(hooked, POSITIVE, NEGATIVE, "output_weighted").values
    torch.testing.assert_close(found, difference * norms, rtol=1e-6, atol=1e-9)


def test_perturbation_probing_reads_the_unembedding_with_which_the_model_computes(hooked):
    difference = activations(hooked, POSITIVE).mean(0) - activations(hooked, NEGATIVE).mean(0)
    towards = hooked.W_U.detach()[:, 5] - hooked.W_U.detach()[:, 6]
    written = torch.cat([hooked.blocks[layer].mlp.W_out.detach() @ towards for layer in range(2)])
    probing = PerturbationProbing(LogitDifference(5, 6))
    found = score_neurons(hooked, POSITIVE, NEGATIVE, probing).values
    torch.testing.assert_close(found, difference * written, rtol=1e-6, atol=1e-9)


def test_a_packed_down_projection_is_refused(hooked_transformer):
    model = hooked_transformer()
    packed = torch.zeros(tiny.WIDTH * 8, 1, dtype=torch.uint8)
    model.blocks[1].mlp.W_out = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ModelError, match=r"down projection of .*1.* is a GatedMLP; perturbation"):
        PerturbationProbing(METRIC).check(model, 3, 2)


def test_attribution_patching_is_the_gradient_of_one_prompt_at_a_time(hooked):
    baseline = activations(hooked, NEGATIVE).mean(0)
    expected = torch.zeros(2 * tiny.WIDTH, dtype=torch.float64)
    for ids, activation in zip(POSITIVE, activations(hooked, POSITIVE), strict=True):
        for flat in range(2 * tiny.WIDTH):
            values = []
            for step in (1e-5, -1e-5):

                def nudge(value, hook, flat=flat, step=step):
                    value = value.clone()
                    value[0, -1, flat % tiny.WIDTH] += step
                    return value

                name = f"blocks.{flat // tiny.WIDTH}.mlp.hook_post"
                with torch.no_grad(), hooked.hooks(fwd_hooks=[(name, nudge)]):
                    logits = hooked(torch.tensor([ids]))[0, -1]
                values.append(float(logits[11] - logits[12]))
            slope = (values[0] - values[1]) / 2e-5
            expected[flat] += slope * (activation[flat] - baseline[flat]) / len(POSITIVE)
    found = score_neurons(hooked, POSITIVE, NEGATIVE, AttributionPatching(METRIC)).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in hooked.hook_dict.values())


def test_relevance_is_conserved_from_the_logit_to_the_embedding(hooked):
    ids = torch.tensor([POSITIVE[1]])
    plain = hooked(ids).detach()
    kept = {}

    def leaf(value, hook):
        kept["embedding"] = value.detach().requires_grad_()
        return kept["embedding"]

    with hooked.hooks(fwd_hooks=[("hook_embed", leaf), *relp.relp_hooks(hooked)]):
        logits = hooked(ids)
    torch.testing.assert_close(logits.detach(), plain, rtol=1e-9, atol=1e-9)
    (relevance,) = torch.autograd.grad(logits[0, -1, 5], kept["embedding"])
    total = float((relevance * kept["embedding"].detach()).sum())
    assert total == pytest.approx(float(plain[0, -1, 5]), rel=1e-6)


def test_relp_gives_scores_whatever_the_batches(hooked):
    together = score_neurons(hooked, POSITIVE, NEGATIVE, RelP(METRIC)).values
    alone = score_neurons(hooked, POSITIVE, NEGATIVE, RelP(METRIC), batch_size=1).values
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)
    assert together.abs().max() > 0


def test_a_transformer_lens_without_a_probe_is_named(hooked):
    with pytest.raises(cna_lens.InputError, match=r"since 4\.1"):
        score_neurons(hooked, POSITIVE, NEGATIVE, "probe")


def test_a_learned_mask_lowers_the_metric_by_its_first_neurons(hooked):
    mask = LearnedMask(
        METRIC, steps=30, fractions=(0.04, 0.25), answer_tokens=0, kl_weight=0.0, floor=-1e9
    )
    scores = score_neurons(hooked, POSITIVE, NEGATIVE, mask)

    def difference(circuit):
        with cna_lens.steer(hooked, circuit, 0.0), torch.no_grad():
            last = torch.stack([hooked(torch.tensor([ids]))[0, -1] for ids in POSITIVE])
        return (last[:, 11] - last[:, 12]).mean().item()

    first = scores.top(k=6)
    last = replace(scores, values=scores.values.max() - scores.values).top(k=6)
    assert difference(first) < difference(last) - 0.01
    assert all(not point.has_hooks() for point in hooked.hook_dict.values())


def test_squared_attributions_count_what_the_prompts_do_not_share(hooked):
    ranking = SquaredAttribution(METRIC, answer_tokens=0)
    together = score_neurons(hooked, POSITIVE, NEGATIVE, ranking).values
    alone = score_neurons(hooked, POSITIVE, NEGATIVE, ranking, batch_size=1).values
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)
    opened = [[9, 4, 8, 3, 2, *ids] for ids in POSITIVE]
    found = score_neurons(hooked, opened, NEGATIVE, ranking).values
    expected = squares(hooked, opened, 5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def squares(hooked, prompts, begin):
    """By the definition, with the tokens from `begin` on."""
    names = [name for name in hooked.hook_dict if name.endswith("mlp.hook_post")]
    parts = []
    for value in ("metric", "drawn tokens"):
        total = 0.0
        for ids, seed in zip(prompts, seeds_of([tuple(ids) for ids in prompts], 0), strict=True):
            kept = {}

            def keep(activation, hook, kept=kept):
                kept[hook.name] = activation

            with hooked.hooks(fwd_hooks=[(name, keep) for name in names]):
                last = hooked(torch.tensor([ids]))[0, -1]
            if value == "metric":
                number = last[11] - last[12]
            else:
                log_probs = last.float().log_softmax(-1)
                generator = torch.Generator().manual_seed(seed)
                number = log_probs[log_probs.detach().exp().multinomial(1, generator=generator)]
            gradients = torch.autograd.grad(number.sum(), [kept[name] for name in names])
            rows = [kept[name] * each for name, each in zip(names, gradients, strict=True)]
            total = total + torch.cat([row[0, begin:].pow(2).sum(0) for row in rows]).detach()
        parts.append(total.sqrt())
    return sum(part / part.mean() for part in parts)


def test_the_change_from_a_base_is_where_weights_changed(hooked):
    base = copy.deepcopy(hooked)
    with torch.no_grad():
        base.blocks[1].mlp.W_in[:, 3] *= -1
    scores = score_neurons(hooked, POSITIVE, NEGATIVE, ChangeFromBase(base, answer_tokens=0))
    assert scores.top(k=1).neurons == (cna_lens.Neuron(1, 3),)
    assert float(scores.by_layer()[0].abs().max()) == 0
