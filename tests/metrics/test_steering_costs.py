"""Perplexity, divergence, log-odds and factual accuracy, against slow definitions."""

from contextlib import nullcontext

import pytest
import reference
import tiny
import torch

from cna_lens import Circuit, InputError, Layout, Neuron, PromptSet, prompt_set, steer
from cna_lens.metrics import (
    factual_accuracy,
    first_tokens,
    kl_per_token,
    likelihood,
    perplexity,
    refusal_log_odds,
    text_perplexity,
)

PROMPTS, ANSWERS = ["w5 w6", "w7 w8 w9"], ["w3 w4", "w8"]


def ids(words):
    return [int(word[1:]) for word in words.split()]


def begun(model, words):
    """Token ids behind the token that begins a text, where the model has one."""
    return model.to_tokens(words)[0].tolist()


def log_probs(model, prompt, answer):
    whole = [*begun(model, prompt), *ids(answer)]
    return reference.logits(model.original_model, whole).log_softmax(-1)[-len(ids(answer)) - 1 : -1]


@pytest.fixture
def circuit():
    neurons = tuple(Neuron(layer, index) for layer in (0, 1) for index in range(0, tiny.WIDTH, 2))
    return Circuit(neurons, (1.0,) * len(neurons), Layout((tiny.WIDTH,) * 2))


def test_perplexity_by_the_definition(model):
    found = perplexity(model, PROMPTS, ANSWERS, chat=False)
    for value, prompt, answer in zip(found, PROMPTS, ANSWERS, strict=True):
        said = log_probs(model, prompt, answer)[range(len(ids(answer))), ids(answer)]
        assert value == pytest.approx(float((-said.mean()).exp()), rel=1e-4)


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large():
    hf = tiny.hugging_face("llama")
    with torch.no_grad():
        hf.lm_head.weight.zero_()
    assert perplexity(tiny.boot(hf), ["w5"], ["w6 w7 w8"], chat=False) == [
        pytest.approx(tiny.VOCABULARY, rel=1e-5)
    ]


def test_one_text_is_no_list_of_answers(llama):
    for measure in (perplexity, lambda *given: kl_per_token(given[0], nullcontext, *given[1:])):
        with pytest.raises(InputError, match="answers is one string"):
            measure(llama, PROMPTS, "w3")


def test_an_answer_without_tokens_has_no_perplexity_and_no_divergence(llama):
    assert perplexity(llama, ["w5", "w6"], ["", "w7"], chat=False)[0] is None
    assert kl_per_token(llama, nullcontext, ["w5"], [""], chat=False) == [None]


def test_the_perplexity_of_a_plain_text(llama):
    whole = [1, 5, 6, 7]
    said = reference.logits(llama.original_model, whole).log_softmax(-1)[[0, 1, 2], [5, 6, 7]]
    assert text_perplexity(llama, ["w5 w6 w7"]) == [
        pytest.approx(float((-said.mean()).exp()), rel=1e-4)
    ]


def test_divergence_by_the_definition(model, circuit):
    found = kl_per_token(model, lambda: steer(model, circuit, 0.0), PROMPTS, ANSWERS, chat=False)
    for value, prompt, answer in zip(found, PROMPTS, ANSWERS, strict=True):
        before = log_probs(model, prompt, answer)
        with reference.changed(model.original_model, reference.scale_at(circuit, 0.0, slice(None))):
            after = log_probs(model, prompt, answer)
        expected = (before.exp() * (before - after)).sum(-1).mean()
        assert value == pytest.approx(float(expected), rel=1e-3)
        assert value > 1e-4


def test_divergence_does_not_go_both_ways_alike(llama, circuit):
    def scaled(multiplier):
        return steer(llama, circuit, multiplier, via="hooks")

    forward = kl_per_token(llama, lambda: scaled(16.0), PROMPTS, ANSWERS, chat=False)
    with scaled(16.0):
        # From the steered model back to the plain one.
        back = kl_per_token(llama, lambda: scaled(1 / 16), PROMPTS, ANSWERS, chat=False)
    for there, value, prompt, answer in zip(forward, back, PROMPTS, ANSWERS, strict=True):
        plain = log_probs(llama, prompt, answer)
        with reference.changed(
            llama.original_model, reference.scale_at(circuit, 16.0, slice(None))
        ):
            steered = log_probs(llama, prompt, answer)
        expected = (steered.exp() * (steered - plain)).sum(-1).mean()
        assert value == pytest.approx(float(expected), rel=1e-3)
        assert value != pytest.approx(there, rel=0.01)


