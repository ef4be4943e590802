"""Prompts to choose a method on, and prompts to report it on, all outside the discovery set."""

from __future__ import annotations

import random
from collections.abc import Sequence

import cna_lens
from cna_lens import PromptSet
from experiments.demo.matched_pair import training_set

SAMPLE_SEED = 0


def validation_prompts(n: int) -> PromptSet:
    """Requests outside the adapter's training set and the discovery set, n of each kind."""
    requests = training_set.requests("validation")
    draw = random.Random(SAMPLE_SEED)
    return PromptSet(
        "validation",
        "the adapter's validation split",
        tuple(draw.sample(training_set.prompts_of(requests, "harmful"), n)),
        tuple(draw.sample(training_set.prompts_of(requests, "look-alike"), n)),
    )


def held_out_prompts(jbb: Sequence[str], n: int) -> PromptSet:
    """The packaged evaluation set, n of each kind, and JBB-Behaviors."""
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    return PromptSet(
        "test",
        "the packaged evaluation set and JBB-Behaviors",
        (*evaluation.positive[:n], *jbb),
        evaluation.negative[:n],
    )
