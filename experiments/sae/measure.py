"""An autoencoder's reconstruction, and the effect of ablating its features beside a circuit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sae_lens
import torch
from torch import Tensor

import cna_lens
from cna_lens import FeatureScaling, NeuronScaling, PromptSet, SparseAutoencoder, SteeringMethod
from cna_lens.metrics import kl_per_token
from cna_lens.models import HookedModel, model_name, whole_prompts
from cna_lens.results import Sign, library_versions
from experiments.sae.cost import cost
from experiments.sae.text import Texts, answered
from experiments.sae.train import RECORD, activations_of

SELECTIONS: tuple[tuple[float, Sign], ...] = ((0.001, "abs"), (0.01, "abs"), (0.01, "positive"))
"""Shares and signs: the paper's 0.1 %, which is two features of this autoencoder, and 1 %."""

HELD_OUT_TOKENS = 2_000
HELD_OUT_SEED = 1_000_000
"""Far from the seeds of the training text."""

MAX_NEW_TOKENS = 32


def measure(
    folder: Path,
    model: HookedModel,
    *,
    seed: int,
    command: str,
    limit: int | None = None,
) -> dict[str, Any]:
    """One row: the cost of training, the reconstruction, and the effect of steering by features.

    Args:
        folder: holds the autoencoder that `train` wrote.
        model: the model it was trained on.
        seed: of the controls and the intervals.
        command: the command line, for the record.
        limit: largest number of prompts of each kind.
    """
    training = json.loads((folder / RECORD).read_text())
    weights = cna_lens.weights_hash(model)
    if weights != training["weights_sha256"]:
        raise cna_lens.InputError(f"{folder} was trained on other weights than {model_name(model)}")
    sae = cna_lens.load_sae(folder)
    discovery = cna_lens.prompt_set("refusal")
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    harmful, benign = evaluation.positive[:limit], evaluation.negative[:limit]
    methods, found = steering_methods(model, sae, discovery, seed)
    comparison = cna_lens.compare(
        model,
        methods,
        PromptSet(evaluation.name, evaluation.purpose, harmful, benign),
        strengths=[1.0],
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return {
        "question": "what a sparse autoencoder costs and reconstructs, and what ablating the "
        "features that the contrast finds does, beside ablating neurons; everything at all tokens",
        "command": command,
        "model": model_name(model),
        "weights_sha256": weights,
        "seed": seed,
        "discovery_prompts": len(discovery.positive) + len(discovery.negative),
        "evaluation": {"positive": len(harmful), "negative": len(benign)},
        "max_new_tokens": MAX_NEW_TOKENS,
        "training": training,
        "finding": found,
        "reconstruction": reconstruction(model, sae, (*harmful, *benign), seed),
        "effect": [asdict(row) for row in comparison.rows],
        "threads": torch.get_num_threads(),
        "versions": dict(library_versions()) | {"sae-lens": sae_lens.__version__},
    }


def steering_methods(
    model: HookedModel, sae: SparseAutoencoder, discovery: PromptSet, seed: int
) -> tuple[list[SteeringMethod], list[dict[str, Any]]]:
    """Ablation of neurons and of features, each with a control, and the cost of finding them."""
    positive, negative = discovery.positive, discovery.negative
    cna_lens.collect(model, positive[:1])  # the first pass of all is slower
    methods: list[SteeringMethod] = []
    found: list[dict[str, Any]] = []
    for fraction, sign in SELECTIONS:
        chosen = f"{100 * fraction:g} %" + (f", {sign}" if sign != "abs" else "")
        with cost() as of_circuit:
            circuit = cna_lens.find_circuit(
                model, positive, negative, fraction=fraction, sign=sign, hash_weights=False
            )
        with cost() as of_features:
            features = cna_lens.sae_features(
                model, sae, positive, negative, fraction=fraction, sign=sign, progress=True
            )
        methods += [
            NeuronScaling(circuit, name=f"neurons, {chosen}"),
            NeuronScaling(cna_lens.matched_random(circuit, seed), name=f"random neurons, {chosen}"),
            FeatureScaling(features, name=f"features, {chosen}"),
            FeatureScaling(features.random(seed), name=f"random active features, {chosen}"),
        ]
        found += [
            {"what": f"{what}, {chosen}", "n": len(scores), **asdict(spent)}
            | {"positive_scores": sum(score > 0 for score in scores)}
            for what, scores, spent in (
                ("neurons", circuit.scores, of_circuit),
                ("features", features.scores, of_features),
            )
        ]
    return methods, found


def reconstruction(
    model: HookedModel, sae: SparseAutoencoder, prompts: Sequence[str], seed: int
) -> dict[str, Any]:
    """How well the autoencoder reconstructs activations on text that it was not trained on.

    The share of the KL divergence recovered is 1 less the divergence of replacing activations by
    their reconstruction over that of replacing them by zeros. Both spare the template, as training
    does.
    """
    hook_point: str = sae.cfg.metadata.hook_name
    texts = answered(model, prompts, HELD_OUT_TOKENS, HELD_OUT_SEED)
    x = torch.cat(list(activations_of(model, texts, hook_point)))
    with torch.no_grad():
        features = sae.encode(x)
        left = x - sae.decode(features)
    total = (x - x.mean(0)).double().square().sum()

    def kl_of_replacing(change: Callable[[Tensor], Tensor]) -> cna_lens.Estimate:
        values = _kl_of_replacing(model, hook_point, change, texts)
        return cna_lens.bootstrap_mean(values, seed=seed)

    by_sae = kl_of_replacing(lambda y: sae.decode(sae.encode(y)))
    by_zeros = kl_of_replacing(torch.zeros_like)
    return {
        "tokens": len(x),
        "explained_variance": 1 - float(left.double().square().sum() / total),
        "features_active_per_token": float((features != 0).double().sum(1).mean()),
        "features_never_active": int((features == 0).all(0).sum()),
        "kl_per_token_by_reconstruction": asdict(by_sae),
        "kl_per_token_by_zeros": asdict(by_zeros),
        "share_of_kl_recovered": 1 - by_sae.value / by_zeros.value,
    }


def _kl_of_replacing(
    model: HookedModel, hook_point: str, change: Callable[[Tensor], Tensor], texts: Texts
) -> list[float | None]:
    def replaced(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return torch.cat([x[:, : texts.template], change(x[:, texts.template :])], dim=1)

    # Each pass needs the template, which `replaced` skips.
    with whole_prompts():
        return kl_per_token(
            model,
            lambda: model.hooks(fwd_hooks=[(hook_point, replaced)]),
            list(map(list, texts.ids)),
        )
