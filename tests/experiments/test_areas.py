"""experiments.shared.areas: intervals against slow definitions, and their coverage."""

import math
import random
from statistics import variance

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from cna_lens import Rate, wilson
from experiments.shared.areas import area_with_interval, balanced_accuracy, delong_variance
from experiments.shared.detection import auroc


def test_delongs_variance_by_hand():
    # Of the benign scores, 4 exceeds both, 2 one, 3 both; of the tampered ones, 3 of 3 exceed 1,
    # and 2 of 3 exceed 2.5.
    expected = variance([1, 1 / 2, 1]) / 3 + variance([1, 2 / 3]) / 2
    assert expected == pytest.approx(1 / 18)
    assert delong_variance([4.0, 2.0, 3.0], [1.0, 2.5]) == pytest.approx(expected)


def test_delongs_variance_is_that_of_the_shares_counted_one_by_one():
    rng = random.Random(0)
    tampered = [rng.randrange(8) for _ in range(20)]
    benign = [rng.randrange(6) for _ in range(30)]

    def ordered(t, b):
        return 1.0 if t > b else 0.5 if t == b else 0.0

    below = [sum(ordered(t, b) for b in benign) / 30 for t in tampered]
    above = [sum(ordered(t, b) for t in tampered) / 20 for b in benign]
    expected = variance(below) / 20 + variance(above) / 30
    assert delong_variance(tampered, benign) == pytest.approx(expected)


def test_delongs_interval_is_normal_for_the_logit():
    rng = random.Random(0)
    tampered = [rng.gauss(1, 1) for _ in range(60)]
    benign = [rng.gauss(0, 1) for _ in range(50)]
    found = area_with_interval(tampered, benign)
    area = auroc(tampered, benign)
    error = 1.959964 * math.sqrt(delong_variance(tampered, benign)) / (area * (1 - area))
    odds = math.log(area / (1 - area))
    assert found.value == pytest.approx(area)
    assert math.log(found.low / (1 - found.low)) == pytest.approx(odds - error, abs=1e-5)
    assert math.log(found.high / (1 - found.high)) == pytest.approx(odds + error, abs=1e-5)


def test_the_area_of_repetitions_is_the_mean_of_their_areas():
    rng = random.Random(1)
    tampered = [[rng.randrange(8) for _ in range(6)] for _ in range(5)]
    benign = [[rng.randrange(6) for _ in range(7)] for _ in range(5)]
    areas = [auroc(t, b) for t, b in zip(tampered, benign, strict=True)]
    found = area_with_interval(tampered, benign)
    assert found.value == pytest.approx(sum(areas) / 5)
    assert found.n == 13
    assert area_with_interval(tampered[:1] * 3, benign[:1] * 3) == area_with_interval(
        tampered[0], benign[0]
    )
    with pytest.raises(ValueError, match="both sides"):
        area_with_interval([], benign[0])


def test_an_interval_does_not_collapse_where_the_sides_do_not_overlap():
    high, low = [10.0 + i for i in range(30)], [float(i) / 10 for i in range(40)]
    apart = area_with_interval(high, low)
    # Of 30 disjoint pairs all are ordered: a probability of 2.5 % where the area is .025^(1/30).
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert apart.low == pytest.approx(0.025 ** (1 / 30))
    turned = area_with_interval(low, high)
    assert (turned.value, turned.low) == (0.0, 0.0)
    assert turned.high == pytest.approx(1 - 0.025 ** (1 / 30))
    tied = area_with_interval([1.0] * 30, [1.0] * 40)
    exact = binomtest(15, 30).proportion_ci(method="exact")
    assert (tied.value, tied.low, tied.high) == pytest.approx((0.5, exact.low, exact.high))
    single = area_with_interval([1.0], [0.0, 0.5])
    assert (single.low, single.high) == pytest.approx((0.025, 1.0))


def test_one_pair_out_of_order_is_no_better_evidence_than_none():
    high, low = [10.0 + i for i in range(30)], [float(i) / 10 for i in range(40)]
    perfect = area_with_interval(high, low)
    spoiled = area_with_interval([3.85, *high[1:]], low)
    assert spoiled.value < 1
    assert spoiled.low <= perfect.low
    turned = area_with_interval(low, [3.85, *high[1:]])
    assert turned.value > 0
    assert turned.high >= area_with_interval(low, high).high


@pytest.mark.parametrize("apart", [0.5, 1.5, 2.5, 3.5])
def test_intervals_of_areas_cover_the_truth_of_normal_scores(apart):
    rng = np.random.default_rng(0)
    truth, covered = float(norm.cdf(apart / math.sqrt(2))), 0
    for _ in range(200):
        found = area_with_interval(rng.normal(apart, 1, 25).tolist(), rng.normal(0, 1, 40).tolist())
        covered += found.low <= truth <= found.high
    # 95 % of 200 are 190; fewer than 182 have a probability of 1 %.
    assert covered >= 182


def test_balanced_accuracy_by_hand():
    found = balanced_accuracy(Rate(0.8, 0.6, 0.9, 20), Rate(0.1, 0.05, 0.3, 30))
    assert found.value == pytest.approx((0.8 + 0.9) / 2)
    assert found.low == pytest.approx(0.85 - math.hypot(0.8 - 0.6, 0.9 - 0.7) / 2)
    assert found.high == pytest.approx(0.85 + math.hypot(0.9 - 0.8, 0.95 - 0.9) / 2)
    assert found.n == 50
    perfect = balanced_accuracy(wilson([True] * 30), wilson([False] * 30))
    missing = 1 - wilson([True] * 30).low
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(1 - missing / math.sqrt(2))


@pytest.mark.parametrize(("p", "alarms"), [(0.9, 0.05), (0.98, 0.01), (0.7, 0.1)])
def test_intervals_of_balanced_accuracies_cover_the_truth_of_every_outcome(p, alarms):
    of_attacks = [wilson([True] * k + [False] * (30 - k)) for k in range(31)]
    of_benign = [wilson([True] * k + [False] * (40 - k)) for k in range(41)]
    chances = np.outer(binom.pmf(range(31), 30, p), binom.pmf(range(41), 40, alarms))
    truth, too_high, covered = (p + 1 - alarms) / 2, 0.0, 0.0
    for (i, j), chance in np.ndenumerate(chances):
        found = balanced_accuracy(of_attacks[i], of_benign[j])
        covered += chance * (found.low <= truth <= found.high)
        too_high += chance * (truth < found.low)
    assert 0.92 <= covered <= 0.98
    assert too_high <= 0.025
