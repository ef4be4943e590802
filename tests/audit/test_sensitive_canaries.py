"""Sensitive canaries: chosen by gradients, stable under drift, moved by a change of the weights."""

import json
import math

import pytest
import tiny
import torch

from cna_lens import InputError, audit
from cna_lens.audit.identity.choosing import benign_pool
from cna_lens.audit.identity.drift import DRIFTS, Condition, rounded_to_bits, under
from cna_lens.audit.identity.predicted import predicted
from cna_lens.audit.identity.sensitivity import covering, flips, layer_sensitivity
from cna_lens.errors import FingerprintError, ModelError
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.models import encode, generate, weights_hash
from cna_lens.models.inside.weights import named_weights
from cna_lens.models.running.predictions import own_answers

POOL = [f"w{i} w{j} w{k}" for i in range(5, 12) for j in range(20, 25) for k in (30, 40)]
N_TOKENS = 4


@pytest.fixture(scope="module")
def served():
    """A model of this file's own, whose weights tests may change for a while."""
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="module")
def canaries(served):
    return audit.sensitive_canaries(served, POOL, 12, n_tokens=N_TOKENS)


def mlp_weights(model):
    return [each for name, each in named_weights(model).items() if "down_proj.weight" in name]


def margin(model, ids, token):
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, -1].double()
    others = logits.clone()
    others[token] = -math.inf
    return float(logits[token] - others.max())


def test_the_sensitivity_is_that_of_scaling_each_neuron_by_finite_differences(llama):
    ids, token, step = (5, 6, 7, 8), 9, 1e-3
    (found,) = layer_sensitivity(llama, [ids], [token]).tolist()
    before = margin(llama, ids, token)
    for layer, weight in enumerate(mlp_weights(llama)):
        squares = 0.0
        for neuron in range(weight.shape[1]):
            column = weight[:, neuron].detach().clone()
            with torch.no_grad():
                weight[:, neuron] = column * (1 + step)
                squares += ((margin(llama, ids, token) - before) / step) ** 2
                weight[:, neuron] = column
        assert found[layer] == pytest.approx(math.sqrt(squares), rel=2e-2)


def test_sensitivities_are_in_the_order_of_the_prompts_whatever_the_batches(llama):
    prompts, tokens = [(5, 6, 7, 8), (9, 10), (11, 12, 13)], [20, 21, 22]
    together = layer_sensitivity(llama, prompts, tokens)
    alone = layer_sensitivity(llama, prompts, tokens, batch_size=1)
    assert torch.allclose(together, alone, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


def test_flips_follow_a_normal_distribution_and_are_zero_without_a_gradient():
    found = flips(torch.tensor([2.0, 1.0]).double(), torch.tensor([[10.0, 0.0]] * 2).double(), 0.1)
    cumulative = [0.5 * math.erfc(x / math.sqrt(2)) for x in (2.0, 1.0)]
    assert found[:, 0].tolist() == pytest.approx(cumulative)
    assert found[:, 1].tolist() == [0.0, 0.0]


def test_what_is_chosen_covers_the_layers_nearly_as_well_as_the_best_choice():
    from itertools import combinations

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        table = torch.rand(8, 3, generator=generator).double() ** 4

        def covered(rows, table=table):
            return float(torch.log1p(table[list(rows)].sum(0)).sum())

        chosen = covering(table, 3)
        assert len(set(chosen)) == 3
        best = max(map(covered, combinations(range(8), 3)))
        assert covered(chosen) >= (1 - 1 / math.e) * best
    alike = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.5]]).double()
    assert covering(alike, 2) == [0, 2]


def test_rounding_is_to_whole_steps_of_each_row_and_of_groups_with_few_bits():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    rounded = rounded_to_bits(weight, 8)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(rounded / step, (weight / step).round(), atol=1e-3)
    groups = rounded_to_bits(weight, 4).reshape(-1, 32)
    largest = weight.reshape(-1, 32).abs().amax(1)
    assert torch.allclose(groups.abs().amax(1), largest, rtol=1e-5)
    assert all(len(group.unique()) <= 15 for group in groups)
    shifted = rounded_to_bits(weight, 8, shifted=True)
    assert float((shifted - weight).abs().max()) <= 0.501 * float(step.max())
    assert torch.allclose(shifted / step - 0.5, (shifted / step - 0.5).round(), atol=1e-3)
    assert rounded_to_bits(torch.zeros(2, 3), 8).equal(torch.zeros(2, 3))


