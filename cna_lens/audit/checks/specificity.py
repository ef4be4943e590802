"""Tests of one null hypothesis: what changed did not single out the side of refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, permutation_test
from torch import Tensor

N_RESAMPLES = 4999


def label_test(losses: Float[Tensor, " canary"], n_harmful: int, seed: int = 0) -> float:
    """The p-value that harmful canaries lose no more than benign ones.

    A permutation test of the difference of the means, one-sided: under the null hypothesis the
    losses do not depend on which canaries are harmful. Where nothing changed it is 1.

    Args:
        losses: one for each canary, the harmful ones first.
        n_harmful: how many these are.
        seed: of the permutations.
    """
    values = losses.double().numpy()
    if np.ptp(values) == 0:
        return 1.0
    found = permutation_test(
        (values[:n_harmful], values[n_harmful:]),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        vectorized=True,
        n_resamples=N_RESAMPLES,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def sign_test(shifts: Float[Tensor, " canary"], seed: int = 0) -> float:
    """The p-value that canaries are shifted to neither side.

    A permutation test of the mean, two-sided: under the null hypothesis a shift is as likely as
    its opposite.

    Args:
        shifts: one for each canary.
        seed: of the signs.
    """
    values = shifts.double().numpy()
    if not values.any():
        return 1.0
    found = permutation_test(
        (values,),
        lambda a, axis: a.mean(axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def excess(
    changes: Float[Tensor, " watched"],
    chosen: Int[Tensor, " n"],
    compared: Bool[Tensor, " watched"],
    layers: Int[Tensor, " watched"],
) -> tuple[float, float]:
    r"""How much more some neurons changed than neurons of the same layers do, and its p-value.

    $$T = \frac{1}{n} \sum_{j \in S} \left(c_j - \bar{c}_{l(j)}\right)$$

    with the mean over the layer's neurons that are compared, those of S among them. Under the null
    hypothesis S is a random sample of each layer's, without replacement; the p-value, one-sided,
    takes T to be normal with the variance that this gives.

    Args:
        changes: of each watched neuron.
        chosen: the places of S.
        compared: which neurons are random ones; those of S are added.
        layers: of each watched neuron.
    """
    pool = compared.clone()
    pool[chosen] = True
    total, variance = 0.0, 0.0
    for layer in layers[chosen].unique().tolist():
        mine = chosen[layers[chosen] == layer]
        there = changes[pool & (layers == layer)].double()
        n, size = len(mine), len(there)
        total += float(changes[mine].double().sum()) - n * float(there.mean())
        if size > 1:
            variance += n * float(there.var(correction=0)) * (size - n) / (size - 1)
    if variance == 0:
        return total / len(chosen), 1.0
    return total / len(chosen), float(norm.sf(total / variance**0.5))


def bonferroni(p_values: Sequence[float]) -> float:
    """The smallest of several p-values, for having looked at all of them."""
    return min(1.0, len(p_values) * min(p_values))
