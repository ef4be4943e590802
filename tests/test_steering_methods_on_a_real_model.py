"""SmolLM2-135M-Instruct: CAA and directional ablation move refusals, random directions do less."""

import pytest

import cna_lens
from cna_lens.metrics import refusal_log_odds

pytestmark = pytest.mark.real_model

LAYERS = (12, 16, 20)
DISCOVERY, VALIDATION, HELD_OUT = slice(0, 16), slice(16, 22), slice(22, 30)


def mean_log_odds(model, prompts):
    values = refusal_log_odds(model, prompts)
    return sum(values) / len(values)


def steered(model, method, prompts):
    with method.at(model):
        return mean_log_odds(model, prompts)


@pytest.fixture
def refusal():
    return cna_lens.prompt_set("refusal")


def test_erasing_the_direction_lowers_refusal_more_than_erasing_random_ones(demo, refusal):
    candidates = cna_lens.directional_ablation_candidates(
        demo, refusal.positive[DISCOVERY], refusal.negative[DISCOVERY], layers=LAYERS
    )
    choice = cna_lens.choose(demo, candidates, refusal_log_odds, refusal.positive[VALIDATION])
    harmful = refusal.positive[HELD_OUT]
    before = mean_log_odds(demo, harmful)
    change = steered(demo, choice.best, harmful) - before
    controls = [
        steered(demo, cna_lens.random_direction(choice.best, seed), harmful) - before
        for seed in range(3)
    ]
    assert change < -0.5
    assert abs(change) > 2 * max(map(abs, controls))


@pytest.mark.parametrize(("sign", "direction"), [("subtract", -1), ("add", 1)])
def test_caa_moves_refusal_both_ways_more_than_random_vectors(demo, refusal, sign, direction):
    method = cna_lens.caa(
        demo,
        refusal.positive[DISCOVERY],
        refusal.negative[DISCOVERY],
        site="hook_resid_post",
        layer=16,
        sign=sign,
    )
    prompts = (refusal.positive if sign == "subtract" else refusal.negative)[HELD_OUT]
    before = mean_log_odds(demo, prompts)
    change = steered(demo, method, prompts) - before
    controls = [
        steered(demo, cna_lens.random_direction(method, seed), prompts) - before
        for seed in range(3)
    ]
    assert change * direction > 0.5
    assert abs(change) > 2 * max(map(abs, controls))
