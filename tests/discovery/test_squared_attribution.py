"""Squared attributions against automatic differentiation in plain Hugging Face."""

from dataclasses import replace

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import InputError, LogitDifference, LogOdds, SquaredAttribution, score_neurons
from cna_lens.discovery.rankings import gradients
from cna_lens.evidence import recovery
from cna_lens.models.prompts.encoding import encode
from cna_lens.models.running import forward
from cna_lens.models.running.decoding import seeds_of

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
NEGATIVE = [[33, 34, 35], [36, 37]]
OPENINGS = LogOdds(openings=("w5", "w9 w10"))
ALONE = SquaredAttribution(OPENINGS, answer_tokens=0)
TEXTS = ["w5 w6", "w7", "w8 w9 w20 w21"], ["w30", "w31 w32"]


def log_odds(logits):
    p = logits.softmax(-1)
    return (p[5] + p[9]).log() - (1 - p[5] - p[9]).log()


def squares(hf, ids, value, begin=0):
    """Squared products of activation and gradient, summed over the tokens from `begin` on."""
    deltas, seen = {}, {}

    def add(layer, activation):
        seen[layer] = activation.detach()
        deltas[layer] = torch.zeros_like(activation, requires_grad=True)
        return activation + deltas[layer]

    with reference.changed(hf, add), torch.enable_grad():
        total = value(hf(torch.tensor([ids])).logits[0])
    gradients = torch.autograd.grad(total, [deltas[layer] for layer in sorted(deltas)])
    rows = [seen[layer][0] * each[0] for layer, each in zip(sorted(seen), gradients, strict=True)]
    return torch.cat([row[begin:].double().pow(2).sum(0) for row in rows])


def by_definition(hf, prompts, answers, seed=0, begin=0):
    of_metric, of_answers = [], []
    seeds = seeds_of([tuple(ids) for ids in prompts], seed)
    for ids, answer, own in zip(prompts, answers, seeds, strict=True):
        generator = torch.Generator().manual_seed(own)

        def drawn(logits, ids=ids, generator=generator):
            log_probs = logits[len(ids) - 1 :].float().log_softmax(-1)
            tokens = log_probs.detach().exp().multinomial(1, generator=generator)
            return log_probs.gather(-1, tokens).sum()

        of_metric.append(squares(hf, ids, lambda logits: log_odds(logits[-1]), begin))
        of_answers.append(squares(hf, [*ids, *answer], drawn, begin))
    parts = [sum(part).sqrt() for part in (of_metric, of_answers)]
    return sum(part / part.mean() for part in parts)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_roots_of_summed_squares(family, seed):
    hf = tiny.in_double(tiny.hugging_face(family, dtype=torch.float64))
    expected = by_definition(hf, POSITIVE, [[]] * 4, seed)
    model = tiny.bridge(family, dtype=torch.float64)
    found = score_neurons(model, POSITIVE, NEGATIVE, replace(ALONE, seed=seed))
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-8)
    assert found.unit == "times the mean"


@pytest.mark.parametrize("computed_once", [True, False])
def test_answers_count_and_what_all_prompts_begin_with_does_not(
    chat_model, computed_once, monkeypatch
):
    if not computed_once:
        monkeypatch.setattr(forward, "MIN_SHARED_PREFIX", 1000)
    ids = [list(each) for each in encode(chat_model, TEXTS[0]).ids]
    columns = zip(*ids, strict=False)
    shared = next(place for place, tokens in enumerate(columns) if len({*tokens}) > 1)
    assert shared >= 1
    hf = chat_model.original_model
    answers = [reference.greedy(hf, each, 3) for each in ids]
    assert any(answers)
    found = score_neurons(chat_model, *TEXTS, SquaredAttribution(OPENINGS, answer_tokens=3)).values
    expected = by_definition(hf, ids, answers, begin=shared)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for other in (by_definition(hf, ids, answers), by_definition(hf, ids, [[]] * 3, begin=shared)):
        assert not torch.allclose(found, other, rtol=1e-2)


