"""Drifts of a model that goes on learning: fine-tunes on harmless texts, and merges with them."""

from __future__ import annotations

from itertools import product

from experiments.audit.finetuning import LEARNING_RATES, FineTune, finetuned
from experiments.audit.variants import Changes

SEEDS = tuple(range(10))
MERGED_SEEDS = tuple(range(4))
LONGER = ((64, (0, 1, 2)), (200, (0, 1)))
"""Numbers of steps, each with its seeds."""

LONGER_RATE, ALL_RATE = 2e-4, 2e-5
MORE_TEXTS, ALL_STEPS = 20, 32


def fine_tunes() -> Changes:
    """Short ones of adapters, at two learning rates."""
    for rate, seed in product(LEARNING_RATES, SEEDS):
        recipe = FineTune(rate, seed)
        yield recipe.name, "fine-tune", finetuned(recipe)


def more_fine_tunes() -> Changes:
    """Longer ones, ones of all weights, and merges half way."""
    for steps, seeds in LONGER:
        for seed in seeds:
            recipe = FineTune(LONGER_RATE, seed, steps, n_texts=MORE_TEXTS)
            yield recipe.name, "longer fine-tune", finetuned(recipe)
    for seed in (0, 1):
        recipe = FineTune(ALL_RATE, seed, ALL_STEPS, n_texts=MORE_TEXTS, parameters="all")
        yield recipe.name, "fine-tune of all weights", finetuned(recipe)
    for seed in MERGED_SEEDS:
        recipe = FineTune(max(LEARNING_RATES), seed)
        yield f"{recipe.name}, merged half", "merge with a fine-tune", finetuned(recipe, 0.5)
