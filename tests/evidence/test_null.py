"""Contrasts of shuffled labels, against enumeration by hand and a slow loop."""

import itertools

import pytest
import scipy.stats
import torch
from kept import kept, noise

import cna_lens
from cna_lens import InputError, Selection, null_distribution
from cna_lens.evidence import ActivationSets
from cna_lens.evidence.permutations import count_at_least, label_permutations

POSITIVE = [[9.0, 1.0, 5.0], [8.0, 3.0, 5.0]]
NEGATIVE = [[1.0, 2.0, 5.0], [2.0, 4.0, 5.0]]


def test_values_equal_up_to_rounding_reach_the_threshold():
    found = count_at_least(torch.tensor([0.3]).double(), torch.tensor([0.3, 0.31]).double() + 1e-12)
    assert found.tolist() == [1, 0]


def test_all_ways_to_label_four_prompts_are_enumerated():
    null = null_distribution(kept(POSITIVE), kept(NEGATIVE), Selection(k=1))
    contrasts = {1: [], 0: []}
    rows = torch.tensor([*POSITIVE, *NEGATIVE])
    for chosen in itertools.combinations(range(4), 2):
        others = [i for i in range(4) if i not in chosen]
        for neuron, found in contrasts.items():
            found.append(float(rows[list(chosen), neuron].mean() - rows[others, neuron].mean()))
    assert sorted(map(abs, contrasts[0])) == [0, 0, 1, 1, 7, 7]
    assert sorted(map(abs, contrasts[1])) == [0, 0, 1, 1, 2, 2]
    assert (null.exact, null.n_permutations) == (True, 6)
    # The true ones are 7 and -1; neuron 2 never changes, however the labels are put.
    assert null.p_value.tolist() == pytest.approx([2 / 6, 4 / 6, 1])
    assert float(null.statistic[2]) == 0
    # Correlations 0.99, 0.45 and 0; of the 18 shuffled ones 2, 6 and 18 reach them.
    assert null.pooled_p_value.tolist() == pytest.approx([2 / 18, 6 / 18, 1])
    assert null.q_value.tolist() == pytest.approx([3 * 2 / 18, 3 / 2 * 6 / 18, 1])
    # The largest of the three is 0.99 twice, neuron 1's 0.89 twice, and neuron 0's 0.14 twice.
    assert null.familywise_p_value.tolist() == pytest.approx([2 / 6, 4 / 6, 1])


def test_swaps_within_pairs_are_enumerated():
    null = null_distribution(
        kept([[3.0], [4.0], [1.0]]), kept([[1.0], [1.0], [2.0]]), Selection(k=1), paired=True
    )
    # Differences 2, 3, -1: sums of the 8 signings are 4, 6, 0, 2 and their negatives.
    assert (null.exact, null.n_permutations) == (True, 8)
    assert null.p_value.tolist() == pytest.approx([4 / 8])
    t = scipy.stats.ttest_rel([3, 4, 1], [1, 1, 2])
    assert null.statistic.tolist() == pytest.approx([t.statistic])