@pytest.mark.parametrize("condition", [each for pair in DRIFTS.values() for each in pair])
def test_a_drift_changes_the_model_within_its_context_alone(served, condition):
    texts = own_answers(served, encode(served, POOL[:7]).ids, N_TOKENS)
    before, hashed = predicted(served, texts), weights_hash(served)
    within = predicted(served, texts, condition)
    away = float(within.away(before).max())
    if condition.dtype is None:
        assert away < 1e-4
    else:
        assert away > 1e-4
    assert weights_hash(served) == hashed
    assert predicted(served, texts).log_probs.equal(before.log_probs)


def test_weights_are_restored_after_an_error(served):
    hashed = weights_hash(served)

    def fail():
        assert weights_hash(served) != hashed
        raise KeyError

    with pytest.raises(KeyError), under(served, Condition(bits=4)):
        fail()
    assert weights_hash(served) == hashed


def test_offloaded_weights_are_not_rounded(monkeypatch, served):
    offloaded = torch.nn.Parameter(torch.zeros(2, 2, device="meta"))
    monkeypatch.setattr(
        torch.nn.Module, "named_parameters", lambda _: iter([("lm_head.weight", offloaded)])
    )
    with (
        pytest.raises(ModelError, match=r"lm_head\.weight .* is offloaded"),
        under(served, Condition(bits=8)),
    ):
        pass


def test_margins_say_whether_greedy_answers_stay(served):
    ids = encode(served, POOL[:8]).ids
    texts = own_answers(served, ids, N_TOKENS)
    assert predicted(served, texts).kept.all()
    with under(served, Condition(bits=3)):
        kept = predicted(served, texts).kept.tolist()
        now = own_answers(served, ids, N_TOKENS)
    assert kept == [a.ids == b.ids for a, b in zip(texts, now, strict=True)]
    assert not all(kept)


def test_the_canaries_hold_the_answers_of_the_model_as_hashes(served, canaries):
    answers = generate(served, canaries.prompts, max_new_tokens=N_TOKENS)
    for place, answer in enumerate(answers):
        assert canaries.is_changed(place, answer) is False
        assert canaries.is_changed(place, f" {answer}\n") is False
        assert canaries.is_changed(place, answer + " w7") is True
        short = " ".join(answer.split()[:2])
        assert canaries.is_changed(place, short) == Missing("answer cut short")
        assert canaries.is_changed(place, short, is_cut=False) is True
        assert canaries.is_changed(place, " ") == Missing("empty reply")
    kept = json.dumps(canaries.answers) + repr(canaries)
    assert not any(answer in kept for answer in answers)


def test_log_probabilities_count_beyond_their_tolerance(served, canaries):
    answer = generate(served, canaries.prompts[:1], max_new_tokens=N_TOKENS)[0]
    recorded, tolerance = canaries.log_probs[0], canaries.tolerances[0]

    def found(shift, **changes):
        now = [each + shift for each in recorded]
        return canaries.is_changed(0, answer, now, **{"by": "log-probabilities", **changes})

    assert [found(0.99 * tolerance), found(1.01 * tolerance)] == [False, True]
    assert found(-1.01 * tolerance) is True
    assert found(1.01 * tolerance, by="text") is False
    for too_few in (None, recorded[:-1]):
        reply = canaries.is_changed(0, answer, too_few, by="log-probabilities")
        assert reply == Missing("reply without log-probabilities")


