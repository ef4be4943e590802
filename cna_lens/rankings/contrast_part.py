"""The contrast of a model with experts, told apart: of routing, and of activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.moments import ActivationStats
from cna_lens.rankings.protocol import Collected, Needs, Ranking
from cna_lens.results.scores import NeuronScores

Part = Literal["activation", "routing"]


@dataclass(frozen=True)
class ContrastPart(Ranking):
    r"""What of the contrast is a difference in activation, and what one in routing.

    A neuron's mean is the frequency f with which its expert runs, times its mean $\mu$ over the
    prompts on which it does. The difference of two means is the sum of

    $$\frac{f^+ + f^-}{2} (\mu^+ - \mu^-) \quad\text{and}\quad
      (f^+ - f^-) \frac{\mu^+ + \mu^-}{2}.$$

    Where an expert never runs on one side, its neurons' means there are taken to be those of the
    other, so that all of the difference is one in routing. Neurons that every token passes differ
    in activation alone.

    Source: Kitagawa, Components of a Difference Between Two Rates (Journal of the American
    Statistical Association 50, 1955). Cost: one forward pass for each prompt.

    >>> ContrastPart("routing").name
    'contrast_part'

    Attributes:
        part: "activation" or "routing"; their scores sum to those of `Contrast`.
    """

    part: Part = "activation"
    name: ClassVar[str] = "contrast_part"
    needs: ClassVar[Needs] = "statistics"

    def __post_init__(self) -> None:
        """Refuse another part."""
        if self.part not in get_args(Part):
            raise InputError(f"part is {self.part!r}, expected one of {', '.join(get_args(Part))}")

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        often, often_without = map(_frequency, (collected.positive, collected.negative))
        mean = collected.positive.mean_where_routed
        mean_without = collected.negative.mean_where_routed
        mean = mean.where(often > 0, mean_without)
        mean_without = mean_without.where(often_without > 0, mean)
        if self.part == "activation":
            values = (often + often_without) / 2 * (mean - mean_without)
        else:
            values = (often - often_without) * (mean + mean_without) / 2
        return collected.scored(self, values)


def _frequency(stats: ActivationStats) -> Float64[Tensor, " neuron"]:
    return torch.ones_like(stats.mean) if stats.routing is None else stats.routing.neuron_frequency
