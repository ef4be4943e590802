"""Predictions, compared with the plain model, one text at a time."""

import pytest
import reference
import tiny
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from cna_lens import InputError, ModelError
from cna_lens.models.running import memory, predictions
from cna_lens.models.running.predictions import Text, answers_after_prompts, prompts_alone

tokens = st.integers(3, 60)


def plain(model, text):
    return reference.logits(model.original_model, list(text.ids)).log_softmax(-1)[
        text.predicted_from - 1 : -1
    ]


@given(
    start=st.lists(tokens, min_size=1, max_size=8),
    rest=st.lists(
        st.tuples(st.lists(tokens, min_size=1, max_size=8), st.integers(0, 8)),
        min_size=1,
        max_size=5,
    ),
)
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
def test_predictions_equal_those_of_one_text_at_a_time(model, start, rest):
    texts = [
        Text((*start, *more), len(start) + min(behind, len(more)), len(start) + 1)
        for more, behind in rest
    ]
    found = dict(predictions.predictions(model, texts))
    assert sorted(found) == list(range(len(texts)))
    for place, text in enumerate(texts):
        assert found[place].shape == (text.n_predicted, 64)
        torch.testing.assert_close(found[place], plain(model, text), atol=2e-5, rtol=0)


def test_predicted_log_probs_are_those_of_the_tokens(llama):
    text = Text((1, 5, 6, 7), 2, 2)
    expected = plain(llama, text)[[0, 1], [6, 7]]
    (found,) = predictions.predicted_log_probs(llama, [text])
    torch.testing.assert_close(found, expected)


def test_a_text_without_predicted_tokens_has_no_rows(llama):
    found = dict(predictions.predictions(llama, [Text((5, 6), 2, 2), Text((5, 6), 1, 2)]))
    assert found[0].shape == (0, 64)
    assert found[1].shape == (1, 64)


def test_batches_stay_within_the_number_of_predictions(llama, monkeypatch):
    monkeypatch.setattr(predictions, "predictions_at_once", lambda _: 6)
    texts = [Text((1, *[5 + i] * 4), 1, 1) for i in range(5)]
    batches = predictions._batches(llama, texts, range(5))
    assert [len(batch) for batch in batches] == [1] * 5
    monkeypatch.setattr(predictions, "predictions_at_once", lambda _: 8)
    assert [len(batch) for batch in predictions._batches(llama, texts, range(5))] == [2, 2, 1]


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(llama, monkeypatch):
    texts = [Text((1, 5 + i, 6, 7 + i), 1, 1) for i in range(5)]
    expected = dict(predictions.predictions(llama, texts))
    run, sizes = predictions._run, []

    def cramped(model, batch, prefix):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return run(model, batch, prefix)

    monkeypatch.setattr(predictions, "_run", cramped)
    found = dict(predictions.predictions(llama, texts))
    assert sizes == [5, 3, 2, 1, 1, 1]
    for place in range(5):
        torch.testing.assert_close(found[place], expected[place])


def test_a_single_text_that_does_not_fit_raises(llama, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(predictions, "_run", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(predictions.predictions(llama, [Text((1, 5), 1, 1)]))


def test_other_errors_than_lack_of_memory_are_not_tried_again():
    tried = []

    def broken(batch):
        tried.append(batch)
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(memory.run_in_halves([[0, 1, 2]], broken))
    assert tried == [[0, 1, 2]]


def test_log_probabilities_that_are_not_a_number_are_refused(llama):
    weight = llama.original_model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 0] = float("nan")
    try:
        with pytest.raises(ModelError, match="not a number"):
            list(predictions.predictions(llama, [Text((1, 5), 1, 1)]))
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_answers_follow_their_prompts_in_the_chat_template(chat_model):
    (text,) = answers_after_prompts(chat_model, ["w5"], ["w6 w7"])
    asked = chat_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "w5"}], add_generation_prompt=True, tokenize=False
    )
    before = chat_model.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert text == Text((*before, 6, 7), len(before), len(before))


def test_prompts_are_predicted_from_the_end_of_the_templates_opening(chat_model):
    short, long = prompts_alone(chat_model, ["w5", "w6 w7"])
    assert short.ids[short.predicted_from] == 5
    assert long.ids[long.predicted_from :][:2] == (6, 7)
    (plain_text,) = prompts_alone(chat_model, ["w5 w6"], chat=False)
    assert plain_text.ids[plain_text.predicted_from :] == (5, 6)


def test_where_prediction_begins_depends_on_no_other_prompt(chat_model):
    system = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w5"}]
    prompts = ["w5", system, [40, 41, 42], [7]]
    together = prompts_alone(chat_model, prompts)
    assert together == [text for prompt in prompts for text in prompts_alone(chat_model, [prompt])]
    assert [text.predicted_from for text in together[2:]] == [1, 1]
    assert together[0].ids[together[0].predicted_from] == 5


def test_token_ids_are_predicted_without_a_tokenizer():
    model = tiny.bridge("llama")
    model.tokenizer = None
    assert prompts_alone(model, [[5, 6, 7], [5]]) == [Text((5, 6, 7), 1, 3), Text((5,), 1, 1)]


def test_one_answer_for_each_prompt(llama):
    with pytest.raises(InputError, match="2 prompts and 1 answers"):
        answers_after_prompts(llama, ["w5", "w6"], ["w7"])


def test_an_answer_beyond_the_context_is_refused(llama):
    with pytest.raises(InputError, match=r"prompt 1 and its answer have 2\d\d tokens.* 256"):
        answers_after_prompts(llama, ["w5", "w5"], ["w6", "w6 " * 260])