def test_steering_is_told_where_each_prompt_ends(chat_model, monkeypatch):
    seen, stated = [], gradients.prompt_lengths

    def watched(lengths):
        seen.extend(map(int, lengths))
        return stated(lengths)

    monkeypatch.setattr(gradients, "prompt_lengths", watched)
    score_neurons(chat_model, *TEXTS, SquaredAttribution(OPENINGS, answer_tokens=3))
    ends = [len(ids) for ids in encode(chat_model, TEXTS[0]).ids]
    assert sorted(seen) == sorted(2 * ends)


def test_one_prompt_shares_nothing(llama):
    hf = tiny.hugging_face("llama")
    found = score_neurons(llama, POSITIVE[1:2], NEGATIVE, ALONE).values
    expected = by_definition(hf, POSITIVE[1:2], [[]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_prompt_that_is_there_twice_shares_nothing(llama):
    prompts = [[5, 6, 7, 8, 9, 10]] * 2
    hf = tiny.hugging_face("llama")
    with pytest.warns(cna_lens.CnaLensWarning, match="duplicates"):
        found = score_neurons(llama, prompts, NEGATIVE, ALONE).values
    torch.testing.assert_close(found, by_definition(hf, prompts, [[], []]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_matter(chat_model, batch_size):
    ranking = SquaredAttribution(OPENINGS, answer_tokens=3)
    expected = score_neurons(chat_model, *TEXTS, ranking).values
    found = score_neurons(chat_model, *TEXTS, ranking, batch_size=batch_size).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_negative_prompts_and_the_token_that_is_read_do_not_matter(llama):
    expected = score_neurons(llama, POSITIVE, NEGATIVE, ALONE).values
    found = score_neurons(llama, POSITIVE, [[9]], ALONE).values
    assert torch.equal(found, expected)
    found = score_neurons(llama, POSITIVE, NEGATIVE, ALONE, position=-2).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_metric_that_nothing_moves_leaves_the_answers_part(llama):
    found = score_neurons(
        llama, POSITIVE, NEGATIVE, SquaredAttribution(LogitDifference(5, 5), answer_tokens=0)
    )
    assert float(found.values.mean()) == pytest.approx(1.0)


def test_one_seed_gives_one_result_and_another_another(llama):
    first, again, other = (
        score_neurons(llama, POSITIVE, NEGATIVE, replace(ALONE, seed=seed)).values
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-2)


def test_it_may_stay_in_inference_mode_and_leaves_nothing_behind(llama):
    hooks = reference.hooks(reference.settled(llama))
    expected = score_neurons(llama, POSITIVE, NEGATIVE, ALONE).values
    with torch.inference_mode():
        found = score_neurons(llama, POSITIVE, NEGATIVE, ALONE).values
    assert torch.equal(found, expected)

    def fail(value, hook):
        if torch.is_grad_enabled():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), llama.hooks(fwd_hooks=[("ln_final.hook_in", fail)]):
        score_neurons(llama, POSITIVE, NEGATIVE, ALONE)
    assert reference.hooks(llama) == hooks
    assert all(parameter.grad is None for parameter in llama.parameters())


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_tokens": -1}, "answer_tokens is -1"),
        ({"answer_tokens": 1.5}, r"answer_tokens is 1\.5"),
        ({"metric": "log_odds"}, "metric is 'log_odds', expected LogOdds"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SquaredAttribution(**options)


def test_answers_need_a_tokenizer():
    mute = tiny.bridge("llama")
    mute.tokenizer = None
    metric = LogitDifference(5, 6)
    with pytest.raises(InputError, match="no tokenizer, so that it gives no answers"):
        score_neurons(mute, POSITIVE, NEGATIVE, SquaredAttribution(metric))
    score_neurons(mute, POSITIVE, NEGATIVE, SquaredAttribution(metric, answer_tokens=0))


@pytest.mark.long
@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("planted/french-138-all-0", 0.72, 0.95), ("planted/nothing-138-all-0", 0.42, 0.58)],
)
def test_it_finds_what_was_planted_and_nothing_where_nothing_was(name, low, high):
    french = cna_lens.metrics.BEHAVIOURS["french"]
    asked = french.discovery.positive[:16], french.discovery.negative[:16]
    model, metric = cna_lens.load_model(name, device="cpu"), LogOdds(french.openings)
    scores = score_neurons(model, *asked, SquaredAttribution(metric))
    # Attribution patching has .63 on the first of the two.
    assert low < recovery(scores, cna_lens.planted_truth(name)).overall.auroc < high
