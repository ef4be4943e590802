r"""A sequential test of how many answers have changed, by betting.

Each answer is either as before or changed. Under the null hypothesis at most a share $p$ of the
$n$ canaries is changed, and they are asked in random order; or each is changed with a probability
of at most $p$, whatever the earlier ones were. In both cases, after $t$ answers of which $k$ are
changed, the next one is changed with a probability of at most

$$p_t = \max\Big(p, \frac{n p - k}{n - t}\Big)$$

A gambler who stakes a share $\lambda$ of his capital on "changed", at the fair odds $1 / p_t$, has
a capital that is a supermartingale, and so has the mean of several such gamblers. The probability
that it ever reaches $1/\alpha$ is at most $\alpha$ (Ville 1939), whenever one looks at it. For
sampling without replacement see Waudby-Smith and Ramdas (NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

STAKES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""The shares of the capital that are staked, each by a gambler of his own."""


def capitals(changed: Sequence[bool], rate: float, n: int) -> list[float]:
    """The mean capital of the gamblers after each answer; all begin with 1.

    >>> [round(each, 2) for each in capitals([False, True, True], rate=0.5, n=10)]
    [0.73, 0.84, 1.03]

    Args:
        changed: whether each answer is another one, in the order in which they were asked.
        rate: the share of changed answers that the null hypothesis allows, above 0 and at most 1.
        n: the number of canaries that the answers are drawn from.
    """
    of_gamblers = [1.0] * len(STAKES)
    means: list[float] = []
    seen = 0
    for asked, is_changed in enumerate(changed):
        likely = min(1.0, max(rate, (n * rate - seen) / (n - asked)))
        pays = 1 / likely if is_changed else 0.0
        # At odds of 1 nothing can be won, so that nothing is staked.
        if likely < 1:
            of_gamblers = [
                capital * (1 - stake + stake * pays)
                for capital, stake in zip(of_gamblers, STAKES, strict=True)
            ]
        means.append(sum(of_gamblers) / len(of_gamblers))
        seen += is_changed
    return means


def least_changed(rate: float, n: int, false_alarm_rate: float) -> int | None:
    """The smallest number of changed answers, all before any other, that raises the alarm.

    >>> least_changed(0.05, n=50, false_alarm_rate=0.01)
    3

    Args:
        rate: as for `capitals`.
        n: as for `capitals`.
        false_alarm_rate: the largest probability of an alarm under the null hypothesis.

    Returns:
        None if even n changed answers raise none.
    """
    for asked, capital in enumerate(capitals([True] * n, rate, n), start=1):
        if capital >= 1 / false_alarm_rate:
            return asked
    return None