def test_scaling_what_is_zeroed_diverges_by_exactly_nothing(llama, circuit):
    with steer(llama, circuit, 0.0, via="hooks"):
        same = kl_per_token(
            llama, lambda: steer(llama, circuit, 2.0, via="hooks"), PROMPTS, ANSWERS, chat=False
        )
    assert same == [0.0, 0.0]


@pytest.mark.parametrize("via", ["hooks", "weights"])
def test_a_multiplier_of_one_diverges_by_exactly_nothing(model, circuit, via):
    found = kl_per_token(
        model, lambda: steer(model, circuit, 1.0, via=via), PROMPTS, ANSWERS, chat=False
    )
    assert found == [0.0, 0.0]


def test_small_chunks_change_nothing(llama, circuit, monkeypatch):
    def found():
        return kl_per_token(
            llama, lambda: steer(llama, circuit, 0.0), PROMPTS * 3, ANSWERS * 3, chat=False
        )

    whole = found()
    monkeypatch.setattr(likelihood, "predictions_at_once", lambda _: 2)
    assert found() == pytest.approx(whole, abs=1e-6)


def test_divergence_on_prompts_alone_counts_the_users_tokens(chat_model, circuit):
    (found,) = kl_per_token(chat_model, lambda: steer(chat_model, circuit, 0.0), ["w3 w4"])
    text = chat_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "w3 w4"}], add_generation_prompt=True, tokenize=False
    )
    whole = chat_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    start = next(at for at in range(len(whole)) if whole[at : at + 2] == [3, 4])
    hf = chat_model.original_model
    before = reference.logits(hf, whole).log_softmax(-1)[start - 1 : -1]
    with reference.changed(hf, reference.scale_at(circuit, 0.0, slice(None))):
        after = reference.logits(hf, whole).log_softmax(-1)[start - 1 : -1]
    assert found == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-3)


def test_steering_at_the_last_prompt_token_shows_from_the_first_answer_token_on(llama, circuit):
    def there():
        return steer(llama, circuit, 0.0, positions="last_prompt")

    assert kl_per_token(llama, there, PROMPTS, chat=False) == [0.0, 0.0]
    assert min(kl_per_token(llama, there, PROMPTS, ANSWERS, chat=False)) > 1e-4


def test_log_odds_by_the_definition(model):
    refusing = [3, 4]
    found = refusal_log_odds(model, PROMPTS, openings=["w3 w5", "w4", "w3 w6"], chat=False)
    for value, prompt in zip(found, PROMPTS, strict=True):
        p = reference.logits(model.original_model, begun(model, prompt))[-1].double().softmax(-1)
        refused = float(p[refusing].sum())
        assert value == pytest.approx(torch.logit(torch.tensor(refused)).item(), abs=1e-3)


def test_log_odds_stay_finite_where_the_model_is_certain():
    hf = tiny.hugging_face("llama")
    with torch.no_grad():
        hf.lm_head.weight.mul_(1e4)
    first, second = refusal_log_odds(tiny.boot(hf), ["w5", "w6"], openings=["w3"], chat=False)
    assert abs(first) > 50
    assert abs(second) > 50


def test_an_opening_counts_by_its_first_token_once(llama):
    assert first_tokens(llama, ["w3 w5", "w4", "w3"]) == (3, 4)


@pytest.mark.parametrize("openings", [[], [""]])
def test_openings_without_tokens_are_refused(llama, openings):
    with pytest.raises(InputError, match="opening"):
        refusal_log_odds(llama, ["w5"], openings=openings)


def test_factual_accuracy_by_the_definition(model):
    task = PromptSet(
        "capitals", "a test", ("w5 w6", "w7"), ("w8", "w9 w9"), ("w3 w4", "w5"), ("w6", "w7")
    )
    found = factual_accuracy(model, task)

    def likelihood(prompt, word):
        return float(log_probs(model, prompt, word)[range(len(ids(word))), ids(word)].sum())

    assert found == [
        likelihood("w5 w6", "w3 w4") > likelihood("w5 w6", "w6"),
        likelihood("w7", "w5") > likelihood("w7", "w7"),
        likelihood("w8", "w6") > likelihood("w8", "w3 w4"),
        likelihood("w9 w9", "w7") > likelihood("w9 w9", "w5"),
    ]


def test_a_prompt_set_without_targets_has_no_accuracy(llama):
    with pytest.raises(InputError, match="'refusal' has no targets"):
        factual_accuracy(llama, prompt_set("refusal"))