@pytest.mark.parametrize("sign", ["abs", "positive", "negative"])
@pytest.mark.parametrize("paired", [False, True])
def test_p_values_are_those_of_a_slow_loop(sign, paired):
    n, widths, draws = 7, (3, 0, 5), 40
    positive, negative = noise(n, 8, 1), noise(n, 8, 2)
    positive[:, 6] += 2
    sides = kept(positive, widths, shards=2), kept(negative, widths, shards=3)
    excluded = 4
    selection = Selection(k=2, sign=sign, universal=[(2, 1)])
    null = null_distribution(*sides, selection, paired=paired, n_permutations=draws, seed=3)
    assert not null.exact

    def statistics(labels):
        found = []
        for neuron in range(8):
            values = torch.cat([positive, negative])[:, neuron].double()
            if paired:
                ones = [values[i] if labels[i] else values[i + n] for i in range(n)]
                zeros = [values[i + n] if labels[i] else values[i] for i in range(n)]
                test = scipy.stats.ttest_rel(ones, zeros)
            else:
                test = scipy.stats.ttest_ind(values[labels == 1], values[labels == 0])
            found.append(float(test.statistic))
        found = torch.tensor(found, dtype=torch.float64)
        return {"abs": found.abs(), "positive": found, "negative": -found}[sign]

    true = torch.tensor([1.0] * n + [0.0] * n)
    observed = statistics(true)
    labels, _ = label_permutations(ActivationSets(*sides, paired), draws, 3)
    shuffled = torch.stack([statistics(row) for row in labels])
    tested = [neuron for neuron in range(8) if neuron != excluded]
    for neuron in tested:
        own = int((shuffled[:, neuron] >= observed[neuron]).sum())
        pooled = int((shuffled[:, tested] >= observed[neuron]).sum())
        largest = int((shuffled[:, tested].max(1).values >= observed[neuron]).sum())
        assert float(null.p_value[neuron]) == pytest.approx((own + 1) / (draws + 1))
        assert float(null.pooled_p_value[neuron]) == pytest.approx(
            (pooled + 1) / (draws * len(tested) + 1)
        )
        assert float(null.familywise_p_value[neuron]) == pytest.approx((largest + 1) / (draws + 1))
    expected = scipy.stats.false_discovery_control(null.pooled_p_value[tested].numpy())
    torch.testing.assert_close(null.q_value[tested], torch.from_numpy(expected))
    chosen = [null.scores.layout.flat(neuron) for neuron in null.circuit]
    for rate in (0.1, 0.3, 0.5, 0.7):
        found = {neuron for neuron in tested if expected[tested.index(neuron)] <= rate}
        assert set(null.found(rate).nonzero().flatten().tolist()) == found
        assert (null.size(rate), null.found_in_circuit(rate)) == (
            len(found),
            len(found & {*chosen}),
        )
        found = {neuron for neuron in tested if float(null.familywise_p_value[neuron]) <= rate}
        assert set(null.found(rate, "familywise").nonzero().flatten().tolist()) == found
    for values in (null.p_value, null.pooled_p_value, null.q_value, null.familywise_p_value):
        assert bool(values[excluded].isnan())
    t = {"abs": null.statistic.abs(), "positive": null.statistic, "negative": -null.statistic}
    torch.testing.assert_close(t[sign], observed)
    assert list(null.to_frame()["index"]) == [0, 1, 2, 0, 2, 3, 4]


@pytest.mark.parametrize("paired", [False, True])
def test_the_share_by_chance_counts_contrasts_as_strong_as_the_circuits_weakest(paired):
    n = 8
    positive, negative = noise(n, 12, 4) * torch.arange(1, 13), noise(n, 12, 5)
    sides = kept(positive, (5, 7)), kept(negative, (5, 7))
    null = null_distribution(*sides, Selection(k=3), paired=paired, n_permutations=30)
    weakest = abs(null.circuit.scores[-1])
    labels, _ = label_permutations(ActivationSets(*sides, paired), 30, 0)
    rows = torch.cat([positive, negative]).double()
    contrasts = [rows[row == 1].mean(0) - rows[row == 0].mean(0) for row in labels]
    assert null.as_strong.tolist() == [int((each.abs() >= weakest).sum()) for each in contrasts]
    assert int(null.as_strong.sum()) > 0
    assert null.chance_share().value == pytest.approx(float(null.as_strong.double().mean()) / 3)


def test_the_true_labels_among_all_reach_the_whole_circuit():
    null = null_distribution(kept(noise(4, 30, 8)), kept(noise(4, 30, 9)), Selection(k=5))
    assert null.exact
    assert int(null.as_strong.max()) >= 5


def test_p_values_are_uniform_where_labels_mean_nothing():
    null = null_distribution(kept(noise(30, 3000, 10)), kept(noise(30, 3000, 11)), seed=1)
    for values in (null.p_value, null.pooled_p_value):
        assert scipy.stats.kstest(values.numpy(), "uniform").pvalue > 0.01
    assert null.size(0.05) == null.size(0.05, "familywise") == 0


def test_the_error_rate_is_kept_where_labels_mean_nothing():
    found = {"false_discovery": 0, "familywise": 0}
    for seed in range(150):
        null = null_distribution(
            kept(noise(8, 40, 1000 + seed)),
            kept(noise(8, 40, 5000 + seed)),
            Selection(k=1),
            n_permutations=200,
            seed=seed,
        )
        for control in found:
            found[control] += null.size(0.2, control) > 0
    for times in found.values():
        assert scipy.stats.binomtest(times, 150, 0.2).pvalue > 0.001


@pytest.mark.parametrize("paired", [False, True])
def test_planted_neurons_are_found_and_hardly_any_other(paired):
    positive, negative = noise(40, 2000, 12), noise(40, 2000, 13)
    planted = list(range(0, 2000, 100))
    positive[:, planted] += 2
    # An activation a thousand times as large is no more certain.
    positive[:, 1:2000:100] *= 1000
    negative[:, 1:2000:100] *= 1000
    null = null_distribution(
        kept(positive), kept(negative), Selection(k=20), paired=paired, n_permutations=300
    )
    for control in ("false_discovery", "familywise"):
        found = null.found(0.05, control)
        assert bool(found[planted].all())
        assert int(found.sum()) <= 24
    # The contrast prefers what is large: none of the fixed circuit is planted.
    assert null.found_in_circuit() <= 2
    assert null.chance_share().value > 0.5


