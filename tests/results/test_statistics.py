import math
from fractions import Fraction
from statistics import NormalDist

import jaxtyping
import pytest
from hypothesis import given, settings, strategies as st

from cna_lens import InputError, Rate, mcnemar, wilson
from cna_lens.results.statistics import known_pairs, mcnemar_of_known, wilson_of_known


def outcomes(successes, n):
    return [True] * successes + [False] * (n - successes)


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    rate = wilson(outcomes(successes, n))
    assert (rate.value, rate.n) == (successes / n, n)
    assert round(rate.low, 4) == low
    assert round(rate.high, 4) == high


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.5, 0.999))
@settings(deadline=None)
def test_wilson_is_the_score_interval_of_the_textbook(given_outcomes, confidence):
    n, p = len(given_outcomes), sum(given_outcomes) / len(given_outcomes)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    rate = wilson(given_outcomes, confidence)
    assert rate.low == pytest.approx(middle - half, abs=1e-9)
    assert rate.high == pytest.approx(middle + half, abs=1e-9)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_a_confidence_outside_zero_to_one_is_refused(confidence):
    with pytest.raises(InputError, match=f"confidence is {confidence}, expected between 0 and 1"):
        wilson([True], confidence)


@pytest.mark.parametrize("outcome", [1.5, -1.0, math.nan])
def test_an_outcome_that_is_no_share_is_refused(outcome):
    for tested in (
        lambda: wilson([0.5, outcome]),
        lambda: mcnemar([True, outcome], [False, False]),
        lambda: mcnemar([True, False], [False, outcome]),
    ):
        with pytest.raises(InputError, match=f"outcome 1 is {outcome}, expected True, False, or"):
            tested()


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one outcome"):
        wilson([])


def test_a_rate_prints_in_per_cent_with_its_interval_and_count():
    assert str(Rate(0.345, 0.25, 0.4521, 99)) == "34.5 % [25.0, 45.2] n=99"


COUNTS = st.integers(0, 12)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.randoms())
@settings(deadline=None)
def test_mcnemar_is_a_fair_coin_for_each_pair_that_changed(lost, gained, kept, never, random):
    paired = [
        *[(True, False)] * lost,
        *[(False, True)] * gained,
        *[(True, True)] * kept,
        *[(False, False)] * never,
    ]
    random.shuffle(paired)
    before, after = [b for b, _ in paired], [a for _, a in paired]
    n = lost + gained

    def tail(counts):
        return sum(math.comb(n, i) for i in counts) / 2**n

    smaller = tail(range(min(lost, gained) + 1))
    assert mcnemar(before, after) == pytest.approx(min(1.0, 2 * smaller), rel=1e-9)
    fewer = mcnemar(before, after, alternative="fewer")
    assert fewer == pytest.approx(tail(range(lost, n + 1)), rel=1e-9)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_alternative_is_refused():
    with pytest.raises(InputError, match="alternative is 'less'"):
        mcnemar([True], [False], alternative="less")


def test_outcomes_that_do_not_pair_up_are_refused():
    with pytest.raises(InputError, match="got 3 and 2"):
        mcnemar([True] * 3, [True] * 2)


PAIRS = st.lists(st.tuples(*[st.sampled_from([True, False, None])] * 2), max_size=12)


@given(PAIRS)
def test_only_pairs_of_which_both_outcomes_are_known_are_tested(pairs):
    before, after = [one for one, _ in pairs], [other for _, other in pairs]
    known = [pair for pair in pairs if None not in pair]
    assert known_pairs(before, after) == known
    p_value = mcnemar_of_known(before, after)
    if known:
        assert p_value == mcnemar([one for one, _ in known], [other for _, other in known])
    else:
        assert p_value is None


def test_nothing_known_has_neither_a_p_value_nor_a_rate():
    assert mcnemar_of_known([None, None], [None, None]) is None
    assert mcnemar_of_known([True, None], [None, False]) is None
    assert wilson_of_known([None, None]) is None
    assert wilson_of_known([True, None, False]) == wilson([True, False])
    with pytest.raises(InputError, match="got 3 and 2"):
        mcnemar_of_known([True] * 3, [None] * 2)


@given(st.integers(1, 40), st.data())
def test_shares_of_repeated_trials_have_the_interval_of_one_trial_each(n, data):
    successes = data.draw(st.integers(0, n))
    expected = wilson([True] * successes + [False] * (n - successes))
    whole = wilson([successes / n] * n)
    assert whole.n == expected.n
    for name in ("value", "low", "high"):
        assert getattr(whole, name) == pytest.approx(getattr(expected, name), abs=1e-12)


def test_shares_are_compared_by_the_sign_test():
    before, after = [1.0, 0.75, 0.5, 0.5, 1.0, 0.25], [0.0, 0.5, 0.25, 0.5, 0.75, 0.5]
    # Four prompts have a smaller share, one has a greater one, and one has the same.
    assert mcnemar(before, after) == mcnemar([True] * 4 + [False] * 2, [False] * 5 + [True])
    assert mcnemar([False, *before], [False, *after]) == mcnemar(before, after)


def test_types_are_checked_unless_the_environment_says_otherwise():
    confidence = Fraction(9, 10)
    if jaxtyping.config.jaxtyping_disable:
        assert wilson([True, False], confidence) == wilson([True, False], 0.9)
    else:
        with pytest.raises(jaxtyping.TypeCheckError):
            wilson([True, False], confidence)
