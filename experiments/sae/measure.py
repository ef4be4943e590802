"""What an autoencoder reconstructs, and what ablating its features does beside a circuit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cna_lens
from cna_lens import Estimate, FeatureScaling, SaeFeatures, SteeringMethod
from cna_lens.baselines import SparseAutoencoder
from cna_lens.metrics import kl_per_token, refusal_log_odds
from cna_lens.positions import whole_prompts
from cna_lens.sites import HookedModel, model_name
from cna_lens.versions import library_versions
from experiments.sae.cost import cost
from experiments.sae.text import Texts, answered
from experiments.sae.train import RECORD, activations_of

HELD_OUT = 2_000
"""Tokens of text that was not trained on."""

Replacement = Callable[[Tensor], Tensor]


def measure(
    folder: Path,
    *,
    k: int,
    seed: int,
    command: str,
    limit: int | None = None,
    model: HookedModel | None = None,
) -> dict[str, Any]:
    """One row: what training cost, what is reconstructed, what steering by features does.

    Args:
        folder: where `train` has written.
        k: how many features are ablated.
        seed: of the controls, the held-out answers and the intervals.
        command: what was run, for the record.
        limit: only so many prompts of each kind.
        model: the demo model unless told otherwise.
    """
    model = model or cna_lens.load_model("demo")
    sae = cna_lens.load_sae(folder)
    training = json.loads((folder / RECORD).read_text())
    weights = cna_lens.weights_hash(model)
    if weights != training["weights_sha256"]:
        raise cna_lens.InputError(f"{folder} was trained on other weights than {model_name(model)}")
    discovery = cna_lens.prompt_set("refusal")
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    harmful, benign = evaluation.positive[:limit], evaluation.negative[:limit]

    positive, negative = discovery.positive, discovery.negative
    cna_lens.collect(model, positive[:1])  # the first pass of all is slower
    with cost() as finding_circuit:
        circuit = cna_lens.find_circuit(model, positive, negative, progress=False)
    with cost() as finding_features:
        features = cna_lens.sae_features(model, sae, positive, negative, k=k)

    methods: dict[str, SteeringMethod] = {
        "sae": FeatureScaling(features),
        "sae, random active features": FeatureScaling(features.random(seed), name="random"),
        "cna": cna_lens.ablation(circuit),
        "cna, random neurons": cna_lens.ablation(cna_lens.matched_random(circuit, seed)),
    }
    answers = cna_lens.generate(model, benign, max_new_tokens=24, progress=True)
    return {
        "command": command,
        "model": model_name(model),
        "weights_sha256": weights,
        "seed": seed,
        "training": training,
        "discovery": {
            "prompts": len(positive) + len(negative),
            "cna": {"neurons": len(circuit), **asdict(finding_circuit)},
            "sae": {"features": len(features), **asdict(finding_features)},
            "scores": dict(zip(map(str, features.indices), features.scores, strict=True)),
        },
        "reconstruction": reconstruction(model, sae, features, (*harmful, *benign), seed),
        "effect": effects(model, methods, harmful, benign, answers, seed),
        "threads": torch.get_num_threads(),
        "versions": dict(library_versions()),
    }


def effects(
    model: HookedModel,
    methods: Mapping[str, SteeringMethod],
    harmful: Sequence[str],
    benign: Sequence[str],
    answers: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """How each method at strength 1 changes the refusal log-odds, and what else it changes."""
    before = {
        "harmful": refusal_log_odds(model, harmful),
        "benign": refusal_log_odds(model, benign),
    }
    found: dict[str, Any] = {
        f"log-odds unsteered, {kind}": asdict(cna_lens.bootstrap_mean(values, seed=seed))
        for kind, values in before.items()
    }
    for name, method in methods.items():
        with method.at(model):
            after = {
                "harmful": refusal_log_odds(model, harmful),
                "benign": refusal_log_odds(model, benign),
            }
        changes: dict[str, Estimate] = {
            f"log-odds change, {kind}": cna_lens.paired_bootstrap(
                before[kind], after[kind], seed=seed
            )
            for kind in before
        }
        kl = kl_per_token(model, lambda method=method: method.at(model), benign, answers)
        changes["KL per token of benign answers"] = cna_lens.bootstrap_mean(kl, seed=seed)
        found[name] = {label: asdict(estimate) for label, estimate in changes.items()}
    return found


def reconstruction(
    model: HookedModel,
    sae: SparseAutoencoder,
    features: SaeFeatures,
    prompts: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """How much of text that was not trained on gets through the autoencoder.

    The share of the KL divergence recovered is that of replacing by zeros which replacing by the
    reconstruction does not cause. Both spare the template, as training does.
    """
    hook_point = features.hook_point
    texts = answered(model, prompts, n_tokens=HELD_OUT, seed=seed + 1_000_000, progress=True)
    x = torch.cat(list(activations_of(model, texts, hook_point)))
    with torch.no_grad():
        active = sae.encode(x)
        left = x - sae.decode(active)
    total = (x - x.mean(0)).double().square().sum()
    sae_kl = _kl_of_replacing(model, hook_point, lambda y: sae.decode(sae.encode(y)), texts)
    zero_kl = _kl_of_replacing(model, hook_point, torch.zeros_like, texts)
    mean_sae, mean_zero = (cna_lens.bootstrap_mean(kl, seed=seed) for kl in (sae_kl, zero_kl))
    return {
        "tokens": len(x),
        "explained_variance": 1 - float(left.double().square().sum() / total),
        "features_active_per_token": float((active != 0).double().sum(1).mean()),
        "features_never_active": int((active == 0).all(0).sum()),
        "KL per token, reconstruction": asdict(mean_sae),
        "KL per token, zeros": asdict(mean_zero),
        "share_of_KL_recovered": 1 - mean_sae.value / mean_zero.value,
    }


def _kl_of_replacing(
    model: HookedModel, hook_point: str, replace: Replacement, texts: Texts
) -> list[float | None]:
    def replaced(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return torch.cat([x[:, : texts.template], replace(x[:, texts.template :])], dim=1)

    # So that the template is in each pass.
    with whole_prompts():
        return kl_per_token(
            model,
            lambda: model.hooks(fwd_hooks=[(hook_point, replaced)]),
            [list(ids) for ids in texts.ids],
        )
