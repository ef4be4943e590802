import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cna_lens import Estimate, InputError, bootstrap_mean, paired_bootstrap
from cna_lens.results.statistics import bootstrap_share

values = st.floats(-10, 10, allow_nan=False)


def test_the_interval_is_that_of_all_resamples_of_three_values():
    resamples = [np.mean(draw) for draw in itertools.product([0.0, 1.0, 5.0], repeat=3)]
    estimate = bootstrap_mean([0.0, 1.0, 5.0], confidence=0.8, n_resamples=20_000)
    assert estimate.value == 2.0
    assert estimate.low == pytest.approx(np.quantile(resamples, 0.1), abs=0.34)
    assert estimate.high == pytest.approx(np.quantile(resamples, 0.9), abs=0.34)


def test_the_interval_narrows_with_the_root_of_the_number_of_examples():
    few = bootstrap_mean([0.0, 1.0] * 20, n_resamples=4000)
    many = bootstrap_mean([0.0, 1.0] * 320, n_resamples=4000)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)


def test_missing_values_are_counted_and_never_zero():
    estimate = bootstrap_mean([1.0, None, 1.0, None, None])
    assert estimate == Estimate(1.0, 1.0, 1.0, n=2, missing=3)


def test_one_value_has_no_interval():
    estimate = bootstrap_mean([0.25, None])
    assert estimate == Estimate(0.25, None, None, n=1, missing=1)
    assert str(estimate) == "0.25 [?, ?] n=1, 1 missing"


@pytest.mark.parametrize("nothing", [[], [None, None]])
def test_no_value_at_all_is_refused(nothing):
    with pytest.raises(InputError, match=f"{len(nothing)} of {len(nothing)} are missing"):
        bootstrap_mean(nothing)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_outside_0_and_1_is_refused(confidence):
    with pytest.raises(InputError, match="expected between 0 and 1"):
        bootstrap_mean([1.0, 2.0], confidence=float(confidence))


@given(st.lists(values, min_size=2, max_size=12), st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_the_mean_lies_in_its_interval_and_the_seed_repeats_it(given_values, seed):
    first = bootstrap_mean(given_values, n_resamples=200, seed=seed, confidence=0.99)
    assert first == bootstrap_mean(given_values, n_resamples=200, seed=seed, confidence=0.99)
    assert min(given_values) - 1e-9 <= first.low <= first.high <= max(given_values) + 1e-9


def test_pairs_cancel_what_an_example_always_contributes():
    before = [0.0, 10.0, 20.0, 30.0, 40.0]
    after = [1.0, 11.1, 20.9, 31.0, 41.0]
    change = paired_bootstrap(before, after)
    assert change.value == pytest.approx(1.0)
    assert change.high - change.low < 0.2


def test_a_pair_with_one_side_missing_is_missing():
    change = paired_bootstrap([1.0, None, 3.0, 2.0], [2.0, 5.0, None, 4.0])
    assert (change.value, change.n, change.missing) == (1.5, 2, 2)


def test_pairs_of_different_length_are_refused():
    with pytest.raises(InputError, match="got 2 and 1"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_a_share_is_that_of_the_means_and_examples_are_resampled_together():
    # Each example has gone half of its own way, so that each resample has gone half of it too.
    start, end = [0.0, 1.0, 5.0, 2.0], [2.0, 5.0, 6.0, 9.0]
    values = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
    share = bootstrap_share(values, start, end)
    assert [share.value, share.low, share.high] == pytest.approx([0.5] * 3)
    spread = bootstrap_share([1.0, 0.0] * 20, [0.0] * 40, [1.0] * 40, n_resamples=4000)
    # Of n = 40 with p = .5 the standard error is .079, and 1.96 of them .155.
    assert [spread.low, spread.high] == pytest.approx(
        [0.5 - 1.96 * 0.079, 0.5 + 1.96 * 0.079], abs=0.02
    )


def test_a_share_has_no_interval_where_a_resample_has_no_way_to_go():
    share = bootstrap_share([0.5, 0.0], [1.0, 0.0], [0.0, 0.0])
    assert (share.value, share.low, share.high, share.n) == (0.5, None, None, 2)
    assert bootstrap_share([0.5], [1.0], [0.0]).low is None
    # Few of 2000 resamples have no way to go, and their shares would be infinite.
    few = bootstrap_share([1.0] * 8, [0.0] * 8, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert (few.value, few.low) == (4.0, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([1.0], [1.0, 2.0], [3.0, 4.0]), "got 1, 2 and 2"),
        (([], [], []), "got 0, 0 and 0"),
        (([1.0, 3.0], [1.0, 2.0], [2.0, 1.0]), "start and end both have the mean 1.5"),
    ],
)
def test_values_without_a_share_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        bootstrap_share(*given)
