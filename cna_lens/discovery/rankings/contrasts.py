"""Rankings by means and variances of activations: one forward pass a prompt, no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.projections import output_vectors
from cna_lens.results.scores import NeuronScores

Part = Literal["activation", "routing"]

CONSTANT = 1e-6
"""Below this share of its mean a neuron's deviation is only float rounding."""


@dataclass(frozen=True)
class Contrast(Ranking):
    r"""Difference of the mean activations at the chosen token, the paper's ranking.

    $$\delta_{l,j} = \frac{1}{|P|} \sum_{p \in P} a_{l,j}(p)
    - \frac{1}{|N|} \sum_{n \in N} a_{l,j}(n)$$

    Source: arXiv 2605.12290, method, step 3. Cost: one forward pass for each prompt.
    """

    name: ClassVar[str] = "contrast"
    needs: ClassVar[Needs] = "statistics"

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        return collected.scored(self, _delta(collected))


@dataclass(frozen=True)
class ContrastPart(Ranking):
    r"""The part of the contrast that comes from activation, or the part that comes from routing.

    A neuron's mean is the frequency f with which its expert runs, times its mean $\mu$ over the
    prompts on which the expert does. The difference of two means is the sum of

    $$\frac{f^+ + f^-}{2} (\mu^+ - \mu^-) \quad\text{and}\quad
      (f^+ - f^-) \frac{\mu^+ + \mu^-}{2}.$$

    the part of activation and the part of routing. Where an expert never runs on one side, its
    neurons are given the means of the other side, so that all of their difference is in routing.
    Neurons that every token passes differ in activation alone.

    Source: Kitagawa, Components of a Difference Between Two Rates (Journal of the American
    Statistical Association 50, 1955). Cost: one forward pass for each prompt.

    >>> ContrastPart("routing").name
    'contrast_part'

    Attributes:
        part: "activation" or "routing"; the scores of both sum to those of `Contrast`.
    """

    part: Part = "activation"
    name: ClassVar[str] = "contrast_part"
    needs: ClassVar[Needs] = "statistics"

    def __post_init__(self) -> None:
        """Reject another part."""
        if self.part not in get_args(Part):
            raise InputError(f"part is {self.part!r}, expected one of {', '.join(get_args(Part))}")

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        positive, negative = collected.positive, collected.negative
        f_plus, f_minus = _frequency(positive), _frequency(negative)
        mu_plus = positive.mean_where_routed.where(f_plus > 0, negative.mean_where_routed)
        mu_minus = negative.mean_where_routed.where(f_minus > 0, mu_plus)
        if self.part == "activation":
            values = (f_plus + f_minus) / 2 * (mu_plus - mu_minus)
        else:
            values = (f_plus - f_minus) * (mu_plus + mu_minus) / 2
        return collected.scored(self, values)


@dataclass(frozen=True)
class Standardized(Ranking):
    r"""The difference of means, in units of the neuron's own standard deviation.

    $$s_{l,j} = \frac{\delta_{l,j}}{\sigma_{l,j}}, \qquad \sigma_{l,j}^2 =
    \frac{\sum_{p \in P} (a(p) - \bar{a}_P)^2 + \sum_{n \in N} (a(n) - \bar{a}_N)^2}
    {|P| + |N| - 2}$$

    Late layers have larger activations; here they cannot win by magnitude alone. A neuron that is
    constant within both sets has no deviation, and scores 0.

    >>> layout = Layout((2,))
    >>> positive = ActivationStats.of(torch.tensor([[3.0, 1.0], [5.0, 1.0]]), layout)
    >>> negative = ActivationStats.of(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), layout)
    >>> rank(positive, negative, "standardized").values  # 3 / sqrt(2), and a constant
    tensor([2.1213, 0.0000], dtype=torch.float64)

    Source: Cohen's d (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988). Cost:
    one forward pass for each prompt.
    """

    name: ClassVar[str] = "standardized"
    needs: ClassVar[Needs] = "statistics"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError where there are too few prompts for a deviation."""
        _check_prompts(n_positive + n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        positive, negative = collected.positive, collected.negative
        n_prompts = positive.count + negative.count
        _check_prompts(n_prompts)
        pooled = (positive.squared_deviations + negative.squared_deviations) / (n_prompts - 2)
        deviation = pooled.sqrt()
        size = torch.maximum(positive.mean.abs(), negative.mean.abs())
        varies = deviation > CONSTANT * size
        values = torch.where(varies, _delta(collected) / deviation.where(varies, 1.0), 0.0)
        return collected.scored(self, values, "standard deviations")


@dataclass(frozen=True)
class OutputWeighted(Ranking):
    r"""The difference of means, times the length that one unit of activation writes.

    $$s_{l,j} = \delta_{l,j} \, \| W^{\text{out}}_{l,j} \|_2$$

    where $W^{\text{out}}_{l,j}$ is the vector of the down projection that the neuron is multiplied
    with. The score is the length by which the difference moves the residual stream; where a norm
    stands behind the MLP, as in Gemma 2 and 3, that is before this norm. If norms are folded into a
    model's weights (HookedTransformer), the folded weights count, because the model computes with
    them.

    Source: the direct effect of an MLP neuron on the residual stream (Elhage et al., A Mathematical
    Framework for Transformer Circuits, 2021). Cost: one forward pass for each prompt.
    """

    name: ClassVar[str] = "output_weighted"
    needs: ClassVar[Needs] = "weights"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise ModelError where a down projection cannot be read."""
        _output_norms(model)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        values = _delta(collected) * _output_norms(collected.model)
        return collected.scored(self, values, "length in the residual stream")


def _output_norms(model: HookedModel) -> Float64[Tensor, " neuron"]:
    return torch.cat([vectors.norm(dim=1) for vectors in output_vectors(model, "output_weighted")])


@dataclass(frozen=True)
class RandomScores(Ranking):
    r"""The null ranking: scores drawn from the standard normal distribution.

    $$s_{l,j} \sim \mathcal{N}(0, 1)$$

    Its circuits pass the same filter, quota and size as any other. Comparing them with a ranking's
    circuits shows the contribution of the ranking itself. For a control of one circuit see
    `matched_random`.

    Source: a control, not a method. Cost: one forward pass for each prompt, of which only the
    number of neurons is used.

    Attributes:
        seed: the seed of the random numbers.
    """

    seed: int = 0
    name: ClassVar[str] = "random"
    needs: ClassVar[Needs] = "statistics"

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        generator = torch.Generator().manual_seed(self.seed)
        n_neurons = collected.positive.layout.n_neurons
        values = torch.randn(n_neurons, generator=generator, dtype=torch.float64)
        return collected.scored(self, values, "none")


def _delta(collected: Collected) -> Float64[Tensor, " neuron"]:
    return collected.positive.mean - collected.negative.mean


def _frequency(stats: ActivationStats) -> Float64[Tensor, " neuron"]:
    return torch.ones_like(stats.mean) if stats.routing is None else stats.routing.neuron_frequency


def _check_prompts(n_prompts: int) -> None:
    if n_prompts < 3:
        raise InputError(
            "standardized divides by the deviation within the sets, which needs at least 3 prompts "
            f"in both together; there are {n_prompts}"
        )
