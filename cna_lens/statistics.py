"""Intervals for rates, and a test for paired ones."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from cna_lens.errors import InputError
from cna_lens.types import Rate


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
    successes = sum(map(bool, outcomes))
    test = binomtest(successes, len(outcomes))
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Rate(successes / len(outcomes), float(interval.low), float(interval.high), len(outcomes))


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """The exact p-value that paired outcomes change in both directions equally often.

    Only pairs that changed count; under the null hypothesis each is as likely to have changed one
    way as the other (McNemar's test, as an exact binomial test).

    >>> mcnemar([True] * 6 + [False] * 4, [False] * 10)
    0.03125

    Raises:
        InputError: the two have different lengths.
    """
    if len(before) != len(after):
        raise InputError(f"paired outcomes need one length, got {len(before)} and {len(after)}")
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
