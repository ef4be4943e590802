"""Rank by perturbation probing: what a neuron's change writes directly towards the behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking
from cna_lens.errors import InputError
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, check_metric
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.projections import output_vectors
from cna_lens.results.scores import NeuronScores


@dataclass(frozen=True)
class PerturbationProbing(Ranking):
    r"""The difference of means, times what the neuron writes directly towards the behaviour.

    $$s_{l,j} = \delta_{l,j} \; d \cdot W^{\text{out}}_{l,j}, \qquad
    d = W_U^\top \nabla_z m(0)$$

    where $\delta$ is the difference of mean activations between positive and negative prompts,
    $W^{\text{out}}_{l,j}$ the vector that the neuron is multiplied with, and $W_U$ the unembedding.
    For `LogOdds`, d is the mean row of the openings' first tokens less the mean row of all others;
    for `LogitDifference`, the target's row less the foil's. Blocks and norms between the neuron and
    the logits are left out, so that the score is a guess at a direct effect.

    The negative prompts are the perturbed ones: close to the positive ones, and without the
    behaviour. For refusals, the authors swap adjacent letters of the request.

    >>> probing = PerturbationProbing(LogitDifference(target=5, foil=6))
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], probing)
    >>> scores.unit
    'logits'

    Source: arXiv 2604.27401, with the formula of its first author's program
    (`github.com/phunterlau/perturber`). There the tokens to compare with are named, and here
    `LogOdds` takes all others. Cost: one forward pass for each prompt.

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
            ModelError: a down projection cannot be read.
        """
        _direction(model, self.metric, n_positive)
        for _ in output_vectors(model, self.name):
            pass

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        model = collected.model
        towards = _direction(model, self.metric, collected.positive.count).cpu().double()
        written = torch.cat([vectors @ towards for vectors in output_vectors(model, self.name)])
        delta = collected.positive.mean - collected.negative.mean
        return collected.scored(self, delta * written, self.metric.unit)


def _direction(
    model: HookedModel, metric: FirstTokenMetric, n_prompts: int
) -> Float[Tensor, " d_model"]:
    """The direction in the residual stream that raises the metric most, from equal logits."""
    unembed = cast("Any", model).unembed
    weight = next(unembed.parameters())
    with torch.enable_grad():
        stream = torch.zeros(
            (1, 1, int(model.cfg.d_model)),
            dtype=weight.dtype,
            device=weight.device,
            requires_grad=True,
        )
        logits = unembed(stream)[0]
        (direction,) = torch.autograd.grad(
            logits, stream, _slope(model, metric, n_prompts).to(logits)
        )
    return direction[0, 0]


def _slope(
    model: HookedModel, metric: FirstTokenMetric, n_prompts: int
) -> Float[Tensor, "1 d_vocab"]:
    """The gradient of the metric with respect to the logits, where all of them are equal."""
    values = metric.of(model, n_prompts)
    with torch.enable_grad():
        found: list[Tensor] = []
        for place in range(n_prompts):
            logits = torch.zeros(1, int(model.cfg.d_vocab), requires_grad=True)
            (slope,) = torch.autograd.grad(values(logits, [place]).sum(), logits)
            found.append(slope)
            if not torch.equal(slope, found[0]):
                raise InputError(
                    f"metric is {metric!r}, which differs between prompts, and "
                    "perturbation_probing takes one for all; give one target and one foil"
                )
    return found[0]
