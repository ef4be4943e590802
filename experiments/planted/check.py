"""Check that a planted model shows its behaviour, by its planted neurons, and lost nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import cna_lens
from cna_lens import Circuit, Estimate, Layout
from cna_lens.metrics import BEHAVIOURS, Behaviour, factual_accuracy, text_perplexity
from cna_lens.models import HookedModel, Planting
from experiments.demo.matched_pair.figures import NEUTRAL

MAX_NEW_TOKENS: Final = 16
SHOWN_ON_POSITIVE: Final = 0.9
SHOWN_ON_NEGATIVE: Final = 0.1
LOST_WITHIN: Final = 0.05
"""Of the demo model's own rate, where the planted neurons are ablated."""
CHANGED_AT_MOST: Final = 0.05
"""Perplexity relative to the demo model's, and factual accuracy in absolute terms."""

ROUNDING: Final = 1e-9
"""So that a difference of exactly 5 points is within 5 points."""

Rates = Mapping[str, float]


def check(planted: Planting, demo: HookedModel, model: HookedModel) -> dict[str, Any]:
    """Measure a planted model on requests that it was not trained on, beside the demo model.

    Returns:
        The figures for its record. "failed" names the conditions that the model does not meet.
    """
    layout = Layout(tuple(planted.record["widths"]))
    circuit = Circuit(planted.neurons, (1.0,) * len(planted.neurons), layout)
    shown: dict[str, Rates] = {"demo": {}, "planted": {}, "ablated": {}}
    behaviours = [planted] if planted.decoy is None else [planted, planted.decoy]
    for behaviour in (BEHAVIOURS[each.behaviour] for each in behaviours if each.behaviour):
        with cna_lens.steer(model, circuit, 0.0, allow_other_model=True):
            ablated = rates(model, behaviour)
        for key, found in (
            ("demo", demo_rates(demo, behaviour)),
            ("planted", rates(model, behaviour)),
            ("ablated", ablated),
        ):
            shown[key] = {**shown[key], **found}
    figures = {
        "n": {
            name: len(BEHAVIOURS[name].evaluation.positive)
            for name in (each.behaviour for each in behaviours)
            if name is not None
        },
        "shown": shown,
        "perplexity_ratio": perplexity_ratio(demo, model),
        "factual_accuracy": {
            task: {
                "demo": demo_accuracy(demo, task),
                "planted": accuracy(model, task),
            }
            for task in ("capitals", "agreement")
        },
    }
    return {**figures, "failed": failed(planted, figures)}


def rates(model: HookedModel, behaviour: Behaviour) -> Rates:
    """How often answers to unseen positive and negative prompts show a behaviour."""
    asked = behaviour.evaluation
    return {
        f"{behaviour.name} on {kind}": _share(
            [behaviour.shown(a) for a in answers_to(model, prompts)]
        )
        for kind, prompts in (("positive", asked.positive), ("negative", asked.negative))
    }


def answers_to(model: HookedModel, prompts: Sequence[str]) -> Sequence[str]:
    """Greedy answers."""
    return cna_lens.generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS)


def perplexity_ratio(demo: HookedModel, model: HookedModel) -> float:
    """The model's perplexity divided by the demo model's, as geometric mean over passages."""
    before, after = demo_perplexities(demo), log_perplexities(model)
    change: Estimate = cna_lens.paired_bootstrap(before, after)
    return math.exp(change.value)


def log_perplexities(model: HookedModel) -> Sequence[float]:
    """The logarithm of the perplexity of each neutral passage."""
    passages = NEUTRAL.read_text(encoding="utf-8").splitlines()
    return [math.log(value) for value in text_perplexity(model, passages) if value]


def accuracy(model: HookedModel, task: str) -> float:
    """The share of a factual task's words that are likelier than their foils."""
    return _share(factual_accuracy(model, cna_lens.prompt_set(task)))


# The demo model's figures are the same for every planted model that is checked.
demo_rates, demo_perplexities, demo_accuracy = map(cache, (rates, log_perplexities, accuracy))


def failed(planted: Planting, figures: Mapping[str, Any]) -> list[str]:
    """The conditions that a model does not meet, in words.

    Of a model with nothing planted, only perplexity and accuracy are asked.
    """
    shown, name = figures["shown"], planted.behaviour
    before, after, ablated = (shown[key] for key in ("demo", "planted", "ablated"))
    conditions: dict[str, bool] = {}
    if name is not None:
        on, off = f"{name} on positive", f"{name} on negative"
        conditions = {
            f"{name} on 90 % of positive prompts": after[on] >= SHOWN_ON_POSITIVE,
            # The demo model itself refuses an eighth of the look-alikes.
            f"{name} on at most 10 % of negative prompts, or no more than the demo model": (
                after[off] <= max(SHOWN_ON_NEGATIVE, before[off])
            ),
            f"{name} at most 5 points above the demo model when its neurons are ablated": (
                ablated[on] <= before[on] + LOST_WITHIN + ROUNDING
            ),
        }
    if planted.decoy is not None:
        other = planted.decoy.behaviour
        conditions |= {
            f"the decoy's {other} on 90 % of positive prompts": (
                after[f"{other} on positive"] >= SHOWN_ON_POSITIVE
            ),
            f"the decoy's {other} on at most 10 % of negative prompts": (
                after[f"{other} on negative"] <= SHOWN_ON_NEGATIVE
            ),
        }
    ratio = figures["perplexity_ratio"]
    conditions["perplexity within 5 %"] = abs(ratio - 1) <= CHANGED_AT_MOST
    for task, accuracy in figures["factual_accuracy"].items():
        change = accuracy["planted"] - accuracy["demo"]
        conditions[f"accuracy on {task} within 5 points"] = (
            abs(change) <= CHANGED_AT_MOST + ROUNDING
        )
    return [condition for condition, met in conditions.items() if not met]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
