"""Each check on small tensors, against values by hand; its p-values where nothing changed."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from canary_models import by_hand, measurement, reference
from scipy.stats import kstest

from cna_lens.audit.checks.checks import (
    direction,
    neurons,
    over_refusal,
    readout,
    refusals,
    separation,
    shift,
    stream_additions,
)
from cna_lens.audit.checks.null_spread import spread
from cna_lens.audit.checks.signals import (
    deviations,
    lost_deviations,
    movement,
    refusal_gap,
    weight_energy,
)
from cna_lens.audit.checks.specificity import bonferroni, excess, label_test, sign_test
from cna_lens.audit.measuring.probes import Probes, common_direction
from cna_lens.audit.measuring.reference import Axes
from cna_lens.audit.measuring.weights import TensorRecord
from cna_lens.results import Layout


def test_refusals_is_the_loss_of_harmful_canaries_beyond_that_of_benign_ones():
    before = reference(by_hand())
    # The gap is 8 nats. Harmful canaries lose 3 and 5 nats, on average 4; benign ones lose 0 and 2,
    # on average 1. The statistic is (4 - 1) / 8.
    now = by_hand(log_odds=[2.0, -2.0, -4.0, -6.0])
    assert refusals(before, now).statistic == pytest.approx(3 / 8)
    assert refusals(before, by_hand()).statistic == 0
    # The kinds also come closer if benign canaries are refused, but then no refusal is lost. Of the
    # 5 nats by which the gap shrinks, harmful canaries lose 1.
    assert refusals(before, by_hand(log_odds=[5.0, 1.0, 0.0, 0.0])).statistic == pytest.approx(
        1 / 8
    )
    # If all canaries lose the same, no refusal is lost.
    assert refusals(before, by_hand(log_odds=[3.0, 1.0, -6.0, -6.0])).statistic == 0


def test_over_refusal_is_the_net_share_of_answered_benign_canaries_that_are_refused():
    # The means are 8 and -3, so that 2.5 is between the kinds: one of two benign canaries is
    # answered.
    before = reference(by_hand(log_odds=[9.0, 7.0, 5.0, -11.0]))

    def found(*log_odds):
        check = over_refusal(before, by_hand(log_odds=list(log_odds)))
        return check.statistic, check.p_value

    assert found(9.0, 7.0, 5.0, 2.6) == (1.0, 0.5)
    # Below the middle nothing is refused, however far the canary moved.
    assert found(9.0, 7.0, 5.0, 2.4) == (0.0, 1.0)
    # What one canary loses counts against what the other gains.
    assert found(9.0, 7.0, -5.0, 4.0) == (0.0, 0.75)
    assert found(9.0, 7.0, -5.0, -11.0) == (-1.0, 1.0)
    # Harmful canaries do not count.
    assert found(99.0, -99.0, 5.0, -11.0) == (0.0, 1.0)
    none = reference(by_hand(log_odds=[5.0, 3.0, -4.0, -4.0]))
    both = over_refusal(none, by_hand(log_odds=[5.0, 3.0, 1.0, 1.0]))
    assert (both.statistic, both.p_value) == (1.0, 0.25)


def test_the_null_spread_is_the_largest_statistic_of_any_sample_of_canaries_of_each_kind():
    before = reference(by_hand())
    # Only the first harmful canary loses: 4 nats. On the given canaries the mean loss is 2 of a gap
    # of 8. If the first is drawn twice, the mean loss is 4 of a gap of 9.
    now = by_hand(log_odds=[1.0, 3.0, -4.0, -4.0])
    assert spread(before, now, n_resamples=0)["refusals"] == pytest.approx(2 / 8)
    assert spread(before, now)["refusals"] == pytest.approx(4 / 9)
    assert spread(before, by_hand())["refusals"] == 0
    # A gain is as far from zero as a loss.
    gained = by_hand(log_odds=[9.0, 3.0, -4.0, -4.0])
    assert spread(before, gained)["refusals"] == pytest.approx(-4 / 9)


def test_lost_separation_is_a_share_of_the_kinds_distance():
    stream = by_hand().stream.clone()
    stream[1, :2, 0] = 0.5
    # The first layer loses nothing, the second three quarters.
    found = separation(reference(by_hand()), by_hand(stream=stream))
    assert found.statistic == pytest.approx(0.375)
    assert found.layers == (1,)


def test_separation_subtracts_half_of_the_movement_of_benign_canaries():
    stream = by_hand().stream.clone()
    # Harmful canaries lose the whole distance. Benign ones move the same way by half of it, so the
    # kinds are closer by .5 of it. Half of the benign movement of .5 is subtracted.
    stream[:, :2, 0] = 0.0
    stream[:, 2:, 0] = -1.0
    found = separation(reference(by_hand()), by_hand(stream=stream))
    assert found.statistic == pytest.approx(0.5 - 0.25)


def test_separation_ignores_changes_across_the_axis():
    stream = by_hand().stream + torch.tensor([0.0, 7.0])
    assert separation(reference(by_hand()), by_hand(stream=stream)).statistic == 0


@pytest.mark.parametrize(
    ("change", "gain"),
    [
        (lambda a: 0 * a, 0.0),
        (lambda a: a / 2, 0.5),
        (lambda a: 0 * a + 3, 0.0),
        (lambda a: 1 - (a - 1), -1.0),
        (lambda a: a + 5, 1.0),
    ],
    ids=["ablated", "halved", "set to a value", "mirrored", "shifted"],
)
def test_a_neurons_gain_is_the_share_of_its_variation_that_is_left(change, gain):
    generator = torch.Generator().manual_seed(0)
    # One layer of 400 neurons: the first is the circuit, and 40 others are the control.
    activations = torch.randn((6, 400), generator=generator)
    nothing = torch.zeros(1, 6, 3)
    make = partial(measurement, mlp=nothing, stream=nothing, log_odds=[0.0] * 6, n_harmful=3)
    before = reference(make(activations), chosen=[0], control=range(10, 50))
    changed = activations.clone()
    changed[:, 0] = change(changed[:, 0])
    found = neurons(before, make(changed))
    expected = min(1.0, abs(1 - gain))
    # The layer's mean is over the 41 neurons that are compared.
    assert found.statistic == pytest.approx(expected * 40 / 41, abs=1e-5)
    assert [n for n, _ in found.neurons] == ([before.layout.neuron(0)] if expected else [])
    assert all(value == pytest.approx(gain, abs=1e-5) for _, value in found.neurons)


def test_a_silent_neuron_has_not_changed():
    activations = torch.zeros(4, 4)
    before = reference(by_hand(neurons=activations))
    assert neurons(before, by_hand(neurons=activations)).statistic == 0


def test_axes_put_the_means_one_apart_and_measure_along_the_difference():
    vectors = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0]] * 3])
    axes = Axes.between(vectors, n_harmful=2)
    assert axes.lengths.tolist() == [5.0, 0.0]
    assert torch.allclose(axes.directions[0], torch.tensor([0.6, 0.8]))
    # The kinds do not differ in the second layer, so it has no axis.
    assert torch.allclose(axes.places, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    other = torch.tensor([[[6.0, 8.0]] * 3, [[9.0, 9.0]] * 3])
    assert torch.allclose(axes.of(other), torch.tensor([[2.0] * 3, [0.0] * 3]))


def test_movement_is_the_root_mean_square_of_both_changes():
    stream = by_hand().stream.clone()
    # Each canary moves by the kinds' distance of 2, and its log-odds by the gap of 8.
    stream[:, :, 0] += 2
    now = by_hand(stream=stream, log_odds=[13.0, 11.0, 4.0, 4.0])
    assert movement(reference(by_hand()), now) == pytest.approx(1.0)
    assert movement(reference(by_hand()), by_hand()) == 0


def test_excess_is_the_mean_beyond_each_layers_mean():
    changes = torch.tensor([1.0, 0.0, 0.5, 0.2, 0.4, 9.0])
    layers = torch.tensor([0, 0, 0, 1, 1, 1])
    compared = torch.tensor([False, True, True, False, True, False])
    # Layer 0: 1, against the mean .5 of (1, 0, .5). Layer 1: .2, against the mean .3 of (.2, .4).
    # The last neuron is neither chosen nor compared.
    statistic, _ = excess(changes, torch.tensor([0, 3]), compared, layers)
    assert statistic == pytest.approx((0.5 - 0.1) / 2)


def test_excess_has_the_variance_of_samples_without_replacement():
    # One of two neurons is chosen, so the excess is +1/2 or -1/2, each half the time. Its standard
    # deviation is 1/2, and z = 1.
    _, p_value = excess(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0]),
        torch.tensor([True, True]),
        torch.tensor([0, 0]),
    )
    assert p_value == pytest.approx(0.158655, abs=1e-5)
    # If all neurons of a layer are chosen, chance has no part in it.
    _, certain = excess(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0, 1]),
        torch.tensor([True, True]),
        torch.tensor([0, 0]),
    )
    assert certain == 1


def uniform(p_values):
    return kstest(p_values, "uniform").pvalue


def test_p_values_of_labels_are_uniform_where_labels_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    # Losses are skewed, so these are too.
    found = [label_test(torch.randn(24, generator=generator).exp(), 10) for _ in range(60)]
    assert uniform(found) > 0.01


def test_p_values_of_signs_are_uniform_where_both_sides_are_as_likely():
    generator = torch.Generator().manual_seed(1)
    found = [sign_test(torch.randn(24, generator=generator) ** 3) for _ in range(60)]
    assert uniform(found) > 0.01


def test_p_values_of_an_excess_are_uniform_for_a_random_sample_of_each_layer():
    generator = torch.Generator().manual_seed(2)
    layers = torch.arange(4).repeat_interleave(200)
    # Layers differ, as in real models. Without each layer's own mean this would not be uniform.
    changes = torch.rand(800, generator=generator) + layers
    every = torch.ones(800, dtype=torch.bool)
    found: list[float] = []
    for _ in range(300):
        chosen = torch.cat(
            [200 * layer + torch.randperm(200, generator=generator)[:30] for layer in range(1, 4)]
        )
        found.append(excess(changes, chosen, every, layers)[1])
    assert uniform(found) > 0.01


def test_p_values_are_small_for_a_change_of_one_kind():
    losses = torch.tensor([1.0] * 10 + [0.0] * 10) + torch.linspace(0, 0.1, 20)
    assert label_test(losses, 10) < 0.001
    assert label_test(-losses, 10) > 0.99
    assert sign_test(losses + 1) < 0.001
    assert sign_test(torch.zeros(8)) == label_test(torch.ones(8), 4) == 1


def test_bonferroni_multiplies_by_the_number_of_p_values():
    assert bonferroni([0.02, 0.5, 0.9]) == pytest.approx(0.06)
    assert bonferroni([0.6, 0.7]) == 1


def test_deviations_are_the_distance_in_pooled_standard_deviations():
    places = torch.tensor([[3.0, 5.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    # The means are 4 and 2, the variances 2 and 8.
    assert deviations(places, 2).tolist() == pytest.approx([2 / np.sqrt(5), 0.0])


def test_published_signals_are_shares_of_the_values_before():
    stream = by_hand().stream + torch.tensor([[[1.0, 0], [-1, 0], [1, 0], [-1, 0]]])
    before = reference(by_hand(stream=stream))
    closer = stream.clone()
    closer[:, :2, 0] -= 1  # half of the distance is lost, the spread stays
    now = by_hand(stream=closer, log_odds=[1.0, 1.0, -1.0, -1.0])
    assert lost_deviations(before, now) == pytest.approx(0.5)
    assert refusal_gap(before, now) == pytest.approx(6 / 8)


def test_weight_energy_is_the_mean_of_the_logarithms_of_quotients():
    def tensors(*norms):
        return [TensorRecord(str(i), "float32", (1,), "", norm) for i, norm in enumerate(norms)]

    half = weight_energy(tensors(1.0, 2.0), tensors(1.0, 1.0))
    assert half == pytest.approx(np.log(4) / 2)
    assert weight_energy(tensors(1.0), tensors(1.0)) == weight_energy([], []) == 0


def test_layers_without_neurons_are_allowed():
    layout = Layout((2, 0))
    nothing = torch.zeros(2, 4, 3)
    found = measurement(torch.rand(4, 2), nothing, nothing, [0.0] * 4, 2, layout)
    assert neurons(reference(found), found).statistic == 0


def test_one_missing_direction_in_all_layers_differs_from_one_in_each_layer():
    generator = torch.Generator().manual_seed(0)
    amounts = torch.randn((6, 20, 1), generator=generator)
    one = torch.randn(5, generator=generator)
    of_each = torch.randn((6, 1, 5), generator=generator)
    written = torch.ones(6, 20, 5)
    share, chance = common_direction(amounts * one, written)
    assert share == pytest.approx(1)
    assert chance() < 0.001
    share, chance = common_direction(amounts * of_each, written)
    assert share < 0.8
    assert chance() > 0.05
    # Differences as small as rounding errors are no direction.
    share, chance = common_direction(1e-6 * amounts * one, written)
    assert (share, chance()) == (0.0, 1.0)


def test_a_direction_is_not_sought_in_the_first_fifth_of_the_layers():
    generator = torch.Generator().manual_seed(0)
    amounts = torch.randn((5, 20, 1), generator=generator)
    lacking = amounts * torch.randn(5, generator=generator)
    lacking[0] = 10 * amounts[0] * torch.randn(5, generator=generator)
    nothing = torch.zeros(5, 20, 5)
    plain, changed = (
        measurement(torch.zeros(20, 10), each, nothing, [0.0] * 20, n_harmful=10)
        for each in (nothing, lacking)
    )
    probes = Probes(torch.eye(5), torch.zeros(5, 10), torch.zeros(5, 5))
    before = replace(reference(plain), probes=probes, explained=(True,) * 5)
    assert direction(before, changed).statistic == pytest.approx(1)


def of_ten_layers(*, mlp=0.0, stream=0.0):
    """A measurement with these additions; the neurons of a layer write 2 on harmful canaries."""
    written = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).repeat(10, 1, 1)
    neurons = written.transpose(0, 1).reshape(4, 20)
    return measurement(neurons, written + mlp, written.cumsum(0) + stream, [0.0] * 4, n_harmful=2)


@pytest.fixture
def before_ten():
    return replace(reference(of_ten_layers()), readouts=torch.ones(20), explained=(True,) * 10)


@pytest.mark.parametrize("layer", [1, 2, 7])
def test_the_first_fifth_of_the_layers_does_not_count_and_later_ones_keep_their_numbers(
    before_ten, layer
):
    counts = float(layer >= 2)
    layers = (layer,) if counts else ()
    lost = torch.zeros(10, 4, 2)
    # What harmful canaries have written until here, and what the layer itself writes.
    lost[layer, :2, 0] = -2.0 * (layer + 1)
    found = separation(before_ten, of_ten_layers(stream=lost))
    assert (found.statistic, found.layers) == (pytest.approx(counts / 8), layers)
    lost[layer, :2, 0] = -2.0
    found = readout(before_ten, of_ten_layers(mlp=lost))
    assert (found.statistic, found.layers) == (pytest.approx(counts), layers)
    added = torch.zeros(10, 4, 2)
    added[layer:, :, 0] = 2.0 * (layer + 1)
    found = stream_additions(before_ten, of_ten_layers(stream=added))
    assert (found.statistic, found.layers) == (pytest.approx(counts), layers)


def test_a_shift_is_the_median_over_the_layers_behind_the_first_fifth(before_ten):
    # Shifts of -1, -2 and so on to -8, of which 5 is the upper one in the middle.
    added = torch.zeros(10, 4, 2)
    added[:, :, 0] = -2.0 * (torch.arange(10) - 1).clamp_min(0)[:, None]
    found = shift(before_ten, of_ten_layers(mlp=added))
    assert found.statistic == pytest.approx(5)
    assert found.layers == (5, 6, 7, 8, 9)


def test_p_values_of_a_common_direction_are_uniform_for_layers_with_directions_of_their_own():
    generator = torch.Generator().manual_seed(3)
    found = [
        common_direction(
            torch.randn((4, 10, 1), generator=generator)
            * torch.randn((4, 1, 3), generator=generator),
            torch.ones(4, 10, 3),
        )[1]()
        for _ in range(60)
    ]
    assert uniform(found) > 0.01
