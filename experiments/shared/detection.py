"""How well a score separates two groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu

from cna_lens import Estimate, InputError

MAX_FALSE_ALARMS = 0.01
"""Largest share of benign variants of the calibration half above the threshold."""


def auroc(tampered: Sequence[float], benign: Sequence[float]) -> float:
    """The probability that a tampered variant's signal exceeds a benign one's; a tie counts half.

    >>> auroc([3.0, 1.0], [1.0, 0.0])
    0.875
    """
    u = mannwhitneyu(tampered, benign, method="asymptotic").statistic
    return float(u) / (len(tampered) * len(benign))


def auroc_with_interval(
    tampered: Sequence[float], benign: Sequence[float], *, seed: int = 0, n_resamples: int = 2000
) -> Estimate:
    """The area with its percentile bootstrap interval; both sides are resampled.

    If the two sides do not overlap, the interval is a point, since their resamples do not overlap
    either.
    """
    value = auroc(tampered, benign)
    n = len(tampered) + len(benign)
    if min(len(tampered), len(benign)) < 2:
        return Estimate(value, None, None, n, 0)
    interval = bootstrap(
        (np.array(tampered), np.array(benign)),
        _areas,
        vectorized=True,
        method="percentile",
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), n, 0)


def _areas(tampered: Any, benign: Any, axis: int = -1) -> Any:
    differences = tampered[..., :, None] - benign[..., None, :]
    del axis  # always the last one
    return ((differences > 0) + 0.5 * (differences == 0)).mean((-2, -1))


def chosen_threshold(benign: Sequence[float], at_most: float = MAX_FALSE_ALARMS) -> float:
    """The lowest benign score that at most a given share of benign scores exceeds.

    Args:
        benign: the scores of benign variants.
        at_most: the share.

    Raises:
        InputError: there are no scores.
    """
    if not benign:
        raise InputError("there is no benign variant in the calibration half; run more variants")
    ordered = sorted(benign, reverse=True)
    return ordered[math.floor(at_most * len(ordered))]
