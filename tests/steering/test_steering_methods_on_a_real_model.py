"""SmolLM2-135M-Instruct, which seldom refuses: CAA moves it further than random vectors do."""

from dataclasses import replace

import pytest

import cna_lens
from cna_lens.metrics import refusal_log_odds

DISCOVERY, HELD_OUT = slice(0, 16), slice(22, 30)


def mean_log_odds(model, prompts):
    values = refusal_log_odds(model, prompts)
    return sum(values) / len(values)


@pytest.mark.real_model
def test_caa_moves_refusal_both_ways_and_further_than_random_vectors_of_the_same_length(demo):
    refusal = cna_lens.prompt_set("refusal")
    removing = cna_lens.caa(demo, refusal.positive[DISCOVERY], refusal.negative[DISCOVERY])
    amplifying = replace(removing, sign="add")
    for method, prompts, direction in (
        (removing, refusal.positive[HELD_OUT], -1),
        (amplifying, refusal.negative[HELD_OUT], 1),
    ):
        controls = [cna_lens.random_direction(method, seed) for seed in range(2)]
        before = mean_log_odds(demo, prompts)
        changes = []
        for steering in (method, *controls):
            with steering.at(demo):
                changes.append(mean_log_odds(demo, prompts) - before)
        change, *by_chance = changes
        assert change * direction > 0.4
        assert abs(change) > max(map(abs, by_chance))
