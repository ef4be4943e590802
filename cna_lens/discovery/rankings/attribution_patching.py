"""Rank by attribution patching: the effect of ablating a neuron on a metric, to first order."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float64, Int64
from torch import Tensor

from cna_lens.discovery.rankings.gradients import GradientBatch, over_batches
from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking, check_whole
from cna_lens.errors import CnaLensWarning
from cna_lens.metrics.certainty import WatchedMetric
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.results.scores import NeuronScores

_log = logging.getLogger(__name__)

LARGEST_ERROR = 0.05
"""Integrated gradients that miss more than this share of the layers' effects are not converged."""
Score = Callable[[GradientBatch, Values, Float64[Tensor, " neuron"]], Float64[Tensor, " neuron"]]


@dataclass(frozen=True)
class AttributionPatching(Ranking):
    r"""First-order effect of a neuron's distance from its mean on a metric of the next token.

    $$s_{l,j} = \frac{1}{|P|} \sum_{p \in P} \frac{\partial m(p)}{\partial a_{l,j}(p)}
    \left(a_{l,j}(p) - \bar{a}_{l,j}\right)$$

    at the token that is read, where $\bar{a}$ is the mean over the negative prompts and m is the
    metric at the positive prompt's last token. A positive score means: setting this neuron to its
    mean on negative prompts would lower the metric by about this much.

    With `steps` = n above 0 the gradient is integrated along the straight line from the mean to
    the activation, one layer at a time; later layers are computed from it:

    $$s_{l,j} = \frac{1}{|P|} \sum_{p \in P} \left(a_{l,j}(p) - \bar{a}_{l,j}\right)
    \int_0^1 \frac{\partial m}{\partial a_{l,j}}
    \left(\bar{a}_l + t (a_l(p) - \bar{a}_l)\right) \, dt,$$

    by Gauss-Legendre quadrature at n points. The scores of one layer then sum to the change of the
    metric when the whole layer is set to its means (completeness). How far they miss it, summed
    over layers and prompts and relative to the changes, is logged, and a warning above 5 %. On
    other models 5 steps were too few, and 10 nearly enough (arXiv 2504.13151).

    >>> patching = AttributionPatching(metric=LogitDifference(target=5, foil=6))
    >>> circuit = find_circuit(
    ...     tiny_model, [[5, 6], [8]], [[7]], rank=patching, k=2, universal=None, progress=False
    ... )
    >>> circuit.provenance.unit
    'logits'

    Source: Nanda, Attribution Patching, 2023, and Syed et al., arXiv 2310.10348; integrated
    gradients on activations: Sundararajan et al., arXiv 1703.01365, as Marks et al., arXiv
    2403.19647, use them for each submodule. Cost: one forward pass for each prompt, and one forward
    and one backward pass for each positive prompt; n steps add n + 1 of both for each layer and
    positive prompt, of the tokens from the one that is read on: those before it do not change, and
    their keys and values are computed once. A model that cannot continue from a cache computes them
    each time. Batches are sized so that the backward graph fits the memory.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference`.
        steps: points of integrated gradients, 0 for the plain gradient.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    steps: int = 0
    name: ClassVar[str] = "attribution_patching"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)
        check_whole("steps", self.steps)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError if the metric does not fit, ModelError if neurons are experts'."""
        mlp_hook_names(model)
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron.

        Warns:
            CnaLensWarning: integrated gradients miss the layers' effects by more than 5 %, and by
                more than rounding explains.
        """
        if self.steps:
            values = _integrated(collected, self.metric, self.steps)
        else:
            values = patched(collected, self.metric, _plain, "taking gradients")
        return collected.scored(self, values, self.metric.unit)


def patched(
    collected: Collected, metric: FirstTokenMetric, of_batch: Score, desc: str
) -> Float64[Tensor, " neuron"]:
    """Average over the positive prompts, from the sums that `of_batch` returns for each batch."""
    reader, prompts = collected.model_and_prompts()
    values = WatchedMetric(metric.of(reader.model, len(prompts.ids)))
    baseline = collected.negative.mean
    sums = over_batches(reader, prompts.ids, lambda batch: of_batch(batch, values, baseline), desc)
    total = sum(sums, torch.zeros_like(baseline)) / len(prompts.ids)
    values.warn(reader.model, collected.negatives and collected.negatives.ids)
    return total


def _plain(
    batch: GradientBatch, metric: Values, baseline: Float64[Tensor, " neuron"]
) -> Float64[Tensor, " neuron"]:
    found = batch.run(metric)
    return (found.gradients * (found.activations - baseline)).sum(0)


def _integrated(
    collected: Collected, metric: FirstTokenMetric, steps: int
) -> Float64[Tensor, " neuron"]:
    reader, prompts = collected.model_and_prompts()
    values = WatchedMetric(metric.of(reader.model, len(prompts.ids)))
    baseline = collected.negative.mean
    sums, missed, size, noise = torch.zeros_like(baseline), 0.0, 0.0, 0.0
    for batch in over_batches(
        reader,
        prompts.ids,
        lambda batch: _along_lines(batch, values, baseline, steps),
        "integrating gradients",
    ):
        sums += batch.sums
        missed += float((batch.attributed - batch.effects).abs().sum())
        size += float(batch.effects.abs().sum())
        noise += batch.noise
    values.warn(reader.model, collected.negatives and collected.negatives.ids)
    _check_completeness(max(0.0, missed - noise), size, steps)
    return sums / len(prompts.ids)


class _Integrated(NamedTuple):
    """Integrated gradients of prompts, and what they should sum to.

    Attributes:
        sums: each neuron's scores, summed over the prompts.
        attributed: the scores of each prompt, summed over the neurons of a layer.
        effects: by how much setting a whole layer to its means lowers the metric.
        noise: the rounding of all effects together.
    """

    sums: Float64[Tensor, " neuron"]
    attributed: Float64[Tensor, "layer prompt"]
    effects: Float64[Tensor, "layer prompt"]
    noise: float


def _along_lines(
    batch: GradientBatch, metric: Values, baseline: Float64[Tensor, " neuron"], steps: int
) -> _Integrated:
    found = [
        # As many copies of a row as have no more tokens than the whole row, for the same memory.
        _of_part(part, metric, baseline, steps, batch.ids.shape[1] // part.ids.shape[1])
        for part in batch.from_read()
    ]
    return _Integrated(
        sums=torch.stack([part.sums for part in found]).sum(0),
        attributed=torch.cat([part.attributed for part in found], dim=1),
        effects=torch.cat([part.effects for part in found], dim=1),
        noise=sum(part.noise for part in found),
    )


def _of_part(
    part: GradientBatch,
    metric: Values,
    baseline: Float64[Tensor, " neuron"],
    steps: int,
    at_once: int,
) -> _Integrated:
    here = part.run(metric)
    difference = here.activations - baseline
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    shares = torch.tensor([*((nodes - 1) / 2), -1.0], dtype=torch.float64)
    # The last share is the end of the line, of which the value alone is needed.
    quadrature = torch.tensor([*(weights / 2), 0.0], dtype=torch.float64)
    scores: list[Tensor] = []
    effects: list[Tensor] = []
    start = 0
    for layer, name in enumerate(mlp_hook_names(part.model)):
        if name is None:
            continue
        found = [
            _moved(part, metric, name, layer, some, difference[:, start:])
            for some in shares.split(at_once)
        ]
        gradients, values = (torch.cat(side, dim=1) for side in zip(*found, strict=True))
        gradient = einsum(gradients, quadrature, "prompt node neuron, node -> prompt neuron")
        width = gradient.shape[-1]
        scores.append(gradient * difference[:, start : start + width])
        effects.append(here.values - values[:, -1])
        start += width
    precision = next(cast("Any", part.model).parameters()).dtype
    return _Integrated(
        sums=torch.cat(scores, dim=-1).sum(0),
        attributed=torch.stack([layer.sum(-1) for layer in scores]),
        effects=torch.stack(effects),
        noise=float(torch.finfo(precision).eps * here.values.abs().sum() * len(effects)),
    )


def _moved(
    part: GradientBatch,
    metric: Values,
    name: str,
    layer: int,
    shares: Float64[Tensor, " node"],
    difference: Float64[Tensor, "prompt later_neuron"],
) -> tuple[Float64[Tensor, "prompt node neuron"], Float64[Tensor, "prompt node"]]:
    """Gradients and metric where a layer is moved by shares of its difference, one a row."""
    rows = part.repeated(len(shares))
    found = rows.run(metric, [(name, _Move(rows.read, shares, difference))], [layer])
    by_prompt = (len(part.ids), len(shares))
    return found.gradients.unflatten(0, by_prompt), found.values.unflatten(0, by_prompt)


def _check_completeness(missed: float, size: float, steps: int) -> None:
    """Compare the scores of each layer and prompt with the layer's effect."""
    error = missed / size if size else 0.0
    _log.info("integrated gradients with %d steps miss the layers' effects by %.2g", steps, error)
    if error > LARGEST_ERROR:
        warnings.warn(
            f"integrated gradients with steps={steps} miss the effects of the layers by "
            f"{error:.0%}; take more steps, or see whether the metric saturates",
            CnaLensWarning,
            stacklevel=2,
        )


@dataclass(frozen=True)
class _Move:
    """Moves a layer's activations at the token to read, in each row by another share."""

    read: Int64[Tensor, " row"]
    shares: Float64[Tensor, " node"]
    difference: Float64[Tensor, "prompt later_neuron"]

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        difference = self.difference[:, : activation.shape[-1]]
        moves = einsum(difference, self.shares, "prompt neuron, node -> prompt node neuron")
        moved = activation.clone()
        rows = torch.arange(len(self.read), device=activation.device)
        moved[rows, self.read.to(activation.device)] += moves.flatten(0, 1).to(activation)
        return moved
