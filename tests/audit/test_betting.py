"""The sequential test: its capital by hand, its false alarms, and what it finds."""

import itertools
import random

import pytest

from cna_lens.audit.identity.betting import STAKES, capitals, least_changed


def by_hand(changed, likely):
    """The mean of the gamblers' capitals, each at the odds of each answer."""
    total = 0.0
    for stake in STAKES:
        capital = 1.0
        for is_changed, p in zip(changed, likely, strict=True):
            capital = capital * (1 - stake) + (capital * stake / p if is_changed else 0.0)
        total += capital
    return total / len(STAKES)


def test_the_capital_is_that_of_bets_at_fair_odds():
    # n p = 2: after one answer that stayed, 2 of the 9 others may be changed, then 2 of 8; the
    # change found then leaves 1 of 7, which is less than p.
    changed, likely = [False, False, True, True], [0.2, 2 / 9, 2 / 8, 0.2]
    found = capitals(changed, rate=0.2, n=10)
    assert found == pytest.approx([by_hand(changed[:t], likely[:t]) for t in range(1, 5)])


def test_every_bet_is_fair_where_as_many_are_changed_as_the_null_hypothesis_allows():
    """The mean capital over all orders of 3 changed among 10 is at most 1, at every length."""
    n, changed = 10, 3
    orders = list(itertools.combinations(range(n), changed))
    courses = [capitals([at in order for at in range(n)], changed / n, n) for order in orders]
    for course in zip(*courses, strict=True):
        assert sum(course) / len(course) <= 1 + 1e-9
    first = sum(course[0] for course in courses) / len(courses)
    assert first == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.04, 0.1, 0.2])
def test_false_alarms_are_as_rare_as_stated_in_random_order_and_for_independent_answers(rate):
    draw, n, trials = random.Random(0), 50, 4000
    alarms = {"order": 0, "independent": 0}
    for _ in range(trials):
        order = [place < round(rate * n) for place in range(n)]
        draw.shuffle(order)
        alarms["order"] += max(capitals(order, rate, n)) >= 20
        independent = [draw.random() < rate for _ in range(n)]
        alarms["independent"] += max(capitals(independent, rate, n)) >= 20
    # Three standard deviations above the stated 5 %.
    assert max(alarms.values()) / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_many_changed_answers_raise_the_alarm_soon():
    course = capitals([True] * 10, rate=0.07, n=50)
    assert next(at for at, capital in enumerate(course, 1) if capital >= 100) == 3
    assert least_changed(0.07, 50, 0.01) == 3
    for rate in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        least = least_changed(rate, 50, 0.01)
        before, after = capitals([True] * least, rate, 50)[-2:]
        assert before < 100 <= after
    assert least_changed(0.07, 50, 0.001) == 4
    assert least_changed(0.07, 2, 0.01) is None


def test_nothing_can_be_won_where_every_answer_may_be_changed():
    assert capitals([True, False, True], rate=1.0, n=3) == [1.0, 1.0, 1.0]
    assert capitals([], rate=0.1, n=3) == []
