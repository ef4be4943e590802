"""The share of a circuit in late layers, by hand and on activations that only grow with depth."""

import math

import pytest
import torch
from kept import kept, noise

from cna_lens import InputError, Selection, localization

# Four layers of two neurons; the contrasts are 1, 2 | 3, -4 | 5, 0 | 0, 6.
WIDTHS = (2, 2, 2, 2)
POSITIVE = [[1.0, 2.0, 3.0, -4.0, 5.0, 7.0, 0.0, 6.0]] * 2
NEGATIVE = [[0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0]] * 2


def shares(found, *, scaled):
    return {share.region: share for share in found.shares if share.scaled is scaled}


def test_shares_are_counted_by_hand():
    found = localization(kept(POSITIVE, WIDTHS), kept(NEGATIVE, WIDTHS), Selection(k=4))
    # 6, 5, -4, 3: layers 3, 2, 1, 1.
    raw = shares(found, scaled=False)
    assert [(share.n_layers, share.share.value) for share in raw.values()] == [
        (3, 1.0),
        (1, 0.25),
        (1, 0.25),
    ]
    assert [share.of_candidates for share in raw.values()] == [0.75, 0.25, 0.25]
    # All prompts of a side are alike, so that every resample is.
    assert all(share.share.low == share.share.high == share.share.value for share in raw.values())
    # Root mean squares over four rows and two neurons: half of the positive rows' squares, and
    # neuron 5 is 7 on all rows.
    expected = [(1 + 4) / 4, (9 + 16) / 4, (25 + 2 * 49) / 4, 36 / 4]
    assert found.layer_scale.tolist() == pytest.approx([math.sqrt(s) for s in expected])
    # 2/1.12, 4/2.5, 6/3 and 3/2.5 come before 5/5.5 and 1/1.12.
    assert [tuple(neuron) for neuron in found.scaled_circuit] == [(3, 1), (0, 1), (1, 1), (1, 0)]
    scaled = shares(found, scaled=True)
    assert [share.share.value for share in scaled.values()] == [0.75, 0.25, 0.25]


def test_the_scale_by_deviations_leaves_each_neurons_mean_out():
    found = localization(
        kept(POSITIVE, WIDTHS), kept(NEGATIVE, WIDTHS), Selection(k=4), scale="std"
    )
    # A neuron that is x on half of the prompts and 0 on the others deviates by x / 2.
    expected = [5 / 8, 25 / 8, 25 / 8, 36 / 8]
    assert found.layer_scale.tolist() == pytest.approx([math.sqrt(s) for s in expected])


def test_activations_that_grow_with_depth_give_a_late_raw_share_and_no_late_scaled_share():
    growth = torch.repeat_interleave(1.5 ** torch.arange(20), 50)
    positive, negative = (noise(30, 1000, seed) * growth for seed in (1, 2))
    widths = (50,) * 20
    found = localization(
        kept(positive, widths), kept(negative, widths), Selection(k=50), n_permutations=100
    )
    raw, scaled = (shares(found, scaled=scaled)["last quarter"] for scaled in (False, True))
    assert raw.n_layers == 5
    assert raw.share.value > 0.95
    assert raw.share.low > 0.9
    # Shuffled labels give circuits as late: lateness says nothing about the labels.
    assert raw.shuffled.value == pytest.approx(raw.share.value, abs=0.05)
    assert scaled.share.value == pytest.approx(0.25, abs=0.15)
    assert scaled.shuffled.low < 0.25 < scaled.shuffled.high
    assert scaled.of_candidates == 0.25


def test_a_truly_late_circuit_stays_late_after_scaling():
    positive, negative = noise(30, 400, 3), noise(30, 400, 4)
    positive[:, 390:] += 3
    found = localization(
        kept(positive, (100,) * 4),
        kept(negative, (100,) * 4),
        Selection(k=10),
        n_resamples=50,
        n_permutations=50,
    )
    share = shares(found, scaled=True)["last tenth"]
    assert share.share.value == share.share.low == 1
    assert share.shuffled.high < 0.7


def test_layers_of_width_zero_and_silent_layers_are_handled():
    widths = (2, 0, 2)
    positive = [[1.0, 2.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]]
    found = localization(
        kept(positive, widths), kept([[0.0] * 4] * 2, widths), Selection(k=2), n_resamples=20
    )
    assert found.layer_scale.tolist()[1:] == [1.0, 1.0]
    assert shares(found, scaled=True)["last tenth"].share.value == 0


def test_excluded_neurons_do_not_count_as_candidates():
    found = localization(
        kept(POSITIVE, WIDTHS),
        kept(NEGATIVE, WIDTHS),
        Selection(k=2, universal=[(3, 0), (3, 1), (0, 0), (0, 1)]),
        n_resamples=5,
    )
    assert shares(found, scaled=False)["last quarter"].of_candidates == 0
    assert {neuron.layer for neuron in found.circuit} <= {1, 2}


def test_the_record_and_the_frame_hold_every_share(tmp_path):
    found = localization(
        kept(POSITIVE, WIDTHS), kept(NEGATIVE, WIDTHS), Selection(k=4), n_resamples=5, seed=3
    )
    frame = found.to_frame()
    assert len(frame) == 6
    assert list(frame["share"]) == [share.share.value for share in found.shares]
    assert list(frame["shuffled_high"]) == [share.shuffled.high for share in found.shares]
    assert (found.record()["seed"], found.record()["n_resamples"]) == (3, 5)
    found.save(tmp_path / "localization.json")
    assert '"region": "last tenth"' in (tmp_path / "localization.json").read_text()


def test_invalid_settings_are_refused(without_type_checks):
    sides = kept(POSITIVE, WIDTHS), kept(NEGATIVE, WIDTHS)
    with pytest.raises(InputError, match="scale is 'norm'"):
        localization(*sides, Selection(k=1), scale="norm")
    with pytest.raises(InputError, match="n_permutations is 0"):
        localization(*sides, Selection(k=1), n_permutations=0)
    with pytest.raises(InputError, match="n_resamples is 0"):
        localization(*sides, Selection(k=1), n_resamples=0)


@pytest.mark.usefixtures("without_type_checks")
def test_a_count_that_is_not_a_whole_number_is_refused():
    sides = kept(POSITIVE, WIDTHS), kept(NEGATIVE, WIDTHS)
    with pytest.raises(InputError, match=r"n_resamples is 80\.0, expected a whole number"):
        localization(*sides, Selection(k=1), n_resamples=80.0)
