"""Gradients of a refusal's log-odds with respect to weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from cna_lens import LogOdds
from cna_lens.metrics import REFUSAL_OPENINGS
from cna_lens.models import HookedModel, encode
from experiments.audit.weight_edits import weights_of


@contextmanager
def differentiable(model: HookedModel, names: Sequence[str] = ()) -> Generator[dict[str, Tensor]]:
    """Ask for gradients of some weights and of no others within the context, and give these."""
    weights = weights_of(model)
    before = {name: weight.requires_grad for name, weight in weights.items()}
    chosen = set(names)
    try:
        for name, weight in weights.items():
            weight.requires_grad_(name in chosen)
        with torch.enable_grad():
            yield {name: weights[name] for name in names}
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])


def refusal_gradient(
    model: HookedModel,
    prompts: Sequence[str],
    names: Sequence[str],
    openings: tuple[str, ...] = REFUSAL_OPENINGS,
) -> dict[str, Tensor]:
    r"""The gradient $\partial m / \partial w$, averaged over prompts.

    m is the log-odds that the first token of an answer opens a refusal.

    Args:
        model: a bridge.
        prompts: requests that are refused.
        names: the weights.
        openings: beginnings of refusals.
    """
    metric = LogOdds(openings).of(model, len(prompts))
    with differentiable(model, names) as weights:
        mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for place, ids in enumerate(encode(model, prompts).ids):
            logits = cast("Any", model)(torch.tensor([ids]))[:, -1]
            found = torch.autograd.grad(metric(logits, [place]).sum(), list(weights.values()))
            for total, gradient in zip(mean.values(), found, strict=True):
                total.add_(gradient, alpha=1 / len(prompts))
    return {name: gradient.detach() for name, gradient in mean.items()}
