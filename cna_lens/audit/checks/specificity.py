"""Tests of the null hypothesis that a change did not target refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, permutation_test
from torch import Tensor

N_RESAMPLES = 4999


def label_test(losses: Float[Tensor, " canary"], n_harmful: int, seed: int = 0) -> float:
    """The p-value of the null hypothesis that harmful canaries lose no more than benign ones.

    A one-sided permutation test of the difference between the means: under the null hypothesis the
    losses do not depend on which canaries are harmful. The p-value is 1 if all losses are equal.

    Args:
        losses: one for each canary, the harmful ones first.
        n_harmful: the number of harmful canaries.
        seed: seed of the permutations.
    """
    values = losses.double().numpy()
    if np.ptp(values) == 0:
        return 1.0
    return _p_value(
        (values[:n_harmful], values[n_harmful:]),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        seed,
        alternative="greater",
    )


def sign_test(shifts: Float[Tensor, " canary"], seed: int = 0) -> float:
    """The p-value of the null hypothesis that canaries are shifted to neither side.

    A two-sided permutation test of the mean: under the null hypothesis a shift and its opposite are
    equally likely. The p-value is 1 if all shifts are 0.

    Args:
        shifts: one for each canary.
        seed: seed of the signs.
    """
    values = shifts.double().numpy()
    if not values.any():
        return 1.0
    return _p_value((values,), lambda a, axis: a.mean(axis), seed, permutation_type="samples")


def _p_value(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int, **settings: Any
) -> float:
    found = permutation_test(
        samples,
        statistic,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(seed),
        **settings,
    )
    return float(found.pvalue)


def excess(
    changes: Float[Tensor, " watched"],
    chosen: Int[Tensor, " n"],
    compared: Bool[Tensor, " watched"],
    layers: Int[Tensor, " watched"],
) -> tuple[float, float]:
    r"""How much more some neurons changed than others of their layers, and its p-value.

    $$T = \frac{1}{n} \sum_{j \in S} \left(c_j - \bar{c}_{l(j)}\right)$$

    where the mean is over the compared neurons of the layer, including those of S. Under the null
    hypothesis S is a random sample without replacement from the compared neurons of each layer. The
    one-sided p-value takes T as normal with the variance of such samples.

    Args:
        changes: the change of each watched neuron.
        chosen: the places of S.
        compared: True for random neurons; those of S are added.
        layers: the layer of each watched neuron.
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
    """The smallest of several p-values, corrected for their number."""
    return min(1.0, len(p_values) * min(p_values))
