"""Intervals for rates and means, and tests for paired ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cna_lens.errors import InputError

Alternative = Literal["changed", "fewer"]


@dataclass(frozen=True)
class Rate:
    """A share of successes in n trials with its confidence interval.

    >>> print(Rate(value=0.2, low=0.13, high=0.29, n=100))
    20.0 % [13.0, 29.0] n=100
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """The rate and its interval in per cent."""
        value, low, high = 100 * self.value, 100 * self.low, 100 * self.high
        return f"{value:.1f} % [{low:.1f}, {high:.1f}] n={self.n}"


@dataclass(frozen=True)
class Estimate:
    """A mean over examples with its confidence interval.

    >>> print(Estimate(value=0.91, low=0.88, high=0.94, n=58, missing=2))
    0.91 [0.88, 0.94] n=58, 2 missing

    Attributes:
        value: the mean of the examples that have a value.
        low: lower end of the interval, None for a single example.
        high: upper end of the interval, None for a single example.
        n: examples with a value.
        missing: examples without one; never counted as 0.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    missing: int = 0

    def __str__(self) -> str:
        """The mean and its interval."""
        unknown = self.low is None or self.high is None
        interval = "[?, ?]" if unknown else f"[{self.low:.3g}, {self.high:.3g}]"
        missing = f", {self.missing} missing" if self.missing else ""
        return f"{self.value:.3g} {interval} n={self.n}{missing}"


def wilson(outcomes: Sequence[bool], confidence: float = 0.95) -> Rate:
    """The share of true outcomes with Wilson's score interval.

    >>> print(wilson([True] * 3 + [False] * 7))
    30.0 % [10.8, 60.3] n=10

    Raises:
        InputError: no outcomes, or a confidence outside (0, 1).
    """
    if not outcomes:
        raise InputError("a rate needs at least one outcome, there are none")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected between 0 and 1")
    from scipy.stats import binomtest

    successes = sum(map(bool, outcomes))
    test = binomtest(successes, len(outcomes))
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Rate(successes / len(outcomes), float(interval.low), float(interval.high), len(outcomes))


def mcnemar(
    before: Sequence[bool], after: Sequence[bool], *, alternative: Alternative = "changed"
) -> float:
    """The exact p-value that paired outcomes change in both directions equally often.

    Only pairs that changed count; under the null hypothesis each is as likely to have changed one
    way as the other (McNemar's test, as an exact binomial test).

    >>> mcnemar([True] * 6 + [False] * 4, [False] * 10)
    0.03125
    >>> mcnemar([True] * 6 + [False] * 4, [False] * 10, alternative="fewer")
    0.015625

    Args:
        before: one outcome for each example.
        after: the same examples' outcomes under the other condition.
        alternative: what would be found: the outcomes "changed" either way, or "fewer" are true.

    Raises:
        InputError: the two have different lengths, or an unknown alternative.
    """
    if alternative not in get_args(Alternative):
        raise InputError(
            f"alternative is {alternative!r}, expected one of {', '.join(get_args(Alternative))}"
        )
    if len(before) != len(after):
        raise InputError(f"paired outcomes need one length, got {len(before)} and {len(after)}")
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    if not lost + gained:
        return 1.0
    from scipy.stats import binomtest

    side = "greater" if alternative == "fewer" else "two-sided"
    return float(binomtest(lost, lost + gained, alternative=side).pvalue)


def bootstrap_mean(
    values: Sequence[float | None],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over examples with its percentile bootstrap interval.

    An example without a value (None) is missing: left out of the mean, and counted.

    >>> bootstrap_mean([1.0, 1.0, None, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0, n=3, missing=1)

    Args:
        values: one for each example.
        confidence: of the interval.
        n_resamples: bootstrap resamples of the examples.
        seed: for the resampling.

    Raises:
        InputError: no example has a value, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected between 0 and 1")
    present = [float(value) for value in values if value is not None]
    missing = len(values) - len(present)
    if not present:
        raise InputError(f"a mean needs at least one value, {missing} of {missing} are missing")
    if len(present) == 1:
        return Estimate(present[0], None, None, 1, missing)
    from scipy.stats import bootstrap

    resampled = bootstrap(
        (np.array(present),),
        np.mean,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = resampled.confidence_interval
    return Estimate(float(np.mean(present)), float(low), float(high), len(present), missing)


def paired_bootstrap(
    before: Sequence[float | None],
    after: Sequence[float | None],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean change of each example, after minus before, with its bootstrap interval.

    Whole pairs are resampled, so that what an example always contributes cancels. A pair with a
    missing side is missing.

    >>> paired_bootstrap([0.5, 1.0, None], [0.25, 0.75, 1.0])
    Estimate(value=-0.25, low=-0.25, high=-0.25, n=2, missing=1)

    Args:
        before: one value for each example.
        after: the same examples' values under the other condition.
        confidence: of the interval.
        n_resamples: bootstrap resamples of the pairs.
        seed: for the resampling.

    Raises:
        InputError: the two have different lengths, or no pair is complete.
    """
    if len(before) != len(after):
        raise InputError(f"paired values need one length, got {len(before)} and {len(after)}")
    changes = [
        None if b is None or a is None else a - b for b, a in zip(before, after, strict=True)
    ]
    return bootstrap_mean(changes, confidence=confidence, n_resamples=n_resamples, seed=seed)
