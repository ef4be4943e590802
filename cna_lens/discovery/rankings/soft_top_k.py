"""A differentiable mask of about the k highest scores."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

BISECTIONS = 80


def soft_top_k(
    scores: Float64[Tensor, " neuron"], k: float, temperature: float
) -> Float64[Tensor, " neuron"]:
    r"""A mask that sums to k, and is largest where scores are.

    $b_i = \sigma((s_i - \tau) / T)$ with the τ for which the mask sums to k. τ moves with the
    scores, and the derivative accounts for it:

    $$\frac{\partial b_i}{\partial s_j} = \frac{b_i (1 - b_i)}{T} \left(\delta_{ij} -
    \frac{b_j (1 - b_j)}{\sum_l b_l (1 - b_l)}\right)$$

    >>> soft_top_k(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 1.5, 0.5).sum()
    tensor(1.5000, dtype=torch.float64)

    Args:
        scores: of each neuron.
        k: the sum, above 0 and below the number of neurons.
        temperature: T.

    Source: arXiv 2609.25518.
    """
    with torch.no_grad():
        reach = temperature * (abs(math.log(k / (len(scores) - k))) + 40)
        low, high = scores.min() - reach, scores.max() + reach
        middle = (low + high) / 2
        for _ in range(BISECTIONS):
            too_many = ((scores - middle) / temperature).sigmoid().sum() > k
            low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
            middle = (low + high) / 2
        slope = _slope(((scores - middle) / temperature).sigmoid())
        share = slope / slope.sum().clamp(min=torch.finfo(slope.dtype).tiny)
    # The second summand is 0, and its derivative is that of the threshold.
    threshold = middle + (share * (scores - scores.detach())).sum()
    return ((scores - threshold) / temperature).sigmoid()


def _slope(mask: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
    return mask * (1 - mask)
