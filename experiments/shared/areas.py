"""Areas under the ROC curve, and balanced accuracies, whose intervals do not collapse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, norm

from cna_lens import Estimate, Rate


def delong_variance(tampered: Sequence[float], benign: Sequence[float]) -> float:
    r"""The variance of the area, by DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988, 837).

    $$\frac{s_{10}}{m} + \frac{s_{01}}{n}$$

    with $s_{10}$ the sample variance, over the m tampered scores, of the share of benign scores
    below each (a tie counts half), and $s_{01}$ that, over the n benign ones, of the share above.

    >>> delong_variance([3.0, 1.0], [1.0, 0.0])
    0.03125

    Args:
        tampered: at least two scores.
        benign: at least two scores.
    """
    return _variance(_ordered(tampered, benign))


def _ordered(tampered: ArrayLike, benign: ArrayLike) -> Any:
    """For each pair, whether the tampered score exceeds the benign one, averaged over rows."""
    above, below = np.atleast_2d(tampered), np.atleast_2d(benign)
    differences = above[:, :, None] - below[:, None, :]
    return ((differences > 0) + 0.5 * (differences == 0)).mean(0)


def _variance(ordered: Any) -> float:
    m, n = ordered.shape
    return float(ordered.mean(1).var(ddof=1) / m + ordered.mean(0).var(ddof=1) / n)


def area_with_interval(
    tampered: ArrayLike, benign: ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    r"""The area with DeLong's interval for its logit, which is never narrower than chance allows.

    $$\mathrm{logit}(A) \pm z \, \frac{\sqrt{V}}{A (1 - A)}$$

    Where the sides do not overlap, or all scores are tied, DeLong's variance is 0. The interval is
    then that of Clopper and Pearson for the smaller side's number of pairs, k: of k disjoint pairs,
    which are independent, all are ordered with a probability of at most $A^k$. An area below 1 is
    no better evidence than one of 1, so its lower end is not higher than there.

    >>> print(area_with_interval([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]))
    1 [0.292, 1] n=6

    Args:
        tampered: a score for each variant, or a row of scores for each repetition; the area is then
            the mean of those of the repetitions.
        benign: likewise, with as many rows.
        confidence: confidence level of the interval.

    Raises:
        ValueError: one side is empty.
    """
    ordered = _ordered(tampered, benign)
    k, n = min(ordered.shape), sum(ordered.shape)
    if k == 0:
        raise ValueError("an area needs scores on both sides")
    value = float(ordered.mean())
    tail = (1 - confidence) / 2
    variance = _variance(ordered) if k > 1 else 0.0
    if variance == 0:
        return Estimate(value, *_clopper_pearson(value, k, tail), n)
    reach = float(norm.isf(tail)) * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-each)) for each in (logit - reach, logit + reach))
    return Estimate(
        value,
        min(low, _clopper_pearson(1.0, k, tail)[0]),
        max(high, _clopper_pearson(0.0, k, tail)[1]),
        n,
    )


def _clopper_pearson(share: float, n: int, tail: float) -> tuple[float, float]:
    """The interval for a share of n trials, which need not be a whole number of successes."""
    ordered = share * n
    low = 0.0 if ordered == 0 else float(beta.ppf(tail, ordered, n - ordered + 1))
    high = 1.0 if ordered == n else float(beta.isf(tail, ordered + 1, n - ordered))
    return low, high


def balanced_accuracy(detected: Rate, false_alarms: Rate) -> Estimate:
    r"""The mean of the detection rate and of one minus the false-alarm rate, with its interval.

    $$\frac{p + q}{2} - \frac{1}{2} \sqrt{(p - l_p)^2 + (q - l_q)^2}$$

    is the lower end, with $q$ one minus the rate of false alarms and $l$ the lower ends of both
    rates' intervals; the upper end is alike. Both rates are independent; see Newcombe (Statistics
    in Medicine 17, 1998, 873), method 10. With Wilson's intervals it is no point at 1. Of 30 and 40
    variants, with rates of .5 to .99, it holds the truth with a probability of .925 to .96; where
    it does not, the truth is mostly above it.
    """
    p, q = detected.value, 1 - false_alarms.value
    below = math.hypot(p - detected.low, q - (1 - false_alarms.high)) / 2
    above = math.hypot(detected.high - p, 1 - false_alarms.low - q) / 2
    value = (p + q) / 2
    return Estimate(value, value - below, value + above, detected.n + false_alarms.n)