def test_a_small_change_of_the_weights_moves_the_chosen_ones_more_than_the_others(served, canaries):
    rest = [prompt for prompt in POOL if prompt not in canaries.prompts]
    texts = [
        [
            text
            for text in own_answers(served, encode(served, prompts).ids, N_TOKENS)
            if text.n_predicted == N_TOKENS
        ]
        for prompts in (canaries.prompts, rest)
    ]
    generator = torch.Generator().manual_seed(0)
    moved = torch.zeros(2, dtype=torch.float64)
    for _ in range(10):
        before = [weight.detach().clone() for weight in mlp_weights(served)]
        with torch.no_grad():
            for weight in mlp_weights(served):
                weight.mul_(1 + 0.05 * torch.randn(1, weight.shape[1], generator=generator))
        moved += torch.stack([1 - predicted(served, each).kept.double().mean() for each in texts])
        with torch.no_grad():
            for weight, original in zip(mlp_weights(served), before, strict=True):
                weight.copy_(original)
    chosen, others = (moved / 10).tolist()
    assert chosen > 1.5 * others
    assert chosen > 0.1


def test_no_chosen_answer_moves_under_the_drift_by_which_it_was_chosen(served, canaries):
    texts = own_answers(served, encode(served, canaries.prompts).ids, N_TOKENS)
    before = predicted(served, texts)
    for condition in (DRIFTS["batch size"][0], DRIFTS["bfloat16"][0]):
        now = predicted(served, texts, condition)
        assert now.kept.all()
        assert (now.away(before) <= torch.tensor(canaries.tolerances)).all()
        # Less than a third of any lead is taken.
        assert (before.margins > 3 * (now.margins - before.margins).abs()).all()
    assert [each.drift for each in canaries.drifted] == ["batch size", "bfloat16"]
    assert len(canaries.prompts) < canaries.n_stable <= canaries.n_pool == len(POOL)


def test_drift_is_counted_in_a_condition_by_which_no_canary_was_chosen(served, monkeypatch):
    conditions = (Condition(bits=8), Condition(bits=5))
    monkeypatch.setattr("cna_lens.audit.identity.choosing.DRIFTS", {"int8": conditions})
    found = audit.sensitive_canaries(served, POOL, 20, n_tokens=N_TOKENS, drift=["int8"])
    texts = own_answers(served, encode(served, found.prompts).ids, N_TOKENS)
    first, second = (predicted(served, texts, each).kept for each in conditions)
    (counted,) = found.drifted
    assert first.all()
    assert counted.text == int((~second).sum()) > 0
    assert counted.log_probs >= counted.text
    assert counted.drift == "int8"
    assert found.expected("text").value == counted.text / 20


def test_canaries_are_the_same_after_they_were_saved(canaries, tmp_path):
    canaries.save(tmp_path / "canaries.json")
    again = audit.SensitiveCanaries.load(tmp_path / "canaries.json")
    assert vars(again) == vars(canaries)
    (tmp_path / "canaries.json").write_text('{"format": "other"}')
    with pytest.raises(FingerprintError, match="not a canaries file"):
        audit.SensitiveCanaries.load(tmp_path / "canaries.json")


def test_the_same_key_gives_the_same_canaries_and_another_one_other_hashes(served, canaries):
    key = bytes.fromhex(canaries.key)
    again = audit.sensitive_canaries(served, POOL, 12, n_tokens=N_TOKENS, key=key)
    assert vars(again) == vars(canaries)
    other = audit.sensitive_canaries(served, POOL, 12, n_tokens=N_TOKENS)
    assert other.prompts == canaries.prompts
    assert not set(sum(other.answers, ())) & set(sum(canaries.answers, ()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 9}, "n is 9, expected at least 10"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"change": 0.0}, "change is 0.0"),
        ({"change": math.nan}, "change is nan"),
        ({"drift": ["int3"]}, "no drift 'int3'; there are: batch size"),
        ({"drift": []}, "no drift is given"),
        ({"n": 71}, r"of 70 prompts have an answer of 8 tokens .* 71 are to be chosen"),
        ({"pool": POOL[:1]}, "of 1 prompts"),
    ],
)
def test_what_cannot_be_chosen_raises_an_error(served, changes, message):
    settings = {"pool": POOL, "n": 12} | changes
    with pytest.raises(InputError, match=message):
        audit.sensitive_canaries(served, **settings)


def test_the_packaged_pool_has_no_prompt_of_the_harmful_kind():
    from cna_lens import prompt_set

    harmful = {
        *prompt_set("refusal").positive,
        *prompt_set("refusal_reworded").positive,
        *audit.Canaries.packaged().harmful,
    }
    assert not harmful & set(benign_pool())
