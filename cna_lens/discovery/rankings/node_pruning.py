"""Rank by pruning: each neuron is ablated by chance, and every ablated neuron has a price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.rankings.mask_training import MaskRanking
from cna_lens.errors import InputError

TEMPERATURE: Final = 2 / 3
"""β of the hard concrete distribution."""
STRETCH: Final = (-0.1, 1.1)
"""The interval that is cut to [0, 1]."""


@dataclass(frozen=True)
class NodePruning(MaskRanking):
    r"""Scores learned by gradient descent through hard concrete gates, with a price a neuron.

    Each neuron has a score s. A step draws a u from 0 to 1 for each, and ablates it by a share,

    $$b_i = \min\left(1, \max\left(0, \gamma + (\zeta - \gamma) \, \sigma\left(
    \frac{s_i + \log u_i - \log(1 - u_i)}{\beta}\right)\right)\right), \qquad
    a_i \leftarrow (1 - b_i) \, a_i + b_i \, r_i,$$

    with $\beta = 2/3$, $\gamma = -0.1$ and $\zeta = 1.1$, so that shares of exactly 0 and 1 occur.
    The loss is that of `LearnedMask` and a price for the expected share of neurons that are ablated
    at all,

    $$\text{price} \cdot \frac{1}{N} \sum_i P(b_i > 0), \qquad
    P(b_i > 0) = \sigma\left(s_i - \beta \log \frac{-\gamma}{\zeta}\right).$$

    The number of neurons follows from the price; `LearnedMask` sets it instead. The scores start as
    standardized logarithms of `SquaredAttribution`, moved so that the expected share is `fraction`.

    >>> pruning = NodePruning(
    ...     LogitDifference(target=5, foil=6), steps=5, fraction=0.1, answer_tokens=0
    ... )
    >>> float(score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], pruning).values.min())
    0.0

    Source: node pruning, arXiv 2512.10903, by the gates of Louizos et al., arXiv 1712.01312. There
    the neurons that are kept are few; here those that are ablated. The start is ours. Cost: that of
    `LearnedMask`.

    All other settings are those of every mask, see `MaskRanking`.

    Attributes:
        learning_rate: of Adam; four times that of `LearnedMask`, since the scores start four times
            as far apart.
        fraction: the expected share of ablated neurons at the start.
        price: of ablating all neurons, in nats.
    """

    learning_rate: float = 0.2
    fraction: float = 0.01
    price: float = 100.0
    name: ClassVar[str] = "node_pruning"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction is {self.fraction}, expected a number between 0 and 1")
        if not 0 <= self.price < math.inf:
            raise InputError(f"price is {self.price}, expected a number from 0 on")

    def begun_at(self, order: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
        """The order, moved so that `fraction` of the neurons are expected to be ablated."""
        low = -order.max() - 50
        high = -order.min() + 50
        for _ in range(80):
            middle = (low + high) / 2
            too_many = ablated(order + middle).mean() > self.fraction
            low, high = torch.where(too_many, low, middle), torch.where(too_many, middle, high)
        return order + (low + high) / 2

    def mask(
        self, scores: Float64[Tensor, " neuron"], step: int, drawn: float
    ) -> tuple[Float64[Tensor, " neuron"], Float64[Tensor, ""]]:
        """A drawn share of each neuron, and the price."""
        # The step's own number makes each step's draws follow from the seed, also after a restart.
        generator = torch.Generator().manual_seed(int(drawn * 2**53) + step)
        noise = torch.rand(len(scores), dtype=torch.float64, generator=generator).logit(1e-9)
        low, high = STRETCH
        shares = low + (high - low) * ((scores + noise) / TEMPERATURE).sigmoid()
        return shares.clamp(0, 1), self.price * ablated(scores).mean()


def ablated(scores: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
    """The probability that each neuron is ablated at all."""
    low, high = STRETCH
    return (scores - TEMPERATURE * math.log(-low / high)).sigmoid()
