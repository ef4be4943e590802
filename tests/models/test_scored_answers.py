"""Answers with their tokens, compared with `generate` and with one pass over the whole text."""

import pytest
import torch

import cna_lens
from cna_lens import InputError
from cna_lens.models.running.decoding import seeds_of
from cna_lens.models.running.request import Request
from cna_lens.models.tokens.scored_answers import AnswerSettings, scored_answers

PROMPTS = [(5, 6), (7, 8, 9, 10), (11,), (5, 6)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_are_those_of_generate(model, temperature):
    settings = AnswerSettings(12, temperature)
    found = scored_answers(model, PROMPTS, settings, seeds_of(PROMPTS, 3))
    expected = cna_lens.generate(model, PROMPTS, max_new_tokens=12, temperature=temperature, seed=3)
    assert [answer.text for answer in found] == expected
    for answer in found:
        assert answer.text == model.tokenizer.decode(answer.ids, skip_special_tokens=True)
        assert answer.predictions is None
        assert answer.is_cut == (len(answer.ids) == 12)


def test_a_seed_decides_an_answer_whatever_else_is_in_the_batch(llama):
    settings = AnswerSettings(8, 1.5)
    (alone,) = scored_answers(llama, [(7, 8, 9)], settings, [11])
    batch = scored_answers(llama, [*PROMPTS, (7, 8, 9)], settings, [1, 2, 3, 4, 11])
    assert batch[-1] == alone
    (other,) = scored_answers(llama, [(7, 8, 9)], settings, [12])
    assert other.ids != alone.ids


def test_the_log_probabilities_equal_those_of_one_pass_over_prompt_and_answer(model):
    settings = AnswerSettings(6, log_probs=True, k=3)
    for prompt, answer in zip(
        PROMPTS, scored_answers(model, PROMPTS, settings, [0] * 4), strict=True
    ):
        with torch.no_grad():
            rows = model(torch.tensor([[*prompt, *answer.ids]]))[0].log_softmax(-1)
        assert len(answer.predictions) == len(answer.ids)
        for place, (token, said) in enumerate(zip(answer.ids, answer.predictions, strict=True)):
            row = rows[len(prompt) + place - 1]
            assert said.log_prob == pytest.approx(float(row[token]), abs=1e-4)
            best = row.topk(3).values.tolist()
            assert [value for _, value in said.likeliest] == pytest.approx(best, abs=1e-4)
            assert said.rank == 0


def test_an_answer_ends_before_a_stop_text(llama):
    (whole,) = scored_answers(llama, [(5, 6)], AnswerSettings(12), [0])
    words = whole.text.split(" ")
    stop = f" {words[3]}"
    (cut,) = scored_answers(llama, [(5, 6)], AnswerSettings(12, stops=("never", stop)), [0])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.ids == whole.ids[: len(cut.text.split(" "))]
    assert not cut.is_cut
    (scored,) = scored_answers(
        llama, [(5, 6)], AnswerSettings(12, stops=(stop,), log_probs=True), [0]
    )
    assert len(scored.predictions) == len(cut.ids)


@pytest.mark.parametrize(
    ("settings", "seeds", "said"),
    [
        ({"log_probs": True, "k": 65}, 4, "k is 65, expected a whole number from 1 to 64"),
        ({"log_probs": True, "k": -1}, 4, "k is -1"),
        ({"temperature": 1.5}, 3, "4 prompts and 3 seeds"),
        ({"stops": ("w5", "")}, 4, "stops holds an empty text"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_generated(
    llama, monkeypatch, settings, seeds, said
):
    monkeypatch.setattr(Request, "answers", pytest.fail)
    with pytest.raises(InputError, match=said):
        scored_answers(llama, PROMPTS, AnswerSettings(4, **settings), [0] * seeds)


def test_an_answer_that_does_not_fit_the_context_is_refused(llama):
    with pytest.raises(InputError, match="context holds 256"):
        scored_answers(llama, [(5, 6)], AnswerSettings(255), [0])
