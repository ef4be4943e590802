"""An answer's log-probabilities, compared with one pass over the whole text."""

import pytest
import torch

import cna_lens
from cna_lens import InputError, Layout, Neuron, steer

WORDS = [*(f"w{token}" for token in range(62)), "user", "assistant"]


def test_log_probs_of_an_answer_equal_those_of_one_pass_over_the_text(llama):
    circuit = cna_lens.Circuit((Neuron(1, 3), Neuron(0, 5)), (1.0, 1.0), Layout((24, 24)))
    steering = lambda: steer(llama, circuit, -20.0)  # noqa: E731
    prompts, answers = [[5, 6], [7]], ["w8 w9 w3", "w4"]
    found = cna_lens.answer_log_probs(llama, steering, prompts, answers, k=3)
    for prompt, answer, said in zip(prompts, answers, found, strict=True):
        ids = [int(word[1:]) for word in answer.split()]
        assert said.tokens == tuple(answer.split())
        with torch.no_grad():
            logits = llama(torch.tensor([prompt + ids]))[0].log_softmax(-1)
        with torch.no_grad(), steering():
            steered = llama(torch.tensor([prompt + ids]))[0].log_softmax(-1)
        for place, token in enumerate(ids):
            at = len(prompt) + place - 1
            for predicted, row in ((said.unsteered, logits[at]), (said.steered, steered[at])):
                assert predicted[place].log_prob == pytest.approx(float(row[token]), abs=1e-4)
                order = row.sort(descending=True).indices.tolist()
                assert predicted[place].rank == order.index(token)
                likeliest = [text for text, _ in predicted[place].likeliest]
                assert likeliest == [WORDS[token] for token in order[:3]]
            assert said.change[place] == pytest.approx(
                float(steered[at, token] - logits[at, token]), abs=1e-4
            )
    assert max(map(abs, found[0].change)) > 0.01


def test_an_answer_without_tokens_is_refused(llama):
    with pytest.raises(InputError, match="answer 1 is ''"):
        cna_lens.answer_log_probs(llama, lambda: None, [[5], [6]], ["w7", ""])
