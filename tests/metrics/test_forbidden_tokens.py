"""Tokens with the logit -inf: what forbids them in one model or in both costs what it costs."""

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import tiny
import torch
from torch.nn import functional

import cna_lens
from cna_lens.metrics import kl_per_token, refusal_log_odds
from cna_lens.metrics.likelihood import kl_divergence
from cna_lens.viz import pareto

PROMPTS, ANSWERS = ["w5 w6", "w7 w8 w9"], ["w3 w4", "w8"]


@contextmanager
def forbidding(model, *tokens):
    def hook(logits, hook):
        return logits.index_fill(-1, torch.tensor(tokens), -torch.inf)

    with model.hooks(fwd_hooks=[("unembed.hook_out", hook)]):
        yield


@dataclass(frozen=True)
class Forbids:
    """A steering method that forbids tokens."""

    tokens: tuple[int, ...]
    name: str = "forbids"

    def at(self, model, strength=1.0):  # noqa: ARG002
        return forbidding(model, *self.tokens)


@pytest.fixture
def circuit():
    neurons = tuple(cna_lens.Neuron(0, index) for index in range(0, tiny.WIDTH, 2))
    return cna_lens.Circuit(neurons, (1.0,) * len(neurons), cna_lens.Layout((tiny.WIDTH,) * 2))


def log_probs(*rows):
    return torch.tensor(rows, dtype=torch.float32).log()


def test_the_divergence_of_forbidden_tokens():
    p = log_probs([0.5, 0.5, 0.0])
    both, p_alone, q_alone = (
        float(kl_divergence(p, log_probs(row)))
        for row in ([0.25, 0.75, 0.0], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0])
    )
    assert both == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert p_alone == pytest.approx(0.5 * math.log(2))
    assert q_alone == math.inf


def test_a_token_too_unlikely_for_a_float_is_forbidden_nevertheless():
    p, q = torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, -math.inf]])
    assert p.exp()[0, 1] == 0
    assert float(kl_divergence(p, q)) == math.inf


def test_without_forbidden_tokens_it_is_torchs_divergence_with_its_gradient():
    logits = torch.randn((2, 5, 16), generator=torch.Generator().manual_seed(0))
    p = logits[0].log_softmax(-1)
    found, expected = (
        (q := logits[1].clone().requires_grad_(), function(q.log_softmax(-1)))
        for function in (
            lambda q: kl_divergence(p, q),
            lambda q: functional.kl_div(q, p, log_target=True, reduction="none").sum(-1),
        )
    )
    assert torch.equal(found[1], expected[1])
    for _, value in (found, expected):
        value.sum().backward()
    assert torch.equal(found[0].grad, expected[0].grad)


def test_the_gradient_is_finite_where_both_forbid_a_token():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    p = log_probs([0.5, 0.5, 0.0])
    kl_divergence(p, logits.log_softmax(-1)).sum().backward()
    p_of_first = float(logits.detach().softmax(-1)[0, 0])
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([p_of_first - 0.5, 0.5 - p_of_first, 0.0])


def test_divergence_where_both_models_forbid_tokens(llama, circuit):
    def ablated():
        return cna_lens.steer(llama, circuit, 0.0)

    allowed = kl_per_token(llama, ablated, PROMPTS, ANSWERS, chat=False)
    with forbidding(llama, 20, 21):
        both = kl_per_token(llama, ablated, PROMPTS, ANSWERS, chat=False)
    assert all(0 < kl < math.inf for kl in both)
    assert both != allowed


def test_divergence_is_infinite_where_steering_alone_forbids_tokens(llama):
    found = kl_per_token(llama, lambda: forbidding(llama, 20), PROMPTS, ANSWERS, chat=False)
    assert found == [math.inf, math.inf]


def test_the_change_of_a_token_that_stays_forbidden_is_0(llama):
    answers = ["w20 w4", "w8 w20"]
    with forbidding(llama, 20):
        found = cna_lens.answer_log_probs(
            llama, lambda: forbidding(llama, 20), PROMPTS, answers, chat=False
        )
    assert [each.change for each in found] == [(0.0, 0.0), (0.0, 0.0)]
    (found, _) = cna_lens.answer_log_probs(
        llama, lambda: forbidding(llama, 20), PROMPTS, answers, chat=False
    )
    assert found.change[0] == -math.inf


def strictly(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def log_odds(model, prompts):
    return refusal_log_odds(model, prompts, openings=["w20"])


def test_a_comparison_with_infinite_numbers_is_a_file_of_standard_json(chat_model, tmp_path):
    path = tmp_path / "comparison.jsonl"
    prompts = cna_lens.PromptSet("words", "to compare on", tuple(PROMPTS), tuple(PROMPTS))

    def compare():
        return cna_lens.compare(
            chat_model,
            [Forbids((20, 21))],
            prompts,
            [1.0],
            {"log_odds": log_odds},
            max_new_tokens=4,
            path=path,
            progress=False,
        )

    first = compare()
    steered = first.outcomes[1]
    assert steered.kl_per_token == (math.inf, math.inf)
    assert steered.metrics["log_odds"] == (-math.inf, -math.inf)
    for line in path.read_text().splitlines():
        strictly(line)
    assert cna_lens.Comparison.load(path) == first
    assert compare().outcomes[1] == steered
    row = first.rows[1]
    assert "inf" not in pareto(first).description
    assert str(row.kl_per_token) == "inf [?, ?] n=2"
    assert row.metric_changes["log_odds"].value == -math.inf
    with forbidding(chat_model, 20):
        changes = compare_from_forbidden(chat_model, prompts).rows[1].metric_changes
    assert changes["log_odds"].value == 0.0


def compare_from_forbidden(model, prompts):
    return cna_lens.compare(
        model,
        [Forbids((20,))],
        prompts,
        [1.0],
        {"log_odds": log_odds},
        max_new_tokens=4,
        progress=False,
    )
