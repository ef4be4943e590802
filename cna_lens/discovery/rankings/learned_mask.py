"""Rank by a learned mask: which neurons end the behaviour together, and change little else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.rankings.mask_training import MaskRanking
from cna_lens.discovery.rankings.soft_top_k import soft_top_k
from cna_lens.errors import InputError


@dataclass(frozen=True)
class LearnedMask(MaskRanking):
    r"""Scores learned by gradient descent through a mask that ablates about k neurons at once.

    Each neuron has a score s. A step draws k and ablates every neuron by a share,

    $$b_i = \sigma\left(\frac{s_i - \tau}{T}\right), \qquad \sum_i b_i = k, \qquad
    a_i \leftarrow (1 - b_i) \, a_i + b_i \, r_i,$$

    at all positions. Here r is 0, or the neuron's mean on negative prompts at the token that is
    read. The threshold τ is found by bisection. The loss is

    $$\frac{1}{n} \sum_p \max(\text{floor}, m(p)) +
    \lambda \, \mathrm{KL}(p_\text{unchanged} \,\|\, p_\text{masked})$$

    with the metric m of positive prompts p. The divergence is taken along the unchanged model's
    answers to negative prompts. It separates the cause of a behaviour from what merely breaks the
    model. k is drawn anew each step, so that one run orders the neurons for many sizes. T falls
    geometrically, so that the mask comes near the hard set that a circuit is.

    The scores start as logarithms of `SquaredAttribution`, standardized to a deviation of the
    first T. Most neurons are hardly moved by the steps, so that they stay in this order. If all
    started at 0, they would stay in none.

    A score is larger the earlier a neuron enters the set; the lowest is 0.

    >>> mask = LearnedMask(
    ...     LogitDifference(target=5, foil=6), steps=5, fractions=(0.02, 0.1), answer_tokens=0
    ... )
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], mask)
    >>> float(scores.values.min())
    0.0

    Source: Matryoshka Attribution, arXiv 2609.25518, for MLP neurons; the start, the divergence on
    negative prompts, the clamp and the falling temperature are ours. Cost: that of
    `SquaredAttribution`; answers to the negative prompts; two forward passes over all prompts; then
    each step takes one forward and one backward pass over `batch_size` positive and as many
    negative prompts, all in memory at once. The unchanged model's predictions on the negative
    prompts are kept: n prompts, `answer_tokens` + 1 tokens and the vocabulary, in float32.

    All other settings are those of every mask, see `MaskRanking`; `kl_weight` is λ.

    Attributes:
        fractions: the smallest and largest k, as shares of all neurons. The logarithm of k is drawn
            evenly between the two.
        temperatures: T at the first and at the last step.
    """

    fractions: tuple[float, float] = (0.001, 0.02)
    temperatures: tuple[float, float] = (0.25, 0.05)
    name: ClassVar[str] = "learned_mask"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        super().__post_init__()
        for name, most, range_ in (
            ("fractions", 1, "between 0 and 1"),
            ("temperatures", math.inf, "above 0"),
        ):
            given = getattr(self, name)
            if len(given) != 2 or not all(0 < value < most for value in given):
                raise InputError(f"{name} is {given}, expected two numbers {range_}")
        if self.fractions[0] > self.fractions[1]:
            raise InputError(f"fractions is {self.fractions}, expected the smaller number first")

    def begun_at(self, order: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
        """The order, with a deviation of the first temperature."""
        return self.temperatures[0] * order

    def mask(
        self, scores: Float64[Tensor, " neuron"], step: int, drawn: float
    ) -> tuple[Float64[Tensor, " neuron"], float]:
        """About the first k neurons; nothing is added to the loss."""
        low, high = (math.log(fraction * len(scores)) for fraction in self.fractions)
        first, last = self.temperatures
        temperature = first * (last / first) ** (step / max(1, self.steps - 1))
        return soft_top_k(scores, math.exp(low + (high - low) * drawn), temperature), 0.0
