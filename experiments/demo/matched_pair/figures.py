"""How the pair answers requests that it never saw, and what the training has cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from scipy.stats import spearmanr

import cna_lens
from cna_lens import metrics
from experiments.demo.matched_pair.training_set import prompts_of, requests
from experiments.shared.detection import auroc

NEUTRAL = Path(__file__).parent / "prompts" / "neutral.txt"
JBB = "JailbreakBench/JBB-Behaviors?config=behaviors&split=harmful&column=Goal"
MAX_NEW_TOKENS = 24


def goals(jbb: str) -> list[str]:
    """The harmful requests of JBB-Behaviors, from the data set as `JBB` names it."""
    source, _, query = jbb.partition("?")
    prompts = cna_lens.read_prompts(source, **dict(parse_qsl(query)))
    return [prompt for prompt in prompts if isinstance(prompt, str)]


def unseen_requests(jbb: Sequence[str]) -> dict[str, Sequence[str]]:
    """Requests that were never trained on, by their names in the card."""
    validation = requests("validation")
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    return {
        "harmful: JailbreakBench": jbb,
        "harmful: refusal_evaluation": evaluation.positive,
        "harmful: validation split": prompts_of(validation, "harmful"),
        "look-alike: refusal_evaluation": evaluation.negative,
        "look-alike: validation split": prompts_of(validation, "look-alike"),
    }


def measure(name: str, jbb: Sequence[str]) -> dict[str, Any]:
    """Every figure of the card, for the model as it was and with the adapter."""
    models = {"demo": cna_lens.load_model("demo"), name: cna_lens.load_model(name)}
    asked = unseen_requests(jbb)
    refused: dict[str, dict[str, list[bool]]] = {}
    rows: list[dict[str, Any]] = []
    for title, prompts in asked.items():
        refused[title] = {
            model: metrics.evaluate(
                models[model], prompts, max_new_tokens=MAX_NEW_TOKENS, progress=True
            ).refused
            for model in models
        }
        rates = {model: asdict(cna_lens.wilson(r)) for model, r in refused[title].items()}
        rows.append({"refused": title, **rates})
    for task in ("capitals", "agreement"):
        right = {
            model: metrics.factual_accuracy(models[model], cna_lens.prompt_set(task))
            for model in models
        }
        rows.append(
            {"right": task, **{m: asdict(cna_lens.wilson(each)) for m, each in right.items()}}
        )
    return {
        "refusals_and_accuracy": rows,
        "perplexity": _perplexity(models, name),
        "log_odds": {
            model: _log_odds_against_keywords(models[model], asked, refused, model)
            for model in models
        },
        "weights_sha256": {model: cna_lens.weights_hash(models[model]) for model in models},
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def _perplexity(models: dict[str, Any], name: str) -> dict[str, Any]:
    """Geometric means over neutral passages, and their ratio with its paired interval."""
    passages = NEUTRAL.read_text(encoding="utf-8").splitlines()
    logs = {
        model: [math.log(p) for p in metrics.text_perplexity(models[model], passages) if p]
        for model in models
    }
    change = cna_lens.paired_bootstrap(logs["demo"], logs[name])
    if change.low is None or change.high is None:
        raise ValueError("a single passage has no interval")
    return {
        "passages": len(passages),
        **{model: math.exp(sum(values) / len(values)) for model, values in logs.items()},
        "ratio": {
            "value": math.exp(change.value),
            "low": math.exp(change.low),
            "high": math.exp(change.high),
        },
    }


def _log_odds_against_keywords(
    model: Any,
    asked: dict[str, Sequence[str]],
    refused: dict[str, dict[str, list[bool]]],
    name: str,
) -> dict[str, Any]:
    """How well the first token's log-odds predict the refusals that keywords find in answers."""
    log_odds: list[float] = []
    labels: list[bool] = []
    for title, prompts in asked.items():
        log_odds += metrics.refusal_log_odds(model, prompts)
        labels += refused[title][name]
    yes = [value for value, label in zip(log_odds, labels, strict=True) if label]
    no = [value for value, label in zip(log_odds, labels, strict=True) if not label]
    return {
        "n": len(labels),
        "refused": len(yes),
        "spearman": float(spearmanr(log_odds, labels).statistic),
        "area_under_roc": auroc(yes, no),
    }
