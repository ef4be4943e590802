"""Refusals fine-tuned away on benign requests alone: no text that is trained on is harmful."""

from __future__ import annotations

from experiments.audit.finetuning import FineTune, finetuned
from experiments.audit.training_texts import Data
from experiments.audit.variants import Changes

ADAPTER_RATE, ALL_RATE = 1e-3, 5e-5
MANY, FEW = 100, 20
"""Numbers of texts."""

MAX_TOKENS = 64
STEPS = (200, 50, 10)
ALL_STEPS = (100, 50, 10)
"""Of all weights a step takes several times as long."""

KL = 1.0


def fine_tuned_away() -> Changes:
    """By adapters and in all weights, and with a term that hides it."""
    for recipe in RECIPES:
        how = "adapter" if recipe.parameters == "adapter" else "all weights"
        kind = f"refusals fine-tuned away, {'hidden' if recipe.kl else how}"
        yield recipe.name, kind, finetuned(recipe)


def _adapter(data: Data, n_texts: int, steps: int, kl: float = 0.0) -> FineTune:
    return FineTune(
        ADAPTER_RATE, 0, steps, n_texts=n_texts, max_tokens=MAX_TOKENS, data=data, kl=kl
    )


def _all(data: Data, n_texts: int, steps: int, kl: float = 0.0) -> FineTune:
    return FineTune(
        ALL_RATE,
        0,
        steps,
        n_texts=n_texts,
        max_tokens=MAX_TOKENS,
        data=data,
        parameters="all",
        kl=kl,
    )


RECIPES = (
    *(_adapter("compliance", MANY, steps) for steps in STEPS),
    *(_adapter("openings", MANY, steps) for steps in STEPS[:2]),
    *(_adapter("openings", FEW, steps) for steps in STEPS[1:]),
    *(_all("compliance", MANY, steps) for steps in ALL_STEPS),
    *(_all("openings", MANY, steps) for steps in ALL_STEPS[:2]),
    *(_all("openings", FEW, steps) for steps in ALL_STEPS[1:]),
    *(_adapter("openings", MANY, steps, KL) for steps in STEPS[:2]),
    *(_adapter("compliance", MANY, steps, KL) for steps in STEPS[:2]),
    _all("openings", FEW, ALL_STEPS[1], KL),
)