def test_a_neuron_alone_can_never_be_below_one_over_the_permutations():
    positive = noise(40, 2000, 12)
    positive[:, 0] += 50
    null = null_distribution(kept(positive), kept(noise(40, 2000, 13)), n_permutations=99)
    assert float(null.p_value[0]) == pytest.approx(1 / 100)
    assert float(null.pooled_p_value[0]) == pytest.approx(1 / (99 * 2000 + 1))
    assert null.found(0.02).nonzero().tolist() == [[0]]


def test_a_neuron_that_never_changes_is_as_likely_under_any_labels():
    # In float64 the mean of seven equal numbers need not be that number.
    constant = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
    assert not torch.equal(constant.expand(7, -1).mean(0), constant)
    positive, negative = (
        kept(constant.repeat(n, 1) + torch.eye(n, 50).double(), dtype=torch.float64) for n in (3, 4)
    )
    null = null_distribution(positive, negative, Selection(k=1), n_permutations=20)
    assert bool((null.statistic[4:] == 0).all())
    assert bool((null.p_value[4:] == 1).all())


def test_shufflings_depend_on_the_seed_alone():
    sides = kept(noise(9, 50, 14)), kept(noise(9, 50, 15))
    one, again, other = (
        null_distribution(*sides, Selection(k=2), n_permutations=50, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.p_value, again.p_value)
    assert not torch.equal(one.p_value, other.p_value)


def test_many_neurons_in_pieces_give_the_same_result(monkeypatch):
    sides = kept(noise(6, 40, 16), (25, 15)), kept(noise(6, 40, 17), (25, 15))
    selection = Selection(k=4, layers=[1])
    whole = null_distribution(*sides, selection, n_permutations=50)
    monkeypatch.setattr("cna_lens.evidence.permutations.ENTRIES", 350)
    pieces = null_distribution(*sides, selection, n_permutations=50)
    for name in ("p_value", "pooled_p_value", "q_value", "familywise_p_value", "as_strong"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), equal_nan=True)


def test_activations_on_disk_give_the_same_result(llama, tmp_path):
    prompts = [[5, 6], [7], [8, 9], [4, 4]], [[30], [31, 32], [33], [9, 9, 9]]
    in_memory = [cna_lens.collect(llama, side, keep="all", batch_size=3) for side in prompts]
    on_disk = [
        cna_lens.collect(llama, side, keep="all", folder=tmp_path / str(i), batch_size=3)
        for i, side in enumerate(prompts)
    ]
    one, other = (null_distribution(*sides, Selection(k=3)) for sides in (in_memory, on_disk))
    assert torch.equal(one.p_value, other.p_value)
    assert one.circuit == other.circuit


def test_the_record_is_plain_data_with_the_settings(tmp_path):
    null = null_distribution(kept(POSITIVE), kept(NEGATIVE), Selection(k=1, sign="positive"))
    record = null.record()
    assert (record["k"], record["n_positive"], record["exact"]) == (1, 2, True)
    assert record["size"]["false_discovery"]["0.05"] == {"size": 0, "in_circuit": 0}
    assert record["selection"]["sign"] == "positive"
    null.save(tmp_path / "null.json")
    assert '"n_permutations": 6' in (tmp_path / "null.json").read_text()


@pytest.mark.parametrize(
    ("positive", "negative", "settings", "telling"),
    [
        (POSITIVE[:1], NEGATIVE, {}, "at least 2 positive prompts, there is 1"),
        (POSITIVE, NEGATIVE[:1], {}, "at least 2 negative prompts"),
        (POSITIVE, [*NEGATIVE, [0.0] * 3], {"paired": True}, "there are 2 and 3"),
        (POSITIVE, NEGATIVE, {"n_permutations": 0}, "n_permutations is 0"),
        (POSITIVE, [[1.0, 2.0]] * 3, {}, "use one model"),
    ],
)
def test_sets_that_cannot_be_shuffled_are_refused(positive, negative, settings, telling):
    with pytest.raises(InputError, match=telling):
        null_distribution(kept(positive), kept(negative), Selection(k=1), **settings)


def test_rates_and_controls_that_do_not_exist_are_refused(without_type_checks):
    null = null_distribution(kept(POSITIVE), kept(NEGATIVE), Selection(k=1))
    with pytest.raises(InputError, match="rate is 5"):
        null.size(5)
    with pytest.raises(InputError, match="control is 'none'"):
        null.size(0.05, "none")
