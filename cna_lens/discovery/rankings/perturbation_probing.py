"""Rank by perturbation probing: what a neuron's change writes directly towards the behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking
from cna_lens.errors import InputError, ModelError
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.projections import output_vectors
from cna_lens.results.scores import NeuronScores


@dataclass(frozen=True)
class PerturbationProbing(Ranking):
    r"""The difference of means, times what the neuron writes directly towards the behaviour.

    $$s_{l,j} = \delta_{l,j} \; d \cdot W^{\text{out}}_{l,j}$$

    where $\delta$ is the difference of mean activations between positive and negative prompts,
    $W^{\text{out}}_{l,j}$ the vector that the neuron is multiplied with, and d a direction of the
    unembedding: for `LogOdds`, the mean vector of the openings' first tokens less that of all other
    tokens; for `LogitDifference`, the target's vector less the foil's. That is the gradient of the
    metric through the unembedding where all logits are equal. Blocks and norms between the neuron
    and the logits are left out, so that the score is a guess at a direct effect. If norms are
    folded into a model's weights (HookedTransformer), the folded weights count.

    The negative prompts are the perturbed ones: close to the positive ones, and without the
    behaviour. For refusals, the authors swap adjacent letters of the request.

    >>> probing = PerturbationProbing(LogitDifference(target=5, foil=6))
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], probing)
    >>> scores.unit
    'logits'

    Source: arXiv 2604.27401; the formula is that of a public program that implements it
    (`github.com/phunterlau/perturber`). There the original prompt's activations are subtracted, so
    that the sign is the other one, and the tokens to compare with are named, where `LogOdds` takes
    all others. Cost: one forward pass for each prompt.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference` with one target and one foil for all prompts.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    name: ClassVar[str] = "perturbation_probing"
    needs: ClassVar[Needs] = "weights"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model or a metric that the ranking cannot use.

        Raises:
            InputError: the metric does not fit, or is another one for each prompt.
            ModelError: a down projection or the unembedding cannot be read, or there is a norm
                behind an MLP, as in Gemma 2 and 3.
        """
        _direction(model, self.metric, n_positive)
        for _ in output_vectors(model, self.name):
            pass

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        model = collected.model
        towards = _direction(model, self.metric, collected.positive.count)
        written = torch.cat([vectors @ towards for vectors in output_vectors(model, self.name)])
        delta = collected.positive.mean - collected.negative.mean
        return collected.scored(self, delta * written, self.metric.unit)


def _direction(
    model: HookedModel, metric: FirstTokenMetric, n_prompts: int
) -> Float64[Tensor, " d_model"]:
    """The direction in the residual stream that raises the metric most, from equal logits."""
    parts = cast("Any", model)
    if behind := [n for n, block in enumerate(parts.blocks) if getattr(block, "ln2_post", None)]:
        raise ModelError(
            f"{model_name(model)} has a norm behind the MLP of layer {behind[0]}, so that a neuron "
            "does not write its output vector; use another ranking than perturbation_probing"
        )
    unembedding = getattr(parts.unembed, "W_U", None)
    if not isinstance(unembedding, Tensor) or unembedding.is_meta:
        raise ModelError(
            f"the unembedding of {model_name(model)} is quantised or offloaded; "
            "perturbation_probing needs its numbers, use another ranking"
        )
    rows = unembedding.detach().cpu().double()
    return rows @ _slope(metric.of(model, n_prompts), n_prompts, rows.shape[1], metric)


def _slope(
    values: Values, n_prompts: int, d_vocab: int, metric: FirstTokenMetric
) -> Float64[Tensor, " d_vocab"]:
    """The gradient of the metric with respect to the logits, where all of them are equal."""
    first: Tensor | None = None
    with torch.inference_mode(mode=False), torch.enable_grad():
        for place in range(n_prompts):
            logits = torch.zeros(1, d_vocab, requires_grad=True)
            (slope,) = torch.autograd.grad(values(logits, [place]).sum(), logits)
            first = slope if first is None else first
            if not torch.equal(slope, first):
                raise InputError(
                    f"metric is {metric!r}, which differs between prompts, and "
                    "perturbation_probing takes one for all; give one target and one foil"
                )
    return cast("Tensor", first)[0].double()
