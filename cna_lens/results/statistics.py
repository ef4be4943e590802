"""Rates and means with confidence intervals, and McNemar's test for paired outcomes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from cna_lens.errors import InputError

Floats = NDArray[np.float64]
Value = TypeVar("Value")
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


def wilson(outcomes: Sequence[bool | float], confidence: float = 0.95) -> Rate:
    """The share of true outcomes with Wilson's score interval.

    >>> print(wilson([True] * 3 + [False] * 7))
    30.0 % [10.8, 60.3] n=10

    Where an example was tried several times, its outcome is the share of successes. The interval is
    that of one trial for each example, which is never too narrow: repeating a trial adds less
    certainty than another example does.

    >>> print(wilson([0.5, 0.25, 0.75, 0.5]))
    50.0 % [15.0, 85.0] n=4

    Args:
        outcomes: for each example whether it is a success, or its share of successes.
        confidence: confidence level of the interval.

    Raises:
        InputError: there are no outcomes, one is no share, or the confidence is outside (0, 1).
    """
    if not outcomes:
        raise InputError("there are no outcomes; a rate needs at least one outcome")
    _check_shares(outcomes)
    check_probability("confidence", confidence)
    n, successes = len(outcomes), sum(outcomes)
    if successes != int(successes):
        return _wilson_of_shares(float(successes / n), n, confidence)
    from scipy.stats import binomtest

    test = binomtest(int(successes), n)
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Rate(float(successes / n), float(interval.low), float(interval.high), n)


def _check_shares(outcomes: Sequence[bool | float]) -> None:
    for place, outcome in enumerate(outcomes):
        if not 0 <= outcome <= 1:
            raise InputError(
                f"outcome {place} is {outcome}, expected True, False, or a share from 0 to 1"
            )


def _wilson_of_shares(share: float, n: int, confidence: float) -> Rate:
    """Wilson's formula, which SciPy has for whole numbers of successes only."""
    from scipy.stats import norm

    z = float(norm.isf((1 - confidence) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Rate(share, middle - half, middle + half, n)


@dataclass(frozen=True)
class Estimate:
    """A mean over examples with its confidence interval.

    >>> print(Estimate(value=0.91, low=0.88, high=0.94, n=58, missing=2))
    0.91 [0.88, 0.94] n=58, 2 missing

    Attributes:
        value: the mean over the examples that have a value.
        low: lower end of the interval; None for a single example or an infinite mean.
        high: upper end of the interval; None for a single example or an infinite mean.
        n: number of examples with a value.
        missing: number of examples without a value; they never count as 0.
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


def bootstrap_mean(
    values: Sequence[float | None],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over examples with its percentile bootstrap interval.

    An example without a value (None) does not enter the mean; it is counted as missing. If a value
    is infinite, so is the mean, and there is no interval.

    >>> bootstrap_mean([1.0, 1.0, None, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0, n=3, missing=1)

    Args:
        values: one value for each example.
        confidence: confidence level of the interval.
        n_resamples: number of bootstrap resamples of the examples.
        seed: seed of the resampling.

    Raises:
        InputError: no example has a value, or the confidence is outside (0, 1).
    """
    check_probability("confidence", confidence)
    present = [float(value) for value in values if value is not None]
    missing = len(values) - len(present)
    if not present:
        raise InputError(f"a mean needs at least one value, {missing} of {missing} are missing")
    if not all(map(math.isfinite, present)):
        return Estimate(sum(present), None, None, len(present), missing)
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
    """The mean change of the examples, after minus before, with its bootstrap interval.

    Whole pairs are resampled, so that differences between examples cancel. A pair without one of
    its values is missing.

    >>> paired_bootstrap([0.5, 1.0, None], [0.25, 0.75, 1.0])
    Estimate(value=-0.25, low=-0.25, high=-0.25, n=2, missing=1)

    Args:
        before: one value for each example.
        after: the same examples' values under the other condition.
        confidence: confidence level of the interval.
        n_resamples: number of bootstrap resamples of the pairs.
        seed: seed of the resampling.

    Raises:
        InputError: the two have different lengths, no pair is complete, or the confidence is
            outside (0, 1).
    """
    if len(before) != len(after):
        raise InputError(f"paired values need one length, got {len(before)} and {len(after)}")
    changes = [
        None if b is None or a is None else change_of(b, a)
        for b, a in zip(before, after, strict=True)
    ]
    return bootstrap_mean(changes, confidence=confidence, n_resamples=n_resamples, seed=seed)


def change_of(before: float, after: float) -> float:
    """After minus before; 0 if both are the same infinity.

    >>> change_of(-math.inf, -math.inf), change_of(1.0, -math.inf)
    (0.0, -inf)
    """
    return 0.0 if before == after else after - before


def bootstrap_share(
    values: Sequence[float],
    start: Sequence[float],
    end: Sequence[float],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    r"""How far a mean has gone from a start to an end, with its percentile bootstrap interval.

    $$\frac{\bar v - \bar s}{\bar e - \bar s}$$

    The same examples stand behind all three means, and are resampled together. There is no interval
    where some resample has one mean at the start and at the end.

    >>> bootstrap_share([1.0, 1.0], [0.0, 0.0], [2.0, 2.0])
    Estimate(value=0.5, low=0.5, high=0.5, n=2, missing=0)

    Args:
        values: one value for each example.
        start: the same examples' values that count as 0.
        end: those that count as 1; their mean must differ from the start's.
        n_resamples: number of bootstrap resamples of the examples.
        seed: seed of the resampling.

    Raises:
        InputError: there are no examples, the three have different lengths, or start and end have
            one mean.
    """
    lengths = {len(each) for each in (values, start, end)}
    if len(lengths) > 1 or 0 in lengths:
        raise InputError(
            f"a share needs three values for each example, got {len(values)}, {len(start)} and "
            f"{len(end)}"
        )
    samples = tuple(np.asarray(each, dtype=np.float64) for each in (values, start, end))
    value = float(_share(samples[0], samples[1], samples[2]))
    if np.isnan(value):
        raise InputError(
            f"start and end both have the mean {samples[1].mean():.4g}; there is no share of a way "
            "that has no length"
        )
    if len(values) == 1:
        return Estimate(value, None, None, 1)
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        # A resample without a share makes both ends not a number, which is told below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            samples,
            _share,
            paired=True,
            vectorized=True,
            n_resamples=n_resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if np.isnan([interval.low, interval.high]).any():
        return Estimate(value, None, None, len(values))
    return Estimate(value, float(interval.low), float(interval.high), len(values))


def _share(values: Floats, start: Floats, end: Floats, axis: int = -1) -> Any:
    gone, way = (np.asarray((each - start).mean(axis)) for each in (values, end))
    # Plus 0, so that no way at all is 0 and not -0.
    return np.divide(gone, way, out=np.full_like(way, np.nan), where=way != 0) + 0.0


def mcnemar(
    before: Sequence[bool | float],
    after: Sequence[bool | float],
    *,
    alternative: Alternative = "changed",
) -> float:
    """The exact p-value of McNemar's test for paired outcomes.

    Only pairs that changed count. Under the null hypothesis each of them is as likely to have
    changed one way as the other: a binomial test. Where an example was tried several times, its
    outcome is the share of successes, and the test is the sign test.

    >>> mcnemar([True] * 6 + [False] * 4, [False] * 10)
    0.03125
    >>> mcnemar([True] * 6 + [False] * 4, [False] * 10, alternative="fewer")
    0.015625

    Args:
        before: for each example whether it is a success, or its share of successes.
        after: the same examples' outcomes under the other condition.
        alternative: the alternative hypothesis: outcomes "changed" in one direction more than in
            the other, or "fewer" are true.

    Raises:
        InputError: the two have different lengths, one outcome is no share, or the alternative is
            unknown.
    """
    if alternative not in get_args(Alternative):
        raise InputError(
            f"alternative is {alternative!r}, expected one of {', '.join(get_args(Alternative))}"
        )
    if len(before) != len(after):
        raise InputError(f"paired outcomes need one length, got {len(before)} and {len(after)}")
    for outcomes in (before, after):
        _check_shares(outcomes)
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    gained = sum(a > b for b, a in zip(before, after, strict=True))
    if not lost + gained:
        return 1.0
    side = "greater" if alternative == "fewer" else "two-sided"
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained, alternative=side).pvalue)


def mcnemar_of_known(
    before: Sequence[bool | float | None], after: Sequence[bool | float | None]
) -> float | None:
    """The p-value of `mcnemar` on the pairs of which both outcomes are known.

    >>> mcnemar_of_known([True] * 6 + [None], [False] * 7)
    0.03125
    >>> mcnemar_of_known([None, True], [True, None]) is None
    True

    Returns:
        The p-value, or None if no pair is known: a test of nothing has no p-value.

    Raises:
        InputError: the two have different lengths.
    """
    pairs = known_pairs(before, after)
    return mcnemar([one for one, _ in pairs], [other for _, other in pairs]) if pairs else None


def wilson_of_known(outcomes: Sequence[bool | float | None]) -> Rate | None:
    """The share of true outcomes among the known ones; None if none is known.

    >>> print(wilson_of_known([True, None, False]))
    50.0 % [9.5, 90.5] n=2
    """
    known = [outcome for outcome in outcomes if outcome is not None]
    return wilson(known) if known else None


def known_pairs(
    before: Sequence[Value | None], after: Sequence[Value | None]
) -> list[tuple[Value, Value]]:
    """The pairs of which both values are known.

    >>> known_pairs([1, None, 3], [4, 5, None])
    [(1, 4)]

    Raises:
        InputError: the two have different lengths.
    """
    if len(before) != len(after):
        raise InputError(f"paired values need one length, got {len(before)} and {len(after)}")
    return [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if one is not None and other is not None
    ]


def check_probability(name: str, value: float) -> None:
    """Raise InputError unless a setting lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise InputError(f"{name} is {value}, expected between 0 and 1")
