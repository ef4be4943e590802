"""Intervals for rates."""

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
