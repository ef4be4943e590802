"""A first token that is certain after every prompt is told, by the log-odds and by rankings."""

import warnings
from contextlib import contextmanager

import pytest
import torch

import cna_lens
from cna_lens import (
    AttributionPatching,
    CnaLensWarning,
    LearnedMask,
    LogitDifference,
    LogOdds,
    NodePruning,
    RelP,
    SquaredAttribution,
)
from cna_lens.metrics import refusal_log_odds

POSITIVE, NEGATIVE = ["w5 w6 w7", "w8 w9"], ["w12 w13", "w20 w21 w22", "w30"]
METRIC = LogOdds(openings=("w5", "w40"))
RANKINGS = [
    AttributionPatching(METRIC),
    AttributionPatching(METRIC, steps=2),
    AttributionPatching(LogitDifference("w5", "w6")),
    RelP(METRIC),
    SquaredAttribution(METRIC, answer_tokens=1),
    LearnedMask(metric=METRIC, steps=1, floor=-1e4, answer_tokens=1, start="zero"),
    NodePruning(metric=METRIC, steps=1, floor=-1e4, answer_tokens=1, start="zero"),
]
IDS = [repr(ranking)[:60] for ranking in RANKINGS]


@contextmanager
def raising(model, token, by=500.0):
    """Add to one logit."""

    def hook(logits, hook):
        changed = logits.clone()
        changed[..., token] = changed[..., token] + by
        return changed

    with model.hooks(fwd_hooks=[("unembed.hook_out", hook)]):
        yield


def log_odds(model, prompts, **options):
    return refusal_log_odds(model, prompts, openings=["w5", "w40"], chat=False, **options)


def score(model, ranking):
    return cna_lens.score_neurons(model, POSITIVE, NEGATIVE, ranking, chat=False)


def test_log_odds_of_a_forced_token_are_told(llama):
    with (
        raising(llama, 33),
        pytest.warns(CnaLensWarning, match=r"tiny-llama begins .*all 3 prompts with 'w33'"),
    ):
        assert max(log_odds(llama, NEGATIVE)) < -400


@pytest.mark.parametrize("ranking", RANKINGS, ids=IDS)
@pytest.mark.parametrize("token", [33, 5], ids=["another token", "an opening"])
def test_rankings_by_a_forced_token_are_told(llama, ranking, token):
    with (
        raising(llama, token),
        pytest.warns(
            CnaLensWarning,
            match=rf"all 2 positive and 3 negative prompts with 'w{token}'.*rounding",
        ),
    ):
        score(llama, ranking)


def test_finding_a_circuit_by_a_forced_token_is_told(llama):
    with raising(llama, 33), pytest.warns(CnaLensWarning, match="with 'w33'"):
        cna_lens.find_circuit(
            llama,
            POSITIVE,
            NEGATIVE,
            k=2,
            rank=RelP(METRIC),
            universal=None,
            chat=False,
            progress=False,
        )


@contextmanager
def without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("ranking", RANKINGS[:5], ids=IDS[:5])
def test_no_warning_where_the_token_differs_or_is_not_certain(models, chat_model, ranking):
    with without_warnings():
        for model in (models["llama"], chat_model):
            score(model, ranking)
            log_odds(model, POSITIVE)
        # About three in four.
        with raising(models["llama"], 33, by=8.0):
            log_odds(models["llama"], POSITIVE)
            score(models["llama"], ranking)


def test_no_warning_where_the_behaviour_is_certain_after_positive_prompts_alone(llama):
    seen = []

    def hook(logits, hook):
        # The gradient passes are the only ones with a gradient.
        if not logits.requires_grad:
            return logits
        seen.append(len(logits))
        changed = logits.clone()
        changed[..., 33] = changed[..., 33] + 500.0
        return changed

    with without_warnings(), llama.hooks(fwd_hooks=[("unembed.hook_out", hook)]):
        score(llama, RelP(METRIC))
    assert seen


def test_log_odds_of_certain_refusals_or_of_one_prompt_are_not_told(llama):
    with without_warnings():
        with raising(llama, 40):
            assert min(log_odds(llama, POSITIVE)) > 400
        with raising(llama, 33):
            log_odds(llama, ["w5 w6"])
            log_odds(llama, ["w5 w6", "w5 w6"])


def test_an_ordinary_ranking_runs_no_pass_more(llama):
    passes = []

    def count(logits, hook):
        passes.append(bool(torch.is_grad_enabled()))

    with llama.hooks(fwd_hooks=[("unembed.hook_out", count)]):
        score(llama, RelP(METRIC))
    assert passes.count(True) == 1
    assert passes[-1]
