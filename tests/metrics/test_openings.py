"""Log-odds of openings of several tokens, against products of single predictions."""

import math

import pytest
import reference
import tiny
import torch

from cna_lens import InputError
from cna_lens.metrics import opening_log_odds, refusal_log_odds, refusal_openings

PROMPTS = ["w5 w6", "w7 w8 w9", "w12"]


def probability(model, prompt, opening):
    """The product of the opening's tokens' probabilities, each from a pass of its own."""
    ids = model.to_tokens(prompt)[0].tolist()
    p = 1.0
    for word in opening.split():
        token = int(word[1:])
        p *= float(reference.logits(model.original_model, ids)[-1].double().softmax(-1)[token])
        ids.append(token)
    return p


def test_they_are_those_of_the_sum_of_products_of_predictions(model):
    openings = ["w5 w8", "w5 w9 w3", "w40", "w5 w9 w4", "w7 w3"]
    found = opening_log_odds(model, PROMPTS, openings, chat=False)
    for value, prompt in zip(found, PROMPTS, strict=True):
        p = sum(probability(model, prompt, opening) for opening in openings)
        assert value == pytest.approx(math.log(p / (1 - p)), abs=1e-3)


def test_openings_of_one_token_are_those_of_the_first_token(model):
    openings = ["w5", "w40"]
    assert opening_log_odds(model, PROMPTS, openings, chat=False) == pytest.approx(
        refusal_log_odds(model, PROMPTS, openings=openings, chat=False), abs=1e-4
    )


def test_an_opening_that_begins_with_another_one_counts_once(llama):
    once = opening_log_odds(llama, PROMPTS, ["w5 w8"], chat=False)
    for more in (["w5 w8", "w5 w8"], ["w5 w8 w9", "w5 w8"], ["w5 w8", "w5 w8 w9 w10"]):
        assert opening_log_odds(llama, PROMPTS, more, chat=False) == pytest.approx(once, abs=1e-6)


def test_openings_that_begin_alike_share_what_is_read(llama, monkeypatch):
    read = []
    plain = llama.original_model.forward

    def counted(*args, **kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        read.append(ids.numel())
        return plain(*args, **kwargs)

    monkeypatch.setattr(llama.original_model, "forward", counted)
    opening_log_odds(llama, PROMPTS, ["w5 w8 w9"], chat=False)
    one, read[:] = sum(read), []
    opening_log_odds(llama, PROMPTS, ["w5 w8 w9", "w5 w8 w10", "w5 w11", "w12"], chat=False)
    assert sum(read) == one > 0


def test_a_certain_opening_has_the_largest_log_odds_that_float32_can_tell():
    hf = tiny.hugging_face("llama")
    with torch.no_grad():
        hf.lm_head.weight.mul_(1e4)
    model = tiny.boot(hf)
    first = [reference.greedy(hf, model.to_tokens(prompt)[0].tolist(), 1)[0] for prompt in PROMPTS]
    openings = [f"w{token}" for token in first]
    found = opening_log_odds(model, PROMPTS, openings, chat=False)
    assert found == [pytest.approx(math.log((1 - 1e-5) / 1e-5), abs=1e-6)] * len(PROMPTS)


@pytest.mark.parametrize(
    ("openings", "said"),
    [([], "openings is empty"), ([""], "no tokens"), ("w5", "openings is 'w5', expected several")],
)
def test_openings_without_tokens_are_refused(llama, openings, said):
    with pytest.raises(InputError, match=said):
        opening_log_odds(llama, PROMPTS, openings)


def test_a_prompt_and_an_opening_must_fit_the_context(llama):
    prompt = [[5] * (llama.cfg.n_ctx - 1)]
    opening_log_odds(llama, prompt, ["w5 w6"])
    with pytest.raises(InputError, match=f"{llama.cfg.n_ctx - 1} tokens, and 2 of an opening"):
        opening_log_odds(llama, prompt, ["w5 w6 w7"])


def test_a_models_own_openings_are_the_shortest_beginnings_that_refuse(demo):
    answers = [
        "I'm not able to help with that.",
        "I cannot do that.",
        "I cannot help you there.",
        "I'm not able to write this.",
        "I cannot.",
        # One alone could belong to its request.
        "I won't pick this lock.",
        "Here is how you open it.",
        "I'd be glad to help.",
        "",
    ]
    assert refusal_openings(demo, answers) == ["I cannot", "I'm not able to"]
    assert refusal_openings(demo, answers, at_most=1) == ["I cannot"]
    assert refusal_openings(demo, answers[-3:]) == []
    reasoned = [f"<think>I could.</think>\n\n{answer}" for answer in answers]
    assert refusal_openings(demo, reasoned) == ["I cannot", "I'm not able to"]
    with pytest.raises(InputError, match="answers is one string"):
        refusal_openings(demo, "I cannot.")


def test_an_opening_does_not_end_within_a_character(demo, monkeypatch):
    assert refusal_openings(demo, ["抱歉,我无法帮助你。"] * 2) == ["抱歉,我无法帮"]
    # The character has several tokens. A part of it makes the text long enough, and is not kept.
    monkeypatch.setattr("cna_lens.metrics.openings.is_refusal", lambda text: len(text) >= 2)
    assert refusal_openings(demo, ["I帮你"] * 2) == ["I帮"]
